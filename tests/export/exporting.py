"""Models of the zoo with random weights, and random requests, for the tests of exports."""

import numpy as np
from conftest import samples
from named_fields import disturb

from qin_zoo.experiment.prepare import build_model, prepare
from qin_zoo.feature_types import type_of

SAMPLES = samples()


def make(model: str, data, *overrides):
    """A model with weights that tell apart whatever an export could mix up; (prepared, dataset, model)."""
    experiment = SAMPLES[model]
    prepared = prepare(experiment.expid, experiment.config_dir, data=data, overrides=overrides)
    dataset = prepared.open_dataset()
    return prepared, dataset, disturb(build_model(prepared, dataset)).eval()


def random_requests(inputs, items: int, max_len: int, number: int, seed: int = 0, unknown: bool = True):
    """Requests of all shapes: no history, one item, a full one, one too long; one candidate; zeros; unknown items."""
    g = np.random.default_rng(seed)
    for n in range(number):
        length = (0, 1, max_len, max_len + 5)[n] if n < 4 else int(g.integers(0, max_len + 1))
        rows = 1 if n % 5 == 0 else int(g.integers(2, 24))
        highest = items + 3 if unknown and n % 3 == 0 else items
        history, candidates = g.integers(0, highest, length), g.integers(0, highest, rows)
        context = {found["name"]: type_of(found).random(rows, found, g) for found in inputs}
        yield {"history": history, "candidates": candidates, "context": context}


def expected(model, items: dict, request: dict, max_len: int) -> np.ndarray:
    """What the model itself gives; unknown items are padding."""
    from qin_zoo.export.export import trained_scores

    count = len(next(iter(items.values())))
    history = request["history"]
    history = history[(history > 0) & (history < count)]
    candidates = np.where(request["candidates"] < count, request["candidates"], 0)
    return trained_scores(
        model, items, history[max(len(history) - max_len, 0) :], candidates, request["context"], max_len
    )
