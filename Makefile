# make demo: everything set up, sample data made, QIN trained, evaluated, submitted and reported.
# make test: everything set up, the whole test suite.
# Both leave what is already there alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_ARGS ?=

.PHONY: demo test lint clean help

demo: $(READY)
	$(BIN)/qin-zoo demo $(DEMO_ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n auto

lint: $(READY)
	$(BIN)/ruff check .

# Rebuilt when the metadata or the pinned versions change.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "qin-zoo needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Use make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) checkpoints data/sample data/sample_small .pytest_cache .ruff_cache

help:
	@sed -n 's/^# //p' Makefile
