# make demo: everything set up, sample data made, QIN trained, evaluated, submitted and reported.
# make test: everything set up, the tests but for the slow ones.
# make test-all: all tests, as CI runs them.
# make docs: the site, into site/; fails on a warning.
# make guides: every command of the guides in docs/, as it stands there; takes many minutes.
# make mutations: deliberate faults, one at a time, each of which a test must notice; takes about an hour.
# make test-lowest: the small demo with the lowest versions that pyproject.toml allows, in .venv-lowest.
# The first four leave what is already there alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_ARGS ?=
# Hundreds of processes import the same modules: each would compile them anew where nothing compiled may be kept.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto

.PHONY: demo test test-all docs guides mutations test-lowest lint clean help

demo: $(READY)
	$(BIN)/qin-zoo demo $(DEMO_ARGS)

test: $(READY)
	$(PYTEST) -m "not slow"

test-all: $(READY)
	$(PYTEST)

docs: $(READY)
	$(BIN)/python -m mkdocs build --strict --quiet

guides: $(READY)
	QIN_ZOO_GUIDES=1 $(BIN)/python -m pytest tests/test_site.py

mutations: $(READY)
	$(BIN)/python tests/mutations.py

lint: $(READY)
	$(BIN)/ruff check .

# torch stays the pinned one: other versions pull gigabytes of GPU packages.
LOWEST := .venv-lowest
test-lowest:
	$(PYTHON) -m venv --clear $(LOWEST)
	sed -n '/^dependencies/,/^]/s/^ *"\([A-Za-z0-9_-]*\)>=\([0-9.]*\).*/\1==\2/p' pyproject.toml | grep -v '^torch=' > $(LOWEST)/lowest.txt
	grep '^torch=' constraints.txt >> $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $(LOWEST)/lowest.txt --editable .
	$(LOWEST)/bin/qin-zoo demo --rows 20000 --items 500 --data data/sample_small

# Rebuilt when the metadata or the pinned versions change.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "qin-zoo needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Use make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) site checkpoints data/sample data/sample_small .pytest_cache .ruff_cache

help:
	@sed -n 's/^# //p' Makefile
