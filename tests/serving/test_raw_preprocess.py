"""Raw values of requests against FuxiCTR's processors: public datasets whose columns ``preprocess`` or buckets make."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import REPOSITORY
from public_files import write_public
from reference_preprocess import fuxictr_encode

pytest.importorskip("onnxruntime")

from qin_zoo.data import preprocess as of_columns
from qin_zoo.data.dataset import open_feature_map, relocate
from qin_zoo.data.encode import encode_fields
from qin_zoo.errors import DataError, RequestError
from qin_zoo.export.fields import describe_fields
from qin_zoo.export.plain import PlainFieldsModel
from qin_zoo.serving.bundle import CONTEXT
from qin_zoo.serving.fields import FieldRequests
from qin_zoo.serving.preprocess import FUNCTIONS, Made

BLOCKS = {
    name: block
    for file in (REPOSITORY / "dataset_configs").glob("*.yaml")
    for name, block in yaml.safe_load(file.read_text()).items()
}


def drawn_texts(count: int) -> list[str]:
    """Times, dates that there are not, numbers in all spellings, codes, and texts of their characters."""
    g, alphabet = np.random.default_rng(0), list("0123456789" * 3 + "+-. eE_nai")
    texts = ["".join(g.choice(alphabet, int(g.integers(0, 10)))) for _ in range(count)]
    days = g.integers(0, 100, count), g.integers(0, 14, count), g.integers(0, 33, count), g.integers(0, 30, count)
    texts += [f"{y:02d}{m:02d}{d:02d}{h:02d}" for y, m, d, h in zip(*days)]
    texts += [repr(float(x)) for x in g.normal(scale=60, size=count)] + [str(n) for n in g.integers(-9, 120, count)]
    odd = ["1e300", "-1e300", "1e400", "nan", "NaN", "inf", "-inf", "5.", ".5", "+5", "١٢", "14١٠2100", "", "Ü"]
    return [*texts, *odd, "2147483648", "-2147483648.9"]


@pytest.mark.parametrize("name", [name for name in of_columns.FUNCTIONS if name != "copy_from"])
def test_functions_of_texts(name):
    texts, function = drawn_texts(4000), of_columns.FUNCTIONS[name]
    column = pl.DataFrame({"x": [*texts, None]}).select(function.make(pl.col("x"))).to_series().to_list()
    for text, expected in zip([*texts, None], column):
        try:
            found = FUNCTIONS[name].make(text)
        except ValueError:
            found = None
        assert (found, type(found)) == (expected, type(expected)), repr(text)
    assert sum(value is not None for value in column) > 1000


def test_bucketed_numbers():
    """Also where the squared logarithm is next to a whole number."""
    edges = np.exp(np.sqrt(np.arange(1, 900)))
    x = [np.arange(-5, 100_000), edges, np.nextafter(edges, 0), np.nextafter(edges, np.inf), -edges[:400], [2.0, 2.5]]
    numbers = pl.DataFrame({"x": np.concatenate(x)})
    made = numbers.select(of_columns.FUNCTIONS["convert_to_bucket"].make(pl.col("x"))).to_series().to_list()
    assert [FUNCTIONS["convert_to_bucket"].make(value) for value in numbers["x"].to_list()] == made


def test_every_function_of_columns_is_one_of_values():
    assert FUNCTIONS.keys() == of_columns.FUNCTIONS.keys()
    for name, function in FUNCTIONS.items():
        for place in range(50):
            Made({"column": "x", "dtype": function.dtype, "steps": [{"call": name}]}, "y")(function.example(place), "x")


def spoilt(name: str, value: str | None, g) -> str | None:
    """A cell as it may stand in a file, too: missing, negative, with decimals, very large, another word."""
    if value is None or name.lower() in ("label", "click", "hour") or g.random() > 0.15:
        return value
    choices = [] if name == "bd" else [None]  # FuxiCTR fails on a csv file that lacks an age
    if name.startswith("I"):
        choices += ["0", "-1", "-3.9", "2.5", "1e4", "0.4"]
    elif name == "bd":
        choices += ["-4", "0", "1", "95", "96", "33.5", "1e3"]
    elif value.isdigit():
        choices += ["-7", "1e3", "123456789012345678"]
    else:
        choices += ["é^x", "unseen"]
    return choices[g.integers(0, len(choices))]


def public(name: str, folder, spoil=True):
    """A public dataset's files, and its configuration."""
    files = write_public(name, folder / "files", 150)
    params = relocate({**BLOCKS[name], "dataset_id": name, "min_categr_count": 3}, files)
    g = np.random.default_rng(1)
    for split in ("train", "valid", "test"):
        table = pl.read_csv(params[f"{split}_data"], infer_schema=False)
        columns = {c: [spoilt(c, v, g) if spoil else v for v in table[c].to_list()] for c in table.columns}
        pl.DataFrame(columns).write_csv(params[f"{split}_data"])
    return params


def requests_for(params: dict) -> FieldRequests:
    """What an export would read requests with."""
    model = PlainFieldsModel(SimpleNamespace(feature_map=open_feature_map(encode_fields(params))))
    dataset = SimpleNamespace(feature_map=model.model.feature_map)
    return FieldRequests(describe_fields(SimpleNamespace(params=params), dataset, model), 10**6, 10**6)


def texts_of(params: dict, requests: FieldRequests) -> list[dict]:
    table = pl.read_csv(params["test_data"], infer_schema=False)
    return [{name: value or "" for name, value in row.items()} for row in table.select([*requests.rows]).to_dicts()]


def as_written(kind: type, text: str) -> bool:
    try:
        return str(kind(text)) == text
    except ValueError:
        return False


def as_json(row: dict) -> dict:
    """As a client would write it: numbers for texts of numbers, lists for sequences, null for nothing."""

    def typed(name, text):
        if name in ("genre_ids", "artist_name"):
            return text.split("^")
        kinds = [kind for kind in (int, float) if as_written(kind, text)]
        return kinds[0](text) if kinds else text or None

    return {name: typed(name, text) for name, text in row.items()}


PROCESSORS = {"Criteo_x4": "criteo", "Avazu_x4": "avazu", "KKBox_x1": "kkbox"}


@pytest.mark.parametrize(
    "name", ["Criteo_x1", "Criteo_x4", "Avazu_x1", "Avazu_x4", "KKBox_x1", "Frappe_x1", "MovielensLatest_x1"]
)
def test_public_datasets(name, tmp_path):
    """Rows of a raw file as candidates are what data/encode.py makes of the file, and FuxiCTR's own processor."""
    params = public(name, tmp_path)
    requests = requests_for(params)
    rows = texts_of(params, requests)
    encoded = pl.read_parquet(encode_fields(params)["test_data"])
    theirs = fuxictr_encode(params, tmp_path / "theirs", PROCESSORS.get(name, ""))[2]["test"]
    for asked in (rows, [as_json(row) for row in rows]):
        _, columns, count, _ = requests.feed(None, asked)
        assert count == len(rows) == 150
        assert columns.keys() == {CONTEXT + c for c in encoded.columns if c.lower() not in ("label", "click")}
        for key, values in columns.items():
            column = key.removeprefix(CONTEXT)
            expected = np.stack(encoded[column].to_list()).astype(values.dtype)
            np.testing.assert_array_equal(values, expected, column)
            np.testing.assert_array_equal(values, np.stack(list(theirs[column])).astype(values.dtype), column)


GARBAGE = {
    "Criteo_x1": [("I4", "many"), ("C2", "x7"), ("C2", "1_0"), ("I1", True), ("I1", "1e400")],
    "Criteo_x4": [("I4", "many"), ("I4", -1e12), ("I1", [1, 2]), ("C3", {"a": 1}), ("C3", True)],
    "Avazu_x4": [("hour", None), ("hour", ""), ("hour", "2014-10-21"), ("hour", "1410"), ("hour", "14133100")],
    "KKBox_x1": [("bd", "old"), ("bd", " "), ("bd", True), ("isrc", ["US"]), ("genre_ids", 5)],
}


@pytest.mark.parametrize("name", GARBAGE)
def test_values_of_which_nothing_can_be_made(name, tmp_path):
    """A message that names the column and the value; what stands as text in a file is refused there, too."""
    params = public(name, tmp_path, spoil=False)
    requests = requests_for(params)
    rows = texts_of(params, requests)[:3]
    requests.feed(None, rows)
    for column, value in GARBAGE[name]:
        with pytest.raises(RequestError, match=f"candidates: {column}: expected .*, found ") as error:
            requests.feed(None, [rows[0], {**rows[1], column: value}])
        assert repr(value)[:9] in str(error.value) or value == ""
        if value is None or isinstance(value, str):
            table = pl.read_csv(params["test_data"], infer_schema=False)
            spoilt = table.with_columns(pl.Series(column, [value, *table[column].to_list()[1:]], dtype=pl.String))
            changed = {**params, "test_data": str(tmp_path / "garbage.csv")}
            spoilt.write_csv(changed["test_data"])
            with pytest.raises(DataError, match=f"'{column}'"):
                encode_fields(changed)


def test_requests_name_source_columns(tmp_path):
    requests = requests_for(public("Avazu_x4", tmp_path, spoil=False))
    assert {"weekday", "weekend"} & requests.rows.keys() == set()
    assert [field.name for field in requests.rows["hour"]] == ["hour", "weekday", "weekend"]
    row = dict.fromkeys(requests.rows, "a")
    with pytest.raises(RequestError, match="unknown field 'weekday'"):
        requests.feed(None, [{**row, "hour": "14102100", "weekday": 2}])
    sunday, monday = (requests.feed(None, [row | {"hour": hour}])[1] for hour in (14102623, "14102700"))
    for name in ("weekday", "weekend"):
        assert sunday[CONTEXT + name] != monday[CONTEXT + name]
    assert requests.feed(None, **requests.example(3))[2] == 3




def column(name, preprocess=None, dtype="str", kind="categorical", **more):
    return {"name": name, "dtype": dtype, "type": kind, **({"preprocess": preprocess} if preprocess else {}), **more}


HOURS = [f"1410{day}{hour:02d}" for day in range(21, 28) for hour in (0, 5, 23)]
CHAINS = {
    "bucket of a copy": (
        [
            column("b", "convert_to_bucket(a)", dtype="float", fill_na=0),
            column("a", "copy_from(x)", dtype="float", fill_na=0),
            column("x", dtype="float", kind="numeric", normalizer="StandardScaler", fill_na=3),
        ],
        {"x": ["5", "7.5", None, "-1", "100"]},
    ),
    "overwritten later": (
        [
            column("hour", "convert_hour"),
            column("text", "copy_from(hour)"),
            column("weekday", "convert_weekday"),
        ],
        {"hour": HOURS},
    ),
    "overwritten before": (
        [
            column("text", "copy_from(hour)"),
            column("hour", "convert_hour"),
        ],
        {"hour": HOURS},
    ),
    "codes and ages, filled": (
        [
            column("c", "extract_country_code", fill_na="none"),
            column("d", "extract_country_code(e)"),
            column("age", "bucketize_age(bd)"),
        ],
        {"bd": ["7", None, "120", "44.5", "50"],
         "c": ["US1", "GB", None, "D", "no"], "e": ["FR9", None, "I", "FR", "Ünï"]},
    ),
    "copied vectors and sequences": (
        [
            column("v", kind="embedding"),
            column("w", "copy_from(v)", kind="embedding"),
            column("s", kind="sequence", max_len=3, padding="pre"),
            column("t", "copy_from(s)", kind="sequence", max_len=2),
            column("n", dtype="int", kind="sequence", max_len=2, fill_na="1^2"),
        ],
        {"n": ["3^3", None, "2", "1^2^3"], "v": ["1^2", "0.5^-1"], "s": ["a^b^c^d", None, "b", "a^a"]},
    ),
    "buckets": (
        [
            column("q", dtype="float", category_processor="quantile_bucket"),
            column("r", dtype="int", category_processor="hash_bucket", fill_na=7),
            column("u", category_processor="hash_bucket", num_buckets=5),
            column("f", dtype="float", category_processor="hash_bucket"),
            column("h", "convert_hour(hour)", category_processor="hash_bucket"),
        ],
        {"q": ["1", "2", "2", None, "-3.5", "1e3"],
         "r": ["1", "-5", None, "12", "+4", " 30"], "u": ["x", None, "é", "yy"],
         "f": ["1", "0.00002", None, "1e20"], "hour": HOURS},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHAINS)
def test_columns_made_of_made_columns(case, tmp_path):
    """FuxiCTR's order decides: labels, then features from the last to the first."""
    columns, values = CHAINS[case]
    g = np.random.default_rng(2)
    for split in ("train", "test"):
        table = {name: [choices[i] for i in g.integers(0, len(choices), 90)] for name, choices in values.items()}
        pl.DataFrame({"label": g.integers(0, 2, 90), **table}).write_csv(tmp_path / f"{split}.csv")
    params = {
        "dataset_id": "d", "data_root": str(tmp_path / "ours"), "data_format": "csv", "min_categr_count": 2,
        **{f"{split}_data": str(tmp_path / f"{split}.csv") for split in ("train", "test")},
        "feature_cols": [{"active": True, **c} for c in columns], "label_col": {"name": "label", "dtype": "float"},
    }  # fmt: skip
    requests = requests_for(params)
    assert requests.rows.keys() == values.keys()
    encoded = pl.read_parquet(encode_fields(params)["test_data"])
    _, found, *_ = requests.feed(None, texts_of(params, requests))
    assert len(found) == len(columns)
    for key, ids in found.items():
        expected = np.stack(encoded[key.removeprefix(CONTEXT)].to_list()).astype(ids.dtype)
        np.testing.assert_array_equal(ids, expected, key)
        assert len(np.unique(ids)) > 1, key
    assert requests.feed(None, **requests.example(4))[2] == 4
