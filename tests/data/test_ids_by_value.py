"""Raw files whose ids are written in several ways: the same ids, or a word about it; never other ones."""

import json
import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin_zoo.data.dataset import Dataset, count_rows
from qin_zoo.data.encode import encode_fields, encoder_file
from qin_zoo.data.raw_fields import RawField
from qin_zoo.data.raw_files import RawFile, read_vectors
from qin_zoo.data.vocabulary import Vocabulary
from qin_zoo.errors import ConfigError, DataError

SPLITS = {"train": 200, "valid": 60, "test": 50}
COLUMNS = [
    {"name": "user", "dtype": "str", "type": "categorical"},
    {"name": "item", "dtype": "str", "type": "categorical"},
    {"name": "clicks", "dtype": "str", "type": "sequence", "splitter": "^", "max_len": 4, "padding": "pre",
     "share_embedding": "item", "feature_encoder": None},
]  # fmt: skip


def log(seed=0):
    """Split -> columns of whole numbers; every value occurs in the training rows."""
    g = np.random.default_rng(seed)
    out = {}
    for split, n in SPLITS.items():
        out[split] = {
            "user": g.integers(1, 9, n).tolist(),
            "item": g.integers(1, 15, n).tolist(),
            "clicks": [g.integers(1, 15, k).tolist() for k in g.integers(1, 7, n)],
            "label": g.integers(0, 2, n).tolist(),
        }
    return out


def as_text(values, form="{}"):
    return [None if v is None else form.format(v) for v in values]


def written(folder, columns=COLUMNS, kind="csv", change=lambda split, table: table, rows=None, **params):
    """The parameters of a dataset whose tables ``change`` has changed; clicks are texts unless it makes lists."""
    folder.mkdir(exist_ok=True)
    for split, table in (rows or log()).items():
        table = change(split, {**table, "clicks": ["^".join(map(str, c)) for c in table["clicks"]]})
        getattr(pl.DataFrame(table), f"write_{kind}")(folder / f"{split}.{kind}")
    paths = {f"{split}_data": str(folder / f"{split}.{kind}") for split in SPLITS}
    return {
        "dataset_id": "d", "data_root": str(folder / "root"), "data_format": kind, **paths, "feature_cols": columns,
        "label_col": {"name": "label", "dtype": "float"}, **params,
    }  # fmt: skip


def ids(params):
    found = encode_fields(params)
    return {s: pl.read_parquet(found[f"{s}_data"], glob=False).select("user", "item", "clicks").to_dict(as_series=False)
            for s in SPLITS}  # fmt: skip


def only(where, column, form):
    def change(split, table):
        return {**table, column: as_text(table[column], form)} if split in where else table

    return change


def clicks_written(form):
    def change(split, table):
        rows = [c.split("^") for c in table["clicks"]]
        return {**table, "clicks": ["^".join(form.format(int(t)) for t in row) for row in rows]}

    return change


@pytest.mark.parametrize(
    "change",
    [
        only(["train"], "user", "{}.0"),
        only(["valid", "test"], "user", "{}.0"),
        only(["train"], "user", "{:06d}"),
        only(["test"], "item", "{:04d}"),
        only(["train", "valid", "test"], "item", "{}.0"),
        clicks_written("{}.0"),
        clicks_written("{:07d}"),
    ],
)
def test_a_number_is_the_same_id_however_it_is_written(tmp_path, change):
    assert ids(written(tmp_path / "other", change=change)) == ids(written(tmp_path / "plain"))


def test_a_vocabulary_of_padded_numbers_and_a_history_of_plain_ones(tmp_path):
    """FuxiCTR orders words as texts, 10 before 9: other ids, but one for each number, of both columns."""
    plain = ids(written(tmp_path / "plain"))
    other = ids(written(tmp_path / "other", change=only(SPLITS, "item", "{:05d}")))
    new = dict(zip(plain["train"]["item"], other["train"]["item"])) | {0: 0}
    assert len({*new.values()}) == len(new)
    for split in SPLITS:
        assert other[split]["item"] == [new[i] for i in plain[split]["item"]]
        assert other[split]["clicks"] == [[new[i] for i in row] for row in plain[split]["clicks"]]


def test_a_missing_id_makes_floats_of_all_others(tmp_path):
    """What pandas writes of a column with one missing id: 5.0 in that file, 5 in the others."""

    def change(split, table):
        users = as_text(table["user"], "{}.0")
        return {**table, "user": [None, *users[1:]]} if split == "train" else table

    plain, other = ids(written(tmp_path / "plain")), ids(written(tmp_path / "other", change=change))
    assert other["test"]["user"] == plain["test"]["user"]
    assert other["train"]["user"][1:] == plain["train"]["user"][1:]


def test_files_of_one_split_written_differently(tmp_path):
    params = written(tmp_path / "one")
    parts = tmp_path / "parts"
    parts.mkdir()
    train = pl.read_csv(params["train_data"], infer_schema=False)
    train[:90].with_columns(pl.col("user") + ".0", pl.col("item").str.zfill(6)).write_csv(parts / "a.csv")
    train[90:].write_csv(parts / "b.csv")
    assert ids({**params, "train_data": str(parts), "dataset_id": "e"}) == ids(params)


@pytest.mark.parametrize(
    "dtype", [pl.Int64, pl.UInt16, pl.Float64, pl.String, pl.Categorical, pl.Float32, pl.Decimal(12, 2)]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_types_of_parquet_columns(tmp_path, dtype, split):
    def change(name, table):
        frame = pl.DataFrame(table)
        column = frame["item"]
        column = column.cast(pl.String) if dtype == pl.Categorical else column
        return frame.with_columns(column.cast(dtype)).to_dict() if name == split else table

    plain = ids(written(tmp_path / "plain"))
    assert ids(written(tmp_path / "other", kind="parquet", change=change)) == plain


def test_dictionaries_of_numbers_and_lists_of_categories(tmp_path):
    plain = ids(written(tmp_path / "plain"))
    params = written(tmp_path / "other", kind="parquet")
    for split, table in log().items():
        lists = pl.Series(table["clicks"]).cast(pl.List(pl.String)).cast(pl.List(pl.Categorical)).to_arrow()
        columns = {**table, "item": pa.array(table["item"]).dictionary_encode(), "clicks": lists}
        pq.write_table(pa.table(columns), params[f"{split}_data"])
    assert ids(params) == plain


def test_texts_that_a_file_tells_apart_stay_apart():
    values = pl.Series(["05", "5", "7"])
    assert Vocabulary(values).spelled(pl.Series(["5.0", "007"])).rows() == [("5.0", "5")]
    assert Vocabulary(pl.Series(["1.0", "1", "1.5"])).spelled(pl.Series(["2.0", "01"])).is_empty()
    assert Vocabulary(pl.Series(["0", "-3", "a.0"])).spelled(pl.Series(["000", "-3.0", "a", "3", "00.0"])).rows() == [
        ("000", "0"), ("-3.0", "-3"), ("00.0", "0"),
    ]  # fmt: skip


def zips(train, test):
    """The ids of texts that stand in the training rows, where 06, 05 are often; and of those of a test file."""

    def change(split, table):
        values = {"train": train, "test": test}.get(split, ["06"])
        return {**table, "user": [*values, *["05", "06", "06"] * 99][: len(table["user"])]}

    return change


@pytest.mark.parametrize("test", [["06"], ["5"], ["5", "05"]])
def test_a_rare_text_that_is_told_apart_is_unknown_in_every_file(tmp_path, test):
    """Whatever the test file holds: with 05 and 5 the training rows have two values, of which 5 is too rare."""
    columns = [{**COLUMNS[0], "min_categr_count": 2}, *COLUMNS[1:]]
    params = written(tmp_path / "d", columns, change=zips(["5", "06"], test))
    found = ids(params)
    assert found["train"]["user"][:3] == [3, 1, 2]
    assert found["test"]["user"][: len(test)] == [{"06": 1, "05": 2, "5": 3}[value] for value in test]
    again = {**params, "encoder_file": str(encoder_file(encode_fields(params))), "n_rows": 20}
    assert ids(again)["test"]["user"] == found["test"]["user"][:20]


def test_texts_that_a_test_file_tells_apart_stay_apart(tmp_path):
    test = ["5.0", "05", "6", "05"]  # 6 beside 06, 5.0 beside 05: other values
    found = ids(written(tmp_path / "d", change=zips(["06"], test)))
    assert found["test"]["user"][: len(test)] == [3, 2, 3, 2]


def test_versions_keep_their_zeros(tmp_path):
    """Texts beside which there are fractions are no whole numbers: FuxiCTR's words."""

    def change(split, table):
        return {**table, "user": [("5", "5.0", "5.5", "05")[u % 4] for u in table["user"]]}

    params = written(tmp_path / "d", change=change)
    words = json.loads(Path(encode_fields(params)["train_data"]).with_name("feature_vocab.json").read_text())["user"]
    assert set(words) == {"__PAD__", "5", "5.0", "5.5", "05", "__OOV__"}


def test_unknown_values_are_counted_and_said(tmp_path, caplog):
    def change(split, table):
        users = [f"n{u}" if i < 40 and split == "valid" else str(u) for i, u in enumerate(table["user"])]
        return {**table, "user": [None, *users[1:]]}

    params = written(tmp_path / "d", change=change)
    for _ in range(2):  # also when the encoded files are used again
        caplog.clear()
        encode_fields(params)
        said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert len(said) == 1
        assert "valid.csv, column 'user': 39 of 59 values" in said[0]
        assert "unknown to the training rows" in said[0]


def test_a_split_of_unknown_values_only(tmp_path, caplog):
    params = written(tmp_path / "d", change=only(["test"], "user", "u{}"))
    with pytest.raises(DataError, match=r"test\.csv, column 'user': 50 of 50 values .*'u\d'.*active: False"):
        encode_fields(params)
    # values of which each occurs once are expected to be new elsewhere
    rows = log()
    for n, table in enumerate(rows.values()):
        table["user"] = [1000 * n + i for i in range(len(table["user"]))]
    encode_fields(written(tmp_path / "once", rows=rows))


def test_a_vocabulary_that_is_shared_but_never_meets(tmp_path, caplog):
    def change(split, table):
        return {**table, "clicks": ["^".join(f"i{t}" for t in c.split("^")) for c in table["clicks"]]}

    encode_fields(written(tmp_path / "d", change=change))
    assert any("'clicks' shares the vocabulary of 'item'" in m for m in caplog.messages)


def test_words_that_only_spaces_tell_apart_are_said(tmp_path, caplog):
    """As csv files with ', ' or '^ ' between values have them."""
    def spaced(split, table):
        return {**table, "clicks": [c.replace("^", "^ ") for c in table["clicks"]]}

    encode_fields(written(tmp_path / "d", change=spaced))
    (said,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert re.match(r"column 'item' holds ' (\d+)' and '\1', two values to a model; 14 are so", said)

    def a_few(split, table):
        return {**table, "user": [f"{u} " * (split == "test" and n < 5) or str(u) for n, u in enumerate(table["user"])]}

    caplog.clear()
    encode_fields(written(tmp_path / "e", change=a_few))
    (said,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert re.search(r"test\.csv, column 'user': 5 of 50 .* such as '(\d+) '; those have '\1'$", said)


def test_a_splitter_that_no_row_has(tmp_path, caplog):
    def change(split, table):
        return {**table, "clicks": [c.replace("^", "|") for c in table["clicks"]]}

    encode_fields(written(tmp_path / "d", change=change))
    said = next(m for m in caplog.messages if "splitter" in m)
    words = r"column 'clicks': no training row has '\^' \(splitter\): each is one value, such as '\d+(\|\d+){5}'"
    assert re.search(words, said)
    caplog.clear()
    columns = [*COLUMNS[:2], {**COLUMNS[2], "splitter": "|"}]
    encode_fields(written(tmp_path / "e", columns, change=change))
    assert "splitter" not in caplog.text


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        ("user", lambda v: {"a": v}, r"column 'user': expected one value in each row, .* found the type Struct"),
        ("user", lambda v: [v], r"column 'user': expected one value in each row, .* found the type List"),
        ("clicks", lambda v: [{"a": v}], r"column 'clicks': expected .* a list of them for a sequence .* List\(Struct"),
        ("user", lambda v: bytes([255, v]), r"expected UTF-8, found other bytes in a column of bytes \(user\)"),
    ],
)
def test_columns_that_hold_no_values(tmp_path, column, change, words):
    def changed(split, table):
        return {**table, column: [change(v) for v in table[column]]}

    with pytest.raises(DataError, match=words):
        encode_fields(written(tmp_path / "d", kind="parquet", change=changed))


def test_bytes_that_are_text_are_values(tmp_path):
    """As Impala and old Spark write texts."""
    def changed(split, table):
        return {**table, "user": [str(u).encode() for u in table["user"]]}

    assert ids(written(tmp_path / "d", kind="parquet", change=changed)) == ids(written(tmp_path / "plain"))


def vectors(folder, keys):
    folder.mkdir(exist_ok=True)
    values = np.arange(len(keys) * 2, dtype=np.float32).reshape(-1, 2) + 1
    np.savez(folder / "vectors.npz", key=np.array(keys), value=values)
    return [COLUMNS[0], {**COLUMNS[1], "pretrained_emb": str(folder / "vectors.npz")}]


def test_vectors_missing_twice_or_of_another_length(tmp_path, caplog):
    encode_fields(written(tmp_path / "some", vectors(tmp_path / "some", [str(n) for n in range(2, 15)])))
    assert "has vectors of 13 of the 14 values of feature 'item'" in caplog.text
    keys = [str(n) for n in range(1, 15)]
    with pytest.raises(DataError, match="expected one vector of '5', found several"):  # 5.0 is 5
        encode_fields(written(tmp_path / "twice", vectors(tmp_path / "twice", [*keys, "5.0"])))
    columns = vectors(tmp_path / "long", keys)
    columns[1]["pretrain_dim"] = 3
    with pytest.raises(DataError, match=r"vectors of 3 numbers \(pretrain_dim of feature 'item'\), found 2"):
        encode_fields(written(tmp_path / "long", columns))
    file = Path(columns[1]["pretrained_emb"])
    one, columns[1]["pretrain_dim"] = np.ones((15, 2), np.float32), 2
    np.savez(file, key=np.array([*keys, "5.0"]), value=one)  # the same twice
    encode_fields(written(tmp_path / "long", columns))


def test_vectors_of_other_keys(tmp_path):
    columns = vectors(tmp_path, [f"x{i}" for i in range(20)])
    with pytest.raises(DataError, match=r"vectors\.npz: expected vectors of the values of feature 'item'"):
        encode_fields(written(tmp_path / "d", columns))
    columns = vectors(tmp_path, [f"{i}.0" for i in range(20)])
    entry = Path(encode_fields(written(tmp_path / "e", columns))["train_data"]).parent
    words = json.loads((entry / "feature_vocab.json").read_text())["item"]
    keys = np.load(entry / "pretrained_0.npz")["key"].tolist()
    assert set(map(str, range(1, 15))) <= set(keys)
    assert set(keys) <= set(words)


@pytest.mark.parametrize(("dtype", "value"), [("str", 2.0**60), ("int", 2.0**60), ("int", 5.5)])
def test_floats_that_are_no_exact_ids(tmp_path, dtype, value):
    columns = [{**COLUMNS[0], "dtype": dtype}, *COLUMNS[1:]]

    def change(split, table):
        return {**table, "user": [value, *map(float, table["user"][1:])]}

    with pytest.raises(DataError, match=r"column 'user', row 0: expected .*float holds exactly"):
        encode_fields(written(tmp_path / "d", columns, "parquet", change))


@pytest.mark.parametrize(
    ("column", "stored", "dtype", "value", "message"),
    [
        ("user", pl.Float32, "str", 2**24, "an id that a float holds exactly (below 2^24)"),
        ("user", pl.Float32, "int", 2**24, "a whole number that a float holds exactly (below 2^24)"),
        ("user", pl.Float32, "str", 2**24 - 1, ""),
        ("clicks", pl.List(pl.Float32), "str", 2**24, "ids that a float holds exactly (below 2^24)"),
        ("clicks", pl.List(pl.Float64), "str", 2**60, "ids that a float holds exactly (below 2^53)"),
        ("clicks", pl.Array(pl.Float64, 1), "int", 2**60, "whole numbers that a float holds exactly (below 2^53)"),
        ("clicks", pl.List(pl.Float64), "int", 5.5, "whole numbers that a float holds exactly"),
        ("clicks", pl.List(pl.Float64), "str", 2**24, ""),
        ("clicks", pl.List(pl.Float64), "float", 2**60, ""),
    ],
)
def test_floats_of_any_width_and_in_lists(column, stored, dtype, value, message):
    """2^24 + 1 is 2^24 as a float of 32 bits: two users would be one."""
    field = RawField(column, {**next(c for c in COLUMNS if c["name"] == column), "dtype": dtype}, min_count=1)
    nested = column == "clicks"
    frame = pl.DataFrame({column: pl.Series([[1.0], [value]] if nested else [1.0, value], dtype=stored)})
    wrong, expected = field.wrong(frame.schema[column], None)
    assert frame.with_columns(wrong=wrong)["wrong"].to_list() == [False, bool(message)]
    assert message in expected


@pytest.mark.parametrize(("dtype", "message"), [("str", "key: '16777216.0' has been"), ("int", "key"), ("float", "")])
def test_vectors_whose_keys_floats_do_not_hold(tmp_path, dtype, message):
    np.savez(tmp_path / "v.npz", key=np.array([1, 2**24 + 1], np.float32), value=np.ones((2, 3)))
    if not message:
        assert read_vectors(tmp_path / "v.npz", dtype)[0].to_list() == ["1.0", "16777216.0"]
        return
    with pytest.raises(DataError, match=message):
        read_vectors(tmp_path / "v.npz", dtype)


def test_whole_numbers_may_be_written_as_floats(tmp_path):
    columns = [{**COLUMNS[0], "dtype": "int"}, *COLUMNS[1:]]
    plain = ids(written(tmp_path / "plain", columns))
    assert ids(written(tmp_path / "csv", columns, change=only(["train"], "user", "{}.0"))) == plain

    def change(split, table):
        return {**table, "user": list(map(float, table["user"]))}

    assert ids(written(tmp_path / "parquet", columns, "parquet", change)) == plain
    big = [{**COLUMNS[0], "dtype": "int"}, *COLUMNS[1:]]
    with pytest.raises(DataError, match=r"'user', row 0: .*dtype: str"):
        encode_fields(written(tmp_path / "big", big, change=only(["train"], "user", "{}5881234123412341000")))


# ---- histories


def history_columns(**more):
    return [*COLUMNS[:2], {**{k: v for k, v in COLUMNS[2].items() if k != "padding"}, **more}]


def test_the_newest_entries_of_a_history_are_kept_on_either_side(tmp_path, caplog):
    """Without padding FuxiCTR pads at the end and keeps the first entries; of a history these are the oldest."""
    pair = {"target_field": "item", "sequence_field": "clicks"}
    before = ids(written(tmp_path / "pre", **pair))
    for more in ({}, {"padding": "post"}):
        caplog.clear()
        after = ids(written(tmp_path / f"post{len(more)}", history_columns(**more), **pair))
        for split in SPLITS:
            for a, b in zip(before[split]["clicks"], after[split]["clicks"]):
                assert [i for i in a if i] == [i for i in b if i]
        assert any("clicks" in m and "max_len" in m for m in caplog.messages)
    other = ids(written(tmp_path / "no history", history_columns()))  # as FuxiCTR cuts other lists
    long = next(i for i, c in enumerate(log()["test"]["clicks"]) if len(c) > 4)
    assert other["test"]["clicks"][long] != after["test"]["clicks"][long]


def two_lists(drop):
    columns = [*COLUMNS, {**COLUMNS[0], "name": "cate"}]
    columns.append({**COLUMNS[2], "name": "cates", "share_embedding": "cate"})

    def change(split, table):
        rows = [[int(t) % 3 for t in c.split("^")] for c in table["clicks"]]
        rows = [[c for c in row if c or not drop] for row in rows]
        lists = ["^".join(map(str, row)) for row in rows]
        return {**table, "cate": [i % 3 for i in table["item"]], "cates": lists}

    return columns, change


def test_lists_that_are_read_together_have_one_length(tmp_path, caplog):
    columns, change = two_lists(drop=True)
    pair = {"target_field": [("item", "cate")], "sequence_field": [("clicks", "cates")]}
    lists = {"target_field": ["item", "cate"], "sequence_field": ["clicks", "cates"]}
    with pytest.raises(DataError, match=r"train\.csv, row \d+: 'clicks' has \d entries, 'cates' \d"):
        encode_fields(written(tmp_path / "d", columns, change=change, **pair))
    encode_fields(written(tmp_path / "e", columns, change=change, **lists))
    assert any("'clicks'" in m and "'cates'" in m and "two histories" in m for m in caplog.messages)
    caplog.clear()
    columns, change = two_lists(drop=False)
    encode_fields(written(tmp_path / "f", columns, change=change, **pair))
    assert not caplog.messages
    columns[-1] = {**columns[-1], "padding": "post"}
    with pytest.raises(ConfigError, match="expected one padding"):
        encode_fields(written(tmp_path / "g", columns, change=change, **pair))


def test_lists_written_by_python_are_refused(tmp_path):
    def change(split, table):
        return {**table, "clicks": [f"[{', '.join(c.split('^'))}]" for c in table["clicks"]]}

    with pytest.raises(DataError, match=r"column 'clicks', row 0: .*splitter.*no brackets"):
        encode_fields(written(tmp_path / "d", change=change))


# ---- files


def test_a_folder_that_looks_like_a_pattern(tmp_path):
    for name in ("v[12]", "v1", "v*"):
        written(tmp_path / name, rows=log(len(name)))
    plain = ids(written(tmp_path / "v", rows=log(5)))
    for kind in ("csv", "parquet"):
        assert ids(written(tmp_path / "v[12]", kind=kind, rows=log(5))) == plain


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize(("place", "blank"), [(1, ""), (10, ""), (None, ""), (10, "  "), (None, "\t ")])
@pytest.mark.parametrize("label", [True, False])
def test_blank_lines_are_no_rows(tmp_path, ends, place, blank, label):
    params = written(tmp_path / "d")
    plain = ids(params)
    file = Path(params["test_data"])
    lines = [line if label else line.rpartition(",")[0] for line in file.read_text().splitlines()]
    lines.insert(place or len(lines), blank)
    for end in ("", ends):
        file.write_bytes((ends.join(lines) + end).encode())
        assert ids(params) == plain


def cut_lines(params, cut):
    """Cuts fields off lines of the test file: line -> how many stay; -1 is the last, and loses its end."""
    file = Path(params["test_data"])
    lines = file.read_text().splitlines()
    for line, fields in cut.items():
        lines[line] = ",".join(lines[line].split(",")[:fields])
    file.write_text("\n".join(lines) + "\n" * (-1 not in cut))


@pytest.mark.parametrize(("cut", "words"), [({}, ""), ({7: 2, 9: 3}, "2 lines have fewer .* 4 .line 8 has 2")])
def test_lines_with_too_few_fields_are_said(tmp_path, caplog, cut, words):
    order = ("label", "user", "item", "clicks")
    params = written(tmp_path / "d", change=lambda split, table: {name: table[name] for name in order})
    cut_lines(params, cut)
    for _ in range(2):  # also when the encoded files are used again
        caplog.clear()
        found = ids(params)
        said = [m for m in caplog.messages if re.search(rf"test\.csv: .*{words}.*taken as missing", m)]
        assert len(said) == bool(cut)
    assert [found["test"]["clicks"][line - 1] for line in cut] == [[0] * 4, found["test"]["clicks"][8]][: len(cut)]


def test_lines_with_too_few_fields_among_quotes(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('a,b,c\n"1, or\n2",2,3\n"1,2","3,4",5\n')
    assert RawFile(file, "csv", {}).short_lines() is None
    file.write_text(file.read_text() + '"1,2,3\n,4",5\n')
    assert "1 lines have fewer fields than the header, which has 3 (line 5 has 2)" in RawFile(
        file, "csv", {}
    ).short_lines()


def test_a_file_that_was_cut_off(tmp_path):
    params = written(tmp_path / "d")
    cut_lines(params, {-1: 1})
    with pytest.raises(DataError, match=r"test\.csv, line 51: expected 4 fields .* found 1 and the end of the file"):
        encode_fields(params)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b.replace(b"\n", b"\r"), r"carriage return alone: tr '\\r' '\\n' < valid\.csv"),
        (lambda b: b'"' + b * 999, r"expected quotes around whole fields alone.*Close them"),
        (lambda b: b.decode().encode("utf-16"), r"expected UTF-8, .*iconv -f utf-16 "),
    ],
)
def test_a_file_without_a_header_that_can_be_read(tmp_path, change, words):
    params = written(tmp_path / "d")
    file = Path(params["valid_data"])
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=rf"valid\.csv, line 1: .*{words}"):
        encode_fields(params)


def test_columns_separated_by_something_else(tmp_path):
    params = written(tmp_path / "d")
    for split in SPLITS:
        file = Path(params[f"{split}_data"])
        file.write_bytes(file.read_bytes().replace(b",", b";"))
    with pytest.raises(DataError, match=r"found only: user;item;.* other text than ',' .*: sep in that dataset"):
        encode_fields(params)
    encode_fields({**params, "sep": ";"})


def test_rows_are_counted_as_they_are_encoded(tmp_path):
    params = written(tmp_path / "v[12]", sep=None)
    written(tmp_path / "v1", rows={split: {c: v * 3 for c, v in table.items()} for split, table in log().items()})
    assert count_rows(params) == 200
    file, parts = Path(params["train_data"]), tmp_path / "parts"
    parts.mkdir()
    shutil.copy(file, parts / "a.csv")
    shutil.copy(file, parts / "b.csv")
    assert count_rows({**params, "train_data": str(parts)}) == 400
    assert count_rows({**params, "n_rows": 20}) == 20
    upper = file.rename(file.with_suffix(".CSV"))
    named = {**params, "data_format": None, "train_data": str(upper)}
    assert count_rows(named) == 200
    assert len(ids(named)["train"]["user"]) == 200


@pytest.mark.parametrize("kind", ["meta", "categorical"])
def test_a_label_is_no_feature(tmp_path, kind):
    with pytest.raises(ConfigError, match=r"'label' is the label and a feature too.* Take it out of feature_cols"):
        encode_fields(written(tmp_path / "d", [*COLUMNS, {"name": "label", "type": kind}]))


def test_a_row_of_separators_among_blank_lines(tmp_path):
    params = written(tmp_path / "d")
    file = Path(params["test_data"])
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:9], "", *lines[9:], ",,,", ""]))
    with pytest.raises(DataError, match=r"test\.csv, line 53: expected a value"):
        encode_fields(params)


def test_lines_that_cannot_be_read(tmp_path):
    params = written(tmp_path / "d")
    file = Path(params["valid_data"])
    good = file.read_bytes()
    lines = good.split(b"\n")
    file.write_bytes(b"\n".join([*lines[:31], lines[31] + b",9", *lines[32:]]))
    with pytest.raises(DataError, match=r"valid\.csv, line 32 \(row 30\): expected 4 fields .* found 5"):
        encode_fields(params)
    quoted = lines[1].replace(b",", b',"a\n\n,b",', 1).rsplit(b",", 1)[0]
    file.write_bytes(b"\n".join([lines[0], quoted, *lines[2:31], lines[31] + b",9", *lines[32:]]))
    with pytest.raises(DataError, match=r"valid\.csv, line 34 \(row 30\)"):
        encode_fields(params)
    file.write_bytes(good.replace(lines[7], b"\x85" + lines[7], 1))
    with pytest.raises(DataError, match=r"valid\.csv, line 8: expected UTF-8, found the byte 0x85.*iconv"):
        encode_fields(params)
    file.write_bytes(good.replace(b"item", b"user", 1))
    with pytest.raises(DataError, match=r"valid\.csv: expected columns of different names, found 'user' 2 times"):
        encode_fields(params)


def test_a_pipe_is_not_waited_for(tmp_path):
    params = written(tmp_path / "d")
    os.mkfifo(tmp_path / "pipe.csv")
    for file in (tmp_path / "pipe.csv", "/dev/zero"):
        with pytest.raises(DataError, match="expected a file, found something that is none"):
            encode_fields({**params, "train_data": str(file)})


def test_missing_vectors_and_numbers_that_fill_na_fills(tmp_path):
    columns = [
        *COLUMNS,
        {"name": "vec", "dtype": "float", "type": "embedding", "fill_na": 0},
        {"name": "price", "dtype": "float", "type": "numeric", "fill_na": 2},
    ]

    def change(split, table):
        n = len(table["user"])
        vec = [None if i == 0 else "1^nan" if i == 3 else "1^2" for i in range(n)]
        return {**table, "vec": vec, "price": [float("nan") if i == 1 else 1.0 for i in range(n)]}

    found = pl.read_parquet(encode_fields(written(tmp_path / "d", columns, change=change))["train_data"])
    assert found["vec"].to_list()[:4] == [[0, 0], [1, 2], [1, 2], [1, 0]]
    assert found["price"].to_list()[:3] == [1, 2, 1]
    bare = [{k: v for k, v in c.items() if k != "fill_na"} for c in columns]
    with pytest.raises(DataError, match=r"found nan|'vec', row 0: .*found nothing.*set fill_na"):
        encode_fields(written(tmp_path / "e", bare, change=change))


@pytest.mark.parametrize("values", [["a", "b"], [[1], [0]], [{"a": 1}, {"a": 0}]])
def test_absurd_labels(tmp_path, values):
    def change(split, table):
        return {**table, "label": [values[i % 2] for i in range(len(table["label"]))]}

    with pytest.raises(DataError, match=r"column 'label'.*expected .*label"):
        encode_fields(written(tmp_path / "d", kind="parquet", change=change))


def test_a_changed_cache_is_not_believed(tmp_path):
    params = written(tmp_path / "d")
    plain = ids(params)
    encoded = Path(encode_fields(params)["test_data"])
    pl.read_parquet(encoded).with_columns(user=pl.lit(1, pl.Int64)).write_parquet(encoded)
    assert ids(params) == plain


def test_a_read_only_folder_and_a_cache_elsewhere(tmp_path, monkeypatch):
    params = {**written(tmp_path / "d"), "data_root": str(tmp_path / "d")}
    (tmp_path / "d").chmod(0o555)
    monkeypatch.setenv("QIN_ZOO_CACHE", str(tmp_path / "cache"))
    try:
        dataset = Dataset({**params, "batch_size": 10})
        assert dataset.rows("test") == 50
    finally:
        (tmp_path / "d").chmod(0o755)
    assert list((tmp_path / "cache").glob("*/encoded-*/test.parquet"))
