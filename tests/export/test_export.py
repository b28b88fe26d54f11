"""Exports: every model's scores, through ONNX Runtime, are those of the model; what is compressed, updated, refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import REPOSITORY
from exporting import SAMPLES, expected, make, random_requests
from typer.testing import CliRunner

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from qin_zoo.cli import build_app
from qin_zoo.errors import QinZooError, RequestError
from qin_zoo.experiment.prepare import build_model
from qin_zoo.export.export import _sealed, export_model
from qin_zoo.export.item_table import update_items
from qin_zoo.export.request import RequestModel
from qin_zoo.feature_types import type_of
from qin_zoo.models import ZooModel
from qin_zoo.serving import Scorer

VARIANTS = [
    ("QIN", "attention=softmax", "interaction=cross"),
    ("QIN", "attention=mean", "interaction=mlp", "batch_norm=true"),
    ("QIN", "attention=none", "batch_norm=false", "num_row=1"),
    ("QIN", "max_len=0"),
    ("DIN", "din_use_softmax=true", "batch_norm=true"),
    ("DIN", "attention_hidden_units=[8, 4]", "attention_output_activation=sigmoid"),
    ("DIN_CrossAttention", "rms_norm=shared", "if_use_self_attn=true"),
    ("DIN", "simtier_content=item_emb_d128"),
    ("DIN_DCN", "model_structure=stacked", "num_heads=2"),
    ("DIN_DCN", "use_low_rank_mixture=true", "batch_norm=true"),
    ("DIN_SENet", "use_cross_net=true", "use_bilinear=true", "bilinear_type=field_each"),
    *[("FusionNet", f"fusion={name}") for name in ("concat", "sum", "attention", "lmf", "mtfn")],
    ("FusionNet", "fusion=gate", "gate_activation=softmax", "pooling=mean"),
    ("Transformer_DCN", "mask_convention=history", "num_heads=2"),
    ("Transformer_DCN", "mask_convention=history", "first_k_cols=0", "transformer_layers=1"),
    ("Transformer_DCN", "mask_convention=published", "concat_max_pool=false"),
    ("SIM", "published=true"),
    ("SIM", "published=true", "topk=100", "short_seq_len=100"),
    ("TWIN", "published=true", "topk=3"),
    ("TWIN", "topk=100", "short_seq_len=100"),
    ("SDIM", "use_qkvo=false", "l2_norm=true", "num_hashes=2", "published=true"),
    ("ETA", "reuse_hash=false", "use_scale=false", "topk=3"),
    ("Transformer_DCN", "mask_convention=published"),
]


def export(made, out, **options):
    prepared, dataset, model = made
    weights = out.parent / "weights.model"
    model.save_weights(str(weights))
    return export_model(prepared, dataset, model, weights, out, echo=lambda line: None, **options)


def items_of(made) -> dict:
    return made[1].loader("train").items


def worst(scorer, made, items, number, **options) -> float:
    max_len = scorer.manifest["inputs"]["history"]["max_len"]
    count = len(next(iter(items.values())))
    return max(
        np.abs(scorer.score(**request) - expected(made[2], items, request, max_len)).max()
        for request in random_requests(scorer.inputs, count, max_len, number, **options)
    )


@pytest.fixture(scope="module")
def qin(sample, tmp_path_factory):
    """(model as it was made, its export, its weights before)."""
    made = make("QIN", sample)
    before = {name: values.clone() for name, values in made[2].state_dict().items()}
    return made, export(made, tmp_path_factory.mktemp("qin") / "m.onnx"), before


@pytest.mark.parametrize("model", ["QIN", *(pytest.param(m, marks=pytest.mark.slow) for m in SAMPLES if m != "QIN")])
def test_every_model(model, sample, tmp_path, request):
    if model == "QIN":
        made, done, _ = request.getfixturevalue("qin")
    else:
        made = make(model, sample)
        done = export(made, tmp_path / "m.onnx")
    assert done.difference < 1e-5
    assert worst(Scorer(done.path), made, items_of(made), 300) < 1e-5


def test_a_dataset_without_row_features(sample, tmp_path):
    prepared = make("QIN", sample)[0]
    features = [c for c in prepared.params["feature_cols"] if "likes_level" not in c["name"]]
    prepared = replace(prepared, params={**prepared.params, "feature_cols": features})
    dataset = prepared.open_dataset()
    done = export((prepared, dataset, build_model(prepared, dataset).eval()), tmp_path / "m.onnx")
    assert done.manifest["inputs"]["context"] == []
    assert done.difference < 1e-5
    assert Scorer(tmp_path / "m.onnx").score([1, 2], [3, 4]).shape == (2,)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [VARIANTS[i] for i in (3, 6, 9, -1)], ids=" ".join)
def test_variants_that_trace_otherwise(variant, sample, tmp_path):
    made = make(variant[0], sample, *variant[1:])
    export(made, tmp_path / "m.onnx")
    assert worst(Scorer(tmp_path / "m.onnx"), made, items_of(made), 60) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS, ids=" ".join)
def test_folded_variants(variant, sample):
    """Without the exporter, which takes its time."""
    made = make(variant[0], sample, *variant[1:])
    items, max_len = items_of(made), made[0].params["max_len"]
    folded = RequestModel(made[2], items)
    padded = any(getattr(module, "sees_padding", False) for module in folded.modules())
    inputs = folded.describe(items, max_len)["inputs"]
    new = {d["name"]: torch.zeros(1, d.get("max_len") or d["dim"]) for d in inputs["new"]}
    for request in random_requests(inputs["context"], len(items["item_id"]), max_len, 40, unknown=False):
        history = request["history"][request["history"] > 0]
        history = history[max(len(history) - max_len, 0) :]
        missing = (max(max_len, 1) if padded else 1) - len(history)
        history = torch.from_numpy(np.concatenate([np.zeros(max(missing, 0), np.int64), history]))
        context = {name: torch.from_numpy(values) for name, values in request["context"].items()}
        got = folded(history, torch.from_numpy(request["candidates"]), context, new, {})
        np.testing.assert_allclose(got, expected(made[2], items, request, max_len), atol=1e-5)


def test_the_model_stays_as_it_was(qin):
    made, _, before = qin
    after = made[2].state_dict()
    assert all(torch.equal(after[name], values) for name, values in before.items())


def test_num_row_costs_nothing(sample):
    sizes = []
    for rows in (1, 4):
        made = make("QIN", sample, f"num_row={rows}")
        model = RequestModel(made[2], items_of(made))
        sizes.append(sum(t.numel() for t in (*model.parameters(), *model.buffers())))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("table", [pytest.param("fp16", marks=pytest.mark.slow), "int8"])
def test_compressed_tables(table, sample, tmp_path):
    made = make("MLP", sample)
    done = export(made, tmp_path / "m.onnx", table=table)
    plain, compressed = done.auc
    assert compressed == pytest.approx(plain, abs=2e-3)
    assert done.manifest["items"]["table"] == table
    assert done.manifest["items"]["valid_auc"] == {"fp32": plain, table: compressed}
    assert worst(Scorer(tmp_path / "m.onnx"), made, items_of(made), 30) < 0.02


class TestNewItems:
    def write(self, sample, tmp_path, ids):
        frame = pl.read_parquet(sample / "item_info.parquet")
        rows = frame.sample(len(ids), with_replacement=True, seed=1).with_columns(item_id=pl.Series(ids))
        rows.write_parquet(tmp_path / "new.parquet")
        return tmp_path / "new.parquet"

    def test_added_and_replaced(self, sample, tmp_path):
        made, count = make("QIN", sample), 101
        new = self.write(sample, tmp_path, [7, count, count + 1])
        done = export(made, tmp_path / "m.onnx", new_items=new)
        scorer = Scorer(tmp_path / "m.onnx")
        assert scorer.items == count + 2
        assert done.manifest["items"]["learnt"] == count
        catalogue = update_items(items_of(made), made[1].feature_map.features, new, "item_id")
        assert (catalogue.replaced, catalogue.added) == (1, 2)
        assert catalogue.items["item_id"][-3:].tolist() == [count - 1, 0, 0]
        assert not torch.equal(catalogue.items["item_emb_d128"][7], items_of(made)["item_emb_d128"][7])
        assert worst(scorer, made, catalogue.items, 50) < 1e-5

    def test_given_in_the_request(self, sample, tmp_path, qin):
        """An unknown item with its features scores as the same item in the catalogue."""
        (made, exported, _), count = qin, 101
        new = self.write(sample, tmp_path, [count])
        export(made, tmp_path / "new.onnx", new_items=new)
        row = pl.read_parquet(new).row(0, named=True)
        given = {count: {name: row[name] for name in ("item_tags", "item_emb_d128")}}
        context = {"likes_level": 3, "views_level": 4}
        request = {"history": [5, count, 6], "candidates": [count, 2], "context": context}
        old, known = Scorer(exported.path), Scorer(tmp_path / "new.onnx")
        np.testing.assert_allclose(old.score(**request, embeddings=given), known.score(**request), atol=1e-6)
        assert old.stats["unknown_items"] == 0
        assert abs(old.score(**request) - known.score(**request)).max() > 1e-4
        assert old.stats["unknown_items"] == 2

    @pytest.mark.slow
    def test_stored_vectors_travel_beside(self, sample, tmp_path):
        """Seen as content only: of the table, of new items in it, and of those that a request brings."""
        only = "feature_specs=[{name: item_emb_d128, type: meta}]"
        made, count = make("DIN", sample, "simtier_content=item_emb_d128", "simtier_tiers=7", only), 101
        assert "item_emb_d128" not in made[2].item_dims
        new = self.write(sample, tmp_path, [7, count])
        for path, options in (("old", {}), ("new", {"new_items": new})):
            done = export(made, tmp_path / f"{path}.onnx", **options)
            assert {"name": "item_emb_d128", "type": "embedding", "dim": 128} in done.manifest["inputs"]["new"]
        old, known = (Scorer(tmp_path / f"{path}.onnx") for path in ("old", "new"))
        items = update_items(items_of(made), made[1].feature_map.features, new, "item_id").items
        assert worst(old, made, items_of(made), 30) < 1e-5
        assert worst(known, made, items, 30) < 1e-5
        row = pl.read_parquet(new).row(1, named=True)
        given = {count: {name: row[name] for name in ("item_tags", "item_emb_d128")}}
        request = {"history": [5, count, 6], "candidates": [count, 2], "context": {"likes_level": 3, "views_level": 4}}
        np.testing.assert_allclose(old.score(**request, embeddings=given), known.score(**request), atol=1e-6)
        assert abs(old.score(**request) - known.score(**request)).max() > 1e-4

    @pytest.mark.parametrize(
        ("ids", "message"),
        [([101, 103], "item 102 is missing"), ([5, 5], "item 5 has 2 rows"), ([0, 5], "item 0 is padding")],
    )
    def test_refused(self, ids, message, sample, tmp_path):
        made = make("QIN", sample)
        with pytest.raises(QinZooError, match=message):
            update_items(items_of(made), made[1].feature_map.features, self.write(sample, tmp_path, ids), "item_id")


def test_original_ids(sample, tmp_path):
    import shutil

    shutil.copytree(sample, tmp_path / "data")
    pl.DataFrame({"item_id": [1, 2, 3], "original_id": ["a", "b", "c"]}).write_parquet(
        tmp_path / "data" / "ids_item.parquet"
    )
    export(make("QIN", tmp_path / "data"), tmp_path / "m.onnx")
    original, table = Scorer(tmp_path / "m.onnx", ids="original"), Scorer(tmp_path / "m.onnx")
    context = {"likes_level": 1, "views_level": 1}
    got = original.score(["a", "nobody"], ["c", "b"], context)
    np.testing.assert_array_equal(got, table.score([1, 500], [3, 2], context))
    assert original.stats == table.stats == {"requests": 1, "candidates": 2, "unknown_items": 1}
    given = {"new": {"item_tags": [1]}}
    np.testing.assert_array_equal(
        original.score(["a"], ["new"], context, given), table.score([1], [500], context, {500: given["new"]})
    )
    for wrong in ("abc", 5, [None], [True], [1.5]):
        with pytest.raises(RequestError, match="history: expected"):
            original.score(wrong, ["a"], context)
    frame = pl.read_parquet(sample / "item_info.parquet")[5:6]
    frame.with_columns(item_id=pl.lit(101, frame.schema["item_id"]), original_id=pl.lit("new")).write_parquet(
        tmp_path / "new.parquet"
    )
    done = export(make("QIN", tmp_path / "data"), tmp_path / "m.onnx", new_items=tmp_path / "new.parquet")
    assert done.manifest["items"]["original_ids"][-1] == "new"


def test_row_features_of_every_type(tmp_path):
    """Numbers, lists and vectors in the rows, an embedding shared with the items."""
    made = fields_of_every_type(tmp_path)
    export(made, tmp_path / "m.onnx")
    scorer = Scorer(tmp_path / "m.onnx")
    assert {found["type"] for found in scorer.inputs} == {"categorical", "numeric", "sequence", "embedding"}
    assert worst(scorer, made, items_of(made), 100) < 1e-5
    one = {"age": 2, "price": 0.5, "last": 3, "words": [1, 2], "text": [0.1, 0.2, 0.3]}
    each = {name: [value] * 2 for name, value in one.items()}
    np.testing.assert_array_equal(scorer.score([1], [2, 3], one), scorer.score([1], [2, 3], each))


def fields_of_every_type(folder):
    import yaml

    from qin_zoo.experiment.prepare import build_model, prepare

    g = np.random.default_rng(0)
    rows, count = 40, 20
    frame = pl.DataFrame(
        {
            "age": g.integers(0, 5, rows), "price": g.random(rows), "last": g.integers(0, count, rows),
            "words": g.integers(0, 9, (rows, 4)).tolist(), "text": g.normal(size=(rows, 3)).tolist(),
            "item_id": g.integers(1, count, rows), "item_seq": g.integers(0, count, (rows, 6)).tolist(),
            "label": np.arange(rows) % 2,
        }
    )  # fmt: skip
    for split in ("train", "valid"):
        frame.write_parquet(folder / f"{split}.parquet")
    items = {"item_id": np.arange(count), "price_level": g.integers(0, 4, count), "weight": g.random(count)}
    pl.DataFrame(items).write_parquet(folder / "item_info.parquet")
    columns = [
        {"name": "age", "type": "categorical"},
        {"name": "price", "type": "numeric"},
        {"name": "item_id", "type": "categorical", "source": "item"},
        {"name": "last", "type": "categorical", "share_embedding": "item_id"},
        {"name": "words", "type": "sequence", "max_len": 4},
        {"name": "text", "type": "embedding", "pretrain_dim": 3},
        {"name": "price_level", "type": "categorical", "source": "item"},
        {"name": "weight", "type": "numeric", "source": "item"},
    ]
    dataset = {f"{split}_data": str(folder / f"{split}.parquet") for split in ("train", "valid")}
    dataset |= {"item_info": str(folder / "item_info.parquet")}
    dataset["feature_cols"] = [{"dtype": "float", **column} for column in columns]
    dataset["label_col"] = {"name": "label", "dtype": "float"}
    config = folder / "config"
    config.mkdir()
    (config / "dataset_config.yaml").write_text(yaml.safe_dump({"all": dataset}))
    experiment = {"model": "QIN", "dataset_id": "all", "embedding_dim": 4, "max_len": 6}
    (config / "model_config.yaml").write_text(yaml.safe_dump({"every": experiment}))
    prepared = prepare("every", config)
    opened = prepared.open_dataset()
    return prepared, opened, build_model(prepared, opened).eval()


class TestCommand:
    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, sample, tmp_path_factory):
        """A run whose weights are there, as `qin-zoo run` leaves them."""
        folder = tmp_path_factory.mktemp("trained")
        prepared, _, model = make("QIN", sample, f"model_root={folder}")
        model.save_weights(str(prepared.files.checkpoint))
        return ["--data", str(sample), "--set", f"model_root={folder}"]

    @pytest.fixture(scope="class")
    @classmethod
    def written(cls, trained, tmp_path_factory):
        folder = tmp_path_factory.mktemp("out")
        result = CliRunner().invoke(build_app(), ["export", "QIN_sample", str(folder), *trained])
        assert result.exit_code == 0, result.output
        assert "at most" in result.output
        return folder / "QIN_sample.onnx"

    def test_writes_file_and_manifest(self, written, trained):
        manifest = json.loads(written.with_suffix(".onnx.json").read_text())
        assert manifest == Scorer(written).manifest
        assert manifest["run"]["expid"] == "QIN_sample"
        for folder in (written.parent, trained[-1].partition("=")[2]):
            assert str(folder) not in written.with_suffix(".onnx.json").read_text()
        assert str(REPOSITORY).encode() not in written.read_bytes()

    def test_nothing_of_the_run_is_replaced(self, sample, tmp_path):
        """Exported into the folder of the run, as the help offers."""
        options = ["--set", f"model_root={tmp_path}", "--data", str(sample)]
        settings = ["epochs=1", "batch_size=512", "embedding_dim=4", "num_layers=1", "num_row=2", "max_len=8"]
        options += [part for setting in settings for part in ("--set", setting)]
        assert CliRunner().invoke(build_app(), ["run", "QIN_sample", *options]).exit_code == 0
        before = {file.name: file.read_bytes() for file in (tmp_path / "sample").iterdir() if file.is_file()}
        result = CliRunner().invoke(build_app(), ["export", "QIN_sample", str(tmp_path / "sample"), *options])
        assert result.exit_code == 0, result.output
        assert {name: (tmp_path / "sample" / name).read_bytes() for name in before} == before

    def test_the_same_again_is_the_same_file(self, written, trained, tmp_path):
        CliRunner().invoke(build_app(), ["export", "QIN_sample", str(tmp_path / "again.onnx"), *trained])
        assert (tmp_path / "again.onnx").read_bytes() == written.read_bytes()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["QIN_sample", "OUT", "--table", "int9"], "Did you mean 'int8'"),
            (["nothing.json", "OUT"], "nothing.json: no such file. Runs write theirs at the end"),
            (["QIN_sample", "OUT", "--checkpoint", "missing.model"], "No checkpoint"),
        ],
    )
    def test_mistakes(self, arguments, message, trained, tmp_path):
        out = tmp_path / "m.onnx"
        options = trained if arguments[0] == "QIN_sample" else []
        arguments = [str(out) if a == "OUT" else a for a in arguments]
        result = CliRunner().invoke(build_app(), ["export", *arguments, *options])
        assert isinstance(result.exception, QinZooError)
        assert message in str(result.exception)
        assert not out.exists()


def test_no_room_for_checking(tmp_path):
    """In the folder of temporary files, before anything is written where it was asked for."""
    with pytest.raises(QinZooError, match=r"/dev/full: No space left on device\. An export is checked there .*TMPDIR"):
        _sealed(b"", {}, Path("/dev/full"))


class TestModelsOfSomebody:
    """Plugins are checked before anything is written."""

    class Sees(ZooModel):
        """Counts the padding."""

        def __init__(self, feature_map, **kwargs):
            super().__init__(feature_map, **kwargs)
            self.fc = torch.nn.Linear(self.item_dim, 1)

        def logits(self, x):
            return self.fc(x.target) + (~x.mask).float().sum(dim=1, keepdim=True)

    class Decides(Sees):
        """Reads values to decide shapes."""

        def logits(self, x):
            return super().logits(x) if x.mask.any() else self.fc(x.target)

    def made(self, kind, sample):
        prepared, dataset, _ = make("QIN", sample)
        torch.manual_seed(0)
        model = kind(dataset.feature_map, embedding_dim=4).eval()
        return replace(prepared, model_class=kind), dataset, model

    def test_padding_that_is_seen_is_found_out(self, sample, tmp_path):
        made = self.made(self.Sees, sample)
        done = export(made, tmp_path / "m.onnx")
        assert done.manifest["inputs"]["history"]["padded"]
        assert worst(Scorer(tmp_path / "m.onnx"), made, items_of(made), 20) < 1e-5

    def test_what_cannot_be_traced_is_refused(self, sample, tmp_path):
        with pytest.raises(QinZooError, match="cannot be exported: tracing"):
            export(self.made(self.Decides, sample), tmp_path / "m.onnx")
        assert not (tmp_path / "m.onnx").exists()


@torch.no_grad()
@pytest.mark.parametrize("model", ["QIN", pytest.param("DIN", marks=pytest.mark.slow)])
def test_a_program_of_torch_is_called_as_its_page_says(model, sample, tmp_path):
    made = make(model, sample)
    done = export(made, tmp_path / "one.pt2")
    extra = {"manifest.json": ""}
    program = torch.export.load(done.path, extra_files=extra).module()
    assert json.loads(extra["manifest.json"]) == done.manifest == json.loads((tmp_path / "one.pt2.json").read_text())
    inputs, items, max_len = done.manifest["inputs"], items_of(made), made[0].params["max_len"]
    new = {d["name"]: torch.from_numpy(type_of(d).zeros(1, d)) for d in inputs["new"]}
    for request in random_requests(inputs["context"], len(items["item_id"]), max_len, 40, unknown=False):
        history = request["history"][request["history"] > 0]
        history = torch.from_numpy(np.append(0, history)[-max_len:])
        context = {name: torch.from_numpy(values) for name, values in request["context"].items()}
        candidates = torch.from_numpy(request["candidates"])
        got = program(history=history, candidates=candidates, context=context, new=new, beside={})
        np.testing.assert_allclose(got, expected(made[2], items, request, max_len), atol=1e-5)


def test_a_compressed_table_travels_in_a_program(sample, tmp_path):
    done = export(make("QIN", sample), tmp_path / "one.pt2", table="int8")
    assert done.manifest["items"]["table"] == "int8"
    assert torch.int8 in {values.dtype for values in torch.export.load(done.path).state_dict.values()}
