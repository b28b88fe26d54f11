"""What the log says of an item is in the export: requests that leave it out get the scores of those that give it."""

import numpy as np
import polars as pl
import pytest
import torch

from qin_zoo.data.importers import ImportOptions, import_folder

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from qin_zoo.errors import RequestError
from qin_zoo.experiment.prepare import build_model, prepare
from qin_zoo.export.export import export_model
from qin_zoo.serving.scorer import Scorer


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model with large weights on an imported log, and its export."""
    folder = tmp_path_factory.mktemp("levels")
    g = np.random.default_rng(0)
    rows = {
        "user_id:token": g.integers(1, 25, 600),
        "item_id:token": g.zipf(1.5, 600).clip(max=30),
        "rating:float": g.integers(1, 6, 600),
        "timestamp:float": np.sort(g.integers(10**9, 10**9 + 10**6, 600)),
    }
    (folder / "raw").mkdir()
    pl.DataFrame(rows).write_csv(folder / "raw" / "log.inter", separator="\t")
    data = folder / "data"
    import_folder("recbole", folder / "raw", data, ImportOptions(label="rating>=4"))
    settings = {"model_root": str(folder / "out"), "embedding_dim": 4, "max_len": 6}
    prepared = prepare("DIN", data=data, overrides=settings)
    dataset = prepared.open_dataset()
    torch.manual_seed(0)
    model = build_model(prepared, dataset).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.5)
    weights = folder / "w.model"
    model.save_weights(str(weights))
    path = export_model(prepared, dataset, model, weights, folder / "m.onnx", echo=lambda line: None).path
    return Scorer(path), pl.read_parquet(data / "item_levels.parquet")


def test_a_request_need_not_tell(exported):
    scorer, levels = exported
    candidates = np.arange(1, scorer.items)
    told = {name: levels[name].to_numpy()[candidates].tolist() for name in ("likes_level", "views_level")}
    assert len(set(told["views_level"])) > 2
    expected = scorer.score([3, 1, 2], candidates, told)
    for history, items in (([3, 1, 2], candidates.tolist()), (np.array([3, 1, 2]), candidates)):
        np.testing.assert_array_equal(scorer.score(history, items, {}), expected)
    half = scorer.score([3, 1, 2], candidates, {"likes_level": told["likes_level"]})
    np.testing.assert_array_equal(half, expected)
    assert not np.array_equal(scorer.score([3, 1, 2], candidates, {"likes_level": 0, "views_level": 0}), expected)
    beyond = scorer.score([3], [scorer.items + 5, 1], {})
    alone = scorer.score([3], [scorer.items + 5], {"likes_level": 0, "views_level": 0})
    np.testing.assert_allclose(beyond[0], alone[0], rtol=1e-6)


def test_the_best_of_the_catalogue(exported):
    scorer, _ = exported
    scores = scorer.score([3, 1], list(range(1, scorer.items)), {})
    best, found, scored = scorer.top(5, [3, 1])
    assert best == (np.argsort(-scores, kind="stable")[:5] + 1).tolist()
    np.testing.assert_allclose(found, np.sort(scores)[::-1][:5], rtol=1e-6)
    assert scored == scorer.items - 1


def test_examples_and_errors(exported):
    scorer, _ = exported
    assert scorer.requests.example(3)["context"] == {}
    with pytest.raises(RequestError, match="expected ids from 0 to 10"):
        scorer.score([1], [2], {"likes_level": 99})
