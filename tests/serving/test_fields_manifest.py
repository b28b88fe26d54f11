"""What a file says of named fields is not trusted; and what its successor may change."""

import copy
import math
import shutil

import numpy as np
import pytest
from http_service import rewrite
from named_fields import EXAMPLE, MADE, PAIRS, export, made

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from qin_zoo.errors import QinZooError, RequestError
from qin_zoo.serving import Scorer
from qin_zoo.serving.fields import FieldRequests
from qin_zoo.serving.manifest import check


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest")
    done = made(folder, "example", [*MADE, *EXAMPLE], "QIN", **PAIRS, num_layers=1)
    export(done, folder)
    return folder / "m.onnx"


@pytest.fixture(scope="module")
def manifest(exported):
    return Scorer(exported).manifest


def found(manifest, name: str) -> dict:
    history = manifest["inputs"]["history"]
    return next(d for d in (*manifest["inputs"]["context"], *history["fields"]) if d["name"] == name)


def raw(name, key, value):
    return lambda manifest: found(manifest, name)["raw"].__setitem__(key, value)


def history(key, value):
    return lambda manifest: manifest["inputs"]["history"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (history("fields", None), "inputs.history.fields: expected a list, found None"),
        (history("fields", [3]), "inputs.history.fields[0]: expected an object, found 3"),
        (history("pairs", [["clicks", "nobody"]]), "inputs.history.pairs[0]: expected names among clicks, cates"),
        (history("pairs", [["clicks", "cates"], []]), "inputs.history.pairs[1]: expected names of one max_len"),
        (history("pairs", [["clicks", "recent"], ["cates"]]), "inputs.history.pairs[0]: expected names of one max_len"),
        (history("pairs", [["clicks", "cates"]]), "inputs.history.pairs: expected every field of the history"),
        (history("targets", ["clicks"]), "inputs.history.targets: expected names among"),
        (history("targets", None), "inputs.history.targets: expected names among"),
        (lambda m: found(m, "clicks").update(type="numeric"), "inputs.history.fields[0].type: expected sequence"),
        (lambda m: found(m, "clicks").update(name="cates"), "inputs.history.fields: expected each name once"),
        (lambda m: found(m, "clicks").update(padding="left"), "field 'clicks'.padding: expected one of pre, post"),
        (lambda m: found(m, "clicks").update(padding_id=10**6), "field 'clicks'.padding_id: expected a whole number"),
        (lambda m: m.update(vocabularies=[]), "vocabularies: expected an object"),
        (lambda m: m["vocabularies"].update(item=3), "vocabularies.item: expected an object"),
        (lambda m: m["vocabularies"]["item"].update(x=10**6), "vocabularies.item: expected ids from 0 to"),
        (lambda m: m["vocabularies"]["item"].update(x=False), "vocabularies.item: expected ids from 0 to"),
        (lambda m: m["vocabularies"]["hour"].update(noon=1), "vocabularies.hour: expected words of dtype int"),
        (lambda m: found(m, "hour").update(raw=None), "field 'hour'.raw: expected an object"),
        (raw("hour", "dtype", "date"), "field 'hour'.raw.dtype: expected one of int, float, str"),
        (raw("hour", "fill", 0), "field 'hour'.raw.fill: expected a text"),
        (raw("hour", "fill", "noon"), "field 'hour'.raw.fill: expected a number as text"),
        (raw("clicks", "keep", "best"), "field 'clicks'.raw.keep: expected one of newest, first"),
        (raw("hour", "unknown", -1), "field 'hour'.raw.unknown: expected a whole number"),
        (raw("hour", "vocabulary", "hours"), "field 'hour'.raw.vocabulary: expected one of"),
        (lambda m: found(m, "hour")["raw"].pop("vocabulary"), "field 'hour'.raw: expected one of vocabulary"),
        (raw("hour", "buckets", 3), "field 'hour'.raw: expected one of vocabulary, boundaries, buckets"),
        (raw("price", "buckets", 3), "field 'price'.raw: expected none of them"),
        (raw("price", "scale", 0), "field 'price'.raw.scale: expected a number that is not 0"),
        (raw("price", "shift", math.nan), "field 'price'.raw.shift: expected a finite number"),
        (raw("price", "fill", "much"), "field 'price'.raw.fill: expected a number as text"),
        (raw("tags", "splitter", ""), "field 'tags'.raw.splitter: expected a text that is not empty"),
        (raw("tags", "dtype", []), "field 'tags'.raw.dtype: expected one of"),
        (raw("part", "boundaries", [2, 1]), "field 'part'.raw.boundaries: expected finite numbers, ascending"),
        (raw("part", "boundaries", ["a"]), "field 'part'.raw.boundaries: expected finite numbers, ascending"),
        (raw("part", "boundaries", [*range(50)]), "field 'part'.raw.boundaries: expected fewer than its ids"),
        (raw("hashed", "buckets", 10**6), "field 'hashed'.raw.buckets: expected a whole number from 1 to 10"),
        (raw("bucket", "made", "copy"), "field 'bucket'.raw.made: expected an object"),
        (lambda m: found(m, "bucket")["raw"]["made"].update(column=1), "made.column: expected a text"),
        (lambda m: found(m, "bucket")["raw"]["made"].update(dtype="x"), "made.dtype: expected one of"),
        (lambda m: found(m, "bucket")["raw"]["made"].update(steps=["f"]), "made.steps: expected objects"),
        (lambda m: found(m, "bucket")["raw"]["made"].update(steps=[{"fill": []}]), "made.steps: expected objects"),
        (
            lambda m: found(m, "bucket")["raw"]["made"].update(steps=[{"call": "eval"}]),
            "made.steps.call: expected one of convert_hour",
        ),
    ],
)
def test_parts_that_qin_zoo_did_not_write(change, message, exported, tmp_path):
    path = shutil.copy(exported, tmp_path / "m.onnx")
    rewrite(path, change)
    with pytest.raises(QinZooError, match="has a manifest that qin-zoo did not write") as error:
        Scorer(path)
    assert message in str(error.value)


def places(value, at=()):
    """Every place in a JSON value; of a vocabulary or another long object the first few."""
    yield at
    if isinstance(value, (dict, list)):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in list(parts)[:9]:
            yield from places(part, (*at, key))


ODD = [None, True, -1, 0, 7, 1.5, 1e308, 10**30, "", "x", "str", "price", [], {}, [None], [[]], {"x": 1}, math.nan]


def test_any_value_in_any_place(manifest):
    """A refusal, or a model that answers its example or refuses it as a request."""
    known = {key: manifest[key] for key in ("name", "task", "dataset_id", "items", "inputs", "vocabularies")}
    for part in ("inputs", "vocabularies"):
        for place in places(known[part], (part,)):
            for value in ODD:
                changed = copy.deepcopy(known)
                inner = changed
                for step in place[:-1]:
                    inner = inner[step]
                inner[place[-1]] = value
                try:
                    check(changed)
                except ValueError as error:
                    assert "expected" in str(error)  # noqa: PT017
                    continue
                requests = FieldRequests(changed, 1000, 1000)
                try:
                    feed = requests.feed(**{"history": None, **requests.example(2)})
                except RequestError:
                    continue
                assert all(isinstance(array, np.ndarray) for array in (*feed[0].values(), *feed[1].values()))


def successor(exported, change):
    """The reasons for which a model is not replaced by another."""
    from qin_zoo.serving.http.models import broken

    before, after = Scorer(exported), Scorer(exported)
    after.manifest = copy.deepcopy(after.manifest)
    change(after.manifest)
    check(after.manifest)
    after.inputs, after.fields = after.manifest["inputs"]["context"], FieldRequests(after.manifest, 1000, 1000)
    return broken(before, after, "table"), broken(after, before, "table")


def without(name):
    def change(manifest):
        inputs = manifest["inputs"]
        for features in (inputs["context"], inputs["history"]["fields"]):
            features[:] = [described for described in features if described["name"] != name]
        inputs["history"]["pairs"] = [pair for pair in inputs["history"]["pairs"] if name not in pair]

    return change


def larger(*names):
    """A vocabulary that has grown since."""

    def change(manifest):
        for name in names:
            described = found(manifest, name)
            described["vocab_size"] += 5
            described["raw"]["unknown"] += 5
        manifest["vocabularies"][names[0]]["new"] = 1

    return change


class TestContract:

    @pytest.mark.parametrize(
        "change",
        [
            larger("item", "clicks", "recent"),
            lambda m: found(m, "recent").update(max_len=9),
            lambda m: found(m, "recent").update(padding="pre"),
            lambda m: found(m, "recent")["raw"].update(missing="-"),
            lambda m: found(m, "age")["raw"].update(shift=3.0, scale=9.0),
            without("bucket"),
            history("targets", ["cate", "item"]),
        ],
    )
    def test_kept_both_ways(self, change, exported):
        """Tomorrow's vocabularies, lengths and scales; a feature made of a column that is taken anyway."""
        assert successor(exported, change) == ([], [])

    @pytest.mark.parametrize(
        ("change", "reasons", "back"),
        [
            (without("recent"), "history: recent is no longer taken", "history: recent must be given"),
            (without("hour"), "context: hour is no longer taken", "context: hour must be given"),
            (
                lambda m: (m["vocabularies"].update(cate={}), found(m, "cate")["raw"].update(dtype="int"),
                           found(m, "cates")["raw"].update(dtype="int")),
                "context: cate has the dtype int, had str",
                None,
            ),
            (lambda m: found(m, "hour").pop("raw"), "hour has the values ids, had raw values", "had ids"),
            (history("targets", ["item"]), None, "a candidate that is no object is no longer its item"),
        ],
    )  # fmt: skip
    def test_broken(self, change, reasons, back, exported):
        for expected, there in zip((reasons, back), successor(exported, change)):
            assert there == [] if expected is None else any(expected in reason for reason in there)
