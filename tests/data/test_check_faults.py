"""Each kind of fault planted in a clean dataset is found, and nothing else is."""

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qin_zoo.data.check import CODES, check_folder
from qin_zoo.data.check.fix import fix_folder
from qin_zoo.errors import DataError

ITEMS, USERS, LENGTH, DIM = 60, 40, 8, 4


def clean(per_user=False):
    """A dataset without a finding: file -> column -> values. Targets are items 51…60, histories have the others."""
    rng = np.random.default_rng(5)
    files, start = {}, 0
    for name, rows in (("train", 300), ("valid", 100), ("test", 100)):
        i = start + np.arange(rows)
        user, target, label = i % USERS, 51 + i % 10, i % 4 // 3
        history = np.stack([rng.permutation(50)[:LENGTH] + 1 for _ in i])
        history[np.arange(LENGTH) < rng.integers(0, LENGTH - 1, rows)[:, None]] = 0
        if per_user:
            columns = {"user_index": user, "item_index": target, "seq_len": i // USERS + 1, "label": label}
        else:
            columns = {"user_id": user, "item_id": target, "item_seq": history}
            columns |= {"likes_level": target % 11, "views_level": user % 11, "label": label}
        files[name] = {column: values.tolist() for column, values in columns.items()}
        start += rows
    if per_user:
        lists = [rng.integers(1, 51, 20).tolist() for _ in range(USERS)]
        files["user_info"] = {"user_index": list(range(USERS)), "full_item_seq": lists}
    embedding = rng.normal(size=(ITEMS + 1, DIM))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    tags = rng.integers(1, 30, (ITEMS + 1, 3))
    embedding[0], tags[:, 2], tags[0] = 0, 0, 0
    files["item_info"] = {
        "item_index" if per_user else "item_id": list(range(ITEMS + 1)),
        "item_tags": tags.tolist(),
        "item_emb_d4": embedding.tolist(),
    }
    return files


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, columns in files.items():
        table = pa.table(columns)
        if "item_emb_d4" in table.column_names and pa.types.is_list(table.schema.field("item_emb_d4").type):
            place = table.column_names.index("item_emb_d4")
            vectors = table.column(place).cast(pa.list_(pa.float32()))
            table = table.set_column(place, "item_emb_d4", vectors)
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


# the faults: each changes the files in place; those that concern bytes on disk stand further down


def put(name, column, *changes):
    def plant(files):
        for row, value in changes:
            files[name][column][row] = value

    return plant


def drop(name, column):
    return lambda files: files[name].pop(column)


def column(name, column, make):
    def plant(files):
        files[name][column] = [make(v) for v in files[name][column]]

    return plant


def append(name, rows, times=1, **new):
    def plant(files):
        for _ in range(times):
            for row in rows:
                for key, values in files[name].items():
                    values.append(new.get(key, values[row]))

    return plant


def leak(files):
    for key in files["train"]:
        files["valid"][key][:3] = files["train"][key][10:13]


def answers(files):
    """Clicked targets at the end of their histories."""
    rows = files["train"]
    for row, label in enumerate(rows["label"]):
        if label:
            rows["item_seq"][row][-1] = rows["item_id"][row]


def extreme(files):
    rng = np.random.default_rng(1)
    rows = files["train"]
    for i in range(250):
        past = [0, *(rng.permutation(49)[:7] + 1).tolist()]
        values = {"user_id": 3, "item_id": 51 + i % 10, "item_seq": past, "label": i % 4 // 3}
        for key, column in rows.items():
            column.append(values.get(key, 5))


def swap_items(files):
    ids = files["item_info"]["item_id"]
    ids[7], ids[8] = ids[8], ids[7]


def no_padding_row(files):
    for values in files["item_info"].values():
        del values[0]
    files["item_info"]["item_id"].append(ITEMS + 1)  # else the last item would be unknown
    files["item_info"]["item_tags"].append([4, 0, 0])
    files["item_info"]["item_emb_d4"].append([0.8, 0.0, 0.0, 0.6])


def history(change):
    def plant(files):
        files["train"]["item_seq"][4] = change([0, 5, 6, 7, 8, 9, 10, 11])

    return plant


def same_vectors(files):
    vectors = files["item_info"]["item_emb_d4"]
    vectors[5:12] = [vectors[5]] * 7


def newest_only(files):
    files["test"]["item_seq"] = [[0] * (LENGTH - 1) + [1 + i % 50] for i in range(100)]


def new_people(files):
    files["valid"]["user_id"][:2] = [900, 901]


def empty(name):
    def plant(files):
        files[name] = {k: pa.array(v).slice(0, 0) for k, v in files[name].items()}

    return plant


NAN = float("nan")
FAULTS = [
    ("missing-file", "error", lambda files: files.pop("valid")),
    ("missing-file", "error", lambda files: files.pop("item_info")),
    ("missing-file", "warning", lambda files: files.pop("test")),
    ("empty-file", "error", empty("valid")),
    ("missing-column", "error", drop("train", "item_seq")),
    ("missing-column", "error", drop("test", "user_id")),
    ("missing-column", "warning", drop("valid", "views_level")),
    ("missing-column", "error", drop("item_info", "item_id")),
    ("missing-column", "warning", drop("item_info", "item_emb_d4")),
    ("wrong-type", "error", column("train", "item_id", float)),
    ("wrong-type", "error", column("valid", "label", str)),
    ("wrong-type", "error", column("item_info", "item_tags", lambda tags: [str(t) for t in tags])),
    ("history-not-ids", "error", column("valid", "item_seq", str)),
    ("history-not-ids", "error", column("valid", "item_seq", lambda past: [float(i) for i in past])),
    ("null-value", "error", put("train", "item_id", (3, None))),
    ("null-value", "error", put("train", "item_seq", (3, None))),
    ("null-value", "error", put("train", "item_seq", (3, [None, 4, 5, 6, 7, 8, 9, 10]))),
    ("null-value", "error", put("valid", "label", (3, None))),
    ("null-value", "error", put("item_info", "item_emb_d4", (3, None))),
    ("negative-id", "error", put("train", "user_id", (3, -4))),
    ("negative-id", "error", put("test", "item_seq", (3, [1, 2, 3, -4, 5, 6, 7, 8]))),
    ("padding-target", "warning", put("train", "item_id", (3, 0))),
    ("unknown-item", "error", put("train", "item_id", (3, ITEMS + 1))),
    ("unknown-history-item", "error", put("valid", "item_seq", (3, [1, 2, 3, 4, 5, 6, 7, 900]))),
    ("label-not-binary", "error", put("train", "label", (3, 2))),
    ("label-not-binary", "error", put("valid", "label", (4, 0.5))),
    ("test-labels", "error", put("test", "label", (3, None))),
    ("test-labels", "error", put("test", "label", (3, 2))),
    ("label-missing", "error", drop("train", "label")),
    ("label-one-class", "error", column("train", "label", lambda v: 0)),
    ("level-out-of-range", "error", put("train", "likes_level", (3, 11))),
    ("history-length-varies", "note", history(lambda past: past[1:])),
    ("long-history", "note", column("train", "item_seq", lambda past: [0] * 100 + past)),
    ("no-history", "warning", column("valid", "item_seq", lambda past: [0] * LENGTH)),
    ("padding-not-left", "warning", history(lambda past: [*past[1:], 0])),
    ("padding-inside", "warning", history(lambda past: [*past[:4], 0, *past[5:]])),
    ("target-in-history", "warning", answers),
    ("item-order", "error", swap_items),
    ("missing-padding-row", "error", no_padding_row),
    ("duplicate-item", "error", put("item_info", "item_id", (8, 7))),
    ("broken-embedding", "error", put("item_info", "item_emb_d4", (8, [NAN, 0.5, 0.5, 0.5]))),
    ("broken-embedding", "error", put("item_info", "item_emb_d4", (8, [0.5, 0.5, float("inf"), 0.5]))),
    ("embedding-length", "error", put("item_info", "item_emb_d4", (8, [0.7, 0.7]))),
    ("zero-embedding", "warning", put("item_info", "item_emb_d4", (8, [0.0] * DIM))),
    ("padding-row-not-zero", "warning", put("item_info", "item_emb_d4", (0, [1.0] * DIM))),
    ("padding-row-not-zero", "warning", put("item_info", "item_tags", (0, [4, 0, 0]))),
    ("repeated-embedding", "warning", same_vectors),
    ("embedding-norm-outlier", "warning", put("item_info", "item_emb_d4", (8, [40.0, 0.0, 0.0, 0.0]))),
    ("negative-tag", "error", put("item_info", "item_tags", (8, [-3, 0, 0]))),
    ("tag-beyond-vocabulary", "warning", put("item_info", "item_tags", (8, [11_740, 0, 0]))),
    ("tag-padding-inside", "warning", put("item_info", "item_tags", (8, [3, 0, 4]))),
    ("duplicate-rows", "warning", append("train", [4, 9, 30])),
    ("duplicate-rows", "note", append("train", [4])),
    ("contradictory-labels", "warning", append("train", [4], label=1)),
    ("contradictory-labels", "warning", append("train", [4, 5, 8], label=1)),
    ("extreme-user", "warning", extreme),
    ("split-leakage", "warning", leak),
    ("click-rate-shift", "note", column("valid", "label", lambda v: 1 - v)),
    ("history-shift", "warning", newest_only),
    ("cold-items", "note", column("train", "item_id", lambda i: 52 if i == 51 else i)),
    ("cold-users", "note", new_people),
]
PER_USER_FAULTS = [
    ("unknown-user", "error", put("train", "user_index", (3, USERS))),
    ("history-too-short", "error", put("train", "seq_len", (3, 21))),
    ("user-order", "error", put("user_info", "user_index", (3, 9))),
    ("unknown-history-item", "error", put("user_info", "full_item_seq", (3, [4] * 19 + [900]))),
    ("negative-id", "error", put("user_info", "full_item_seq", (3, [4] * 19 + [-1]))),
    ("missing-column", "error", drop("user_info", "full_item_seq")),
    ("missing-column", "error", drop("train", "seq_len")),
    ("history-not-ids", "error", column("user_info", "full_item_seq", str)),
    ("unknown-item", "error", put("train", "item_index", (3, ITEMS + 1))),
    ("missing-file", "error", lambda files: files.pop("item_info")),
]


def names(cases):
    return [f"{i}-{code}" for i, (code, _, _) in enumerate(cases)]


def findings(folder):
    return {(f.code, f.severity) for f in check_folder(folder).findings}


@pytest.mark.parametrize("per_user", [False, True])
def test_clean_data_has_no_finding(tmp_path, per_user):
    assert findings(write(tmp_path / "d", clean(per_user))) == set()


@pytest.mark.parametrize(("code", "severity", "plant"), FAULTS, ids=names(FAULTS))
def test_each_fault_is_found_and_nothing_else(tmp_path, code, severity, plant):
    files = clean()
    plant(files)
    assert findings(write(tmp_path / "d", files)) == {(code, severity)}


@pytest.mark.parametrize(("code", "severity", "plant"), PER_USER_FAULTS, ids=names(PER_USER_FAULTS))
def test_each_fault_of_the_per_user_layout_is_found(tmp_path, code, severity, plant):
    files = clean(per_user=True)
    plant(files)
    assert findings(write(tmp_path / "d", files)) == {(code, severity)}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def overwrite(path):
    raw = bytearray(path.read_bytes())
    raw[60:400] = bytes(340)
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        overwrite,
        lambda p: p.write_bytes(b""),
        lambda p: p.write_text("user_id,item_id\n1,2\n"),
        lambda p: (p.unlink(), p.mkdir()),
    ],
    ids=["truncated", "overwritten", "0 bytes", "csv", "a folder"],
)
@pytest.mark.parametrize("name", ["valid", "item_info"])
def test_unreadable_files_are_found(tmp_path, name, damage):
    folder = write(tmp_path / "d", clean())
    damage(folder / f"{name}.parquet")
    report = check_folder(folder)
    assert {f.code for f in report.findings} == {"unreadable-file"}
    assert "train" in report.statistics.splits  # the others are read all the same


def test_every_code_has_a_planted_fault():
    assert {code for code, _, _ in FAULTS + PER_USER_FAULTS} | {"unreadable-file"} == set(CODES)


def test_a_finding_names_rows_values_and_the_way_out(tmp_path):
    files = clean()
    put("train", "item_id", (3, 77), (100, 78))(files)
    (found,) = check_folder(write(tmp_path / "d", files)).findings
    assert (found.file, found.column, found.count, found.rows) == ("train.parquet", "item_id", 2, (3, 100))
    assert "expected ids below 61" in found.message
    assert "77, 78" in found.message
    assert "--fix" in found.mend


MENDED = [
    "null-value",
    "negative-id",
    "padding-target",
    "unknown-item",
    "unknown-history-item",
    "label-not-binary",
    "level-out-of-range",
    "padding-not-left",
    "padding-inside",
    "broken-embedding",
    "embedding-length",
    "zero-embedding",
    "padding-row-not-zero",
    "negative-tag",
    "tag-beyond-vocabulary",
    "tag-padding-inside",
    "duplicate-rows",
    "contradictory-labels",
    "extreme-user",
]
MENDABLE = [case for case in FAULTS if case[0] in MENDED]


@pytest.mark.parametrize(("code", "severity", "plant"), MENDABLE, ids=names(MENDABLE))
def test_the_mended_copy_passes(tmp_path, code, severity, plant):
    files = clean()
    plant(files)
    folder = write(tmp_path / "d", files)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    mended = fix_folder(check_folder(folder), tmp_path / "out")
    assert mended.changes
    again = {(f.code, f.severity) for f in check_folder(tmp_path / "out").findings}
    assert again <= {("history-length-varies", "note"), ("cold-users", "note")}
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    schemas = [pq.read_schema(f / "item_info.parquet") for f in (folder, tmp_path / "out")]
    assert schemas[0] == schemas[1]
    tests = [pl.read_parquet(f / "test.parquet", columns=["user_id"]) for f in (folder, tmp_path / "out")]
    assert tests[0].height == tests[1].height  # a submission has a line for each


def test_all_faults_at_once_are_found_and_mended(tmp_path):
    files = clean()
    for plant in (
        put("train", "item_id", (3, 99)),
        put("train", "label", (5, 7)),
        put("valid", "item_seq", (6, None)),
        put("test", "likes_level", (2, 30)),
        put("test", "item_seq", (2, [1, 2, 3, 4, 99, 5, 6, -7])),
        append("train", [10, 11, 12]),
        append("train", [20], label=1),
        put("item_info", "item_emb_d4", (8, [NAN, 0.5, 0.5, 0.5]), (9, [0.5])),
        put("item_info", "item_tags", (8, [0, -3, 4])),
    ):
        plant(files)
    report = check_folder(write(tmp_path / "d", files))
    expected = {"unknown-item", "label-not-binary", "null-value", "level-out-of-range", "unknown-history-item"}
    expected |= {"negative-id", "duplicate-rows", "contradictory-labels", "broken-embedding", "embedding-length"}
    expected |= {"negative-tag", "tag-padding-inside"}
    assert {f.code for f in report.findings} == expected
    mended = fix_folder(report, tmp_path / "out")
    told = {(file, what): n for file, what, n in mended.changes}
    assert told["train.parquet", "rows left out: wrong values"] == 2
    assert told["train.parquet", "rows left out: contradictory labels"] == 2
    assert told["train.parquet", "rows left out: duplicates"] == 3
    assert told["item_info.parquet", "item_emb_d4: broken embeddings replaced by the mean"] == 2
    assert not [f for f in check_folder(tmp_path / "out").findings if f.severity != "note"]
    test = pl.read_parquet(tmp_path / "out" / "test.parquet")
    assert test["item_seq"][2].to_list() == [0, 0, 1, 2, 3, 4, 5, 6]
    items = pl.read_parquet(tmp_path / "out" / "item_info.parquet")
    vectors = files["item_info"]["item_emb_d4"]
    mean = np.mean(vectors[1:8] + vectors[10:], axis=0)
    np.testing.assert_allclose(items["item_emb_d4"][8].to_list(), mean, rtol=1e-5)
    assert items["item_tags"][8].to_list() == [4, 0, 0]


def test_the_per_user_layout_is_mended(tmp_path):
    files = clean(per_user=True)
    put("train", "seq_len", (3, 21))(files)
    put("user_info", "full_item_seq", (3, [4] * 19 + [900]))(files)
    fix_folder(check_folder(write(tmp_path / "d", files)), tmp_path / "out")
    assert findings(tmp_path / "out") == set()


def test_what_no_filter_mends_is_refused(tmp_path):
    files = clean()
    drop("train", "label")(files)
    report = check_folder(write(tmp_path / "d", files))
    with pytest.raises(DataError, match="label-missing"):
        fix_folder(report, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["", "inside", "../taken", "../file"])
def test_fix_refuses_a_folder_that_is_taken(tmp_path, place):
    folder = write(tmp_path / "d", clean())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"Give another one|new or an empty"):
        fix_folder(check_folder(folder), folder / place)
