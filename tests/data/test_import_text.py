"""What importers read from text: pandas reads the same rows; what is odd is said, and what is wrong has its line."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml

from qin_zoo.data.importers import ImportOptions, import_folder
from qin_zoo.data.importers.ids import Ids, aligned
from qin_zoo.data.importers.moments import read_times
from qin_zoo.data.importers.tables import Table
from qin_zoo.errors import DataError

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
ITEMS = "item_id:token\tgenre:token_seq\n" + "".join(f"{i}\tg{i % 4} g{i % 3}\n" for i in range(1, 26))


def log_rows(count=200):
    g = np.random.default_rng(4)
    return [
        (int(g.integers(1, 12)), int(g.integers(1, 26)), int(g.integers(1, 6)), 1_400_000_000 + 137 * k)
        for k in range(count)
    ]


LOG = log_rows()


def recbole(folder, lines, header=HEADER, **others):
    folder.mkdir(exist_ok=True)
    (folder / "x.inter").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    for kind, text in {"item": ITEMS, **others}.items():
        if text is not None:
            (folder / f"x.{kind}").write_text(text, encoding="utf-8")
    return folder


def lines_of(log=LOG, item="{}", time=str):
    return [f"{u}\t{item.format(i)}\t{r}\t{time(t)}" for u, i, r, t in log]


def written(out):
    """All rows of an import in original ids: user, item, label, history."""
    users, items = (
        dict(pl.read_parquet(out / f"ids_{n}.parquet").select(f"{n}_id", pl.col("original_id").cast(pl.String)).rows())
        for n in ("user", "item")
    )
    frames = [pl.read_parquet(out / f"{split}.parquet") for split in ("train", "valid", "test")]
    rows = pl.concat([f.select("user_id", "item_id", "label", "item_seq") for f in frames]).rows()
    return sorted((users[u], items[i], label, tuple(items[h] for h in seq if h)) for u, i, label, seq in rows)


def expected(log=LOG):
    """The same rows by pandas: a history is what the user liked strictly before."""
    frame = pd.DataFrame(log, columns=["u", "i", "r", "t"])
    liked = frame[frame.r >= 4].sort_values("t", kind="stable")
    return sorted(
        (str(u), str(i), int(r >= 4), tuple(liked[(liked.u == u) & (liked.t < t)].i.astype(str))[-100:])
        for u, i, r, t in log
    )


def tags(out):
    """original item -> its tags' terms."""
    ids = pl.read_parquet(out / "ids_item.parquet")
    ids = dict(ids.select(pl.col("original_id").cast(pl.String), "item_id").rows())
    rows = pl.read_parquet(out / "item_info.parquet")["item_tags"].to_list()
    return {original: sorted(t for t in rows[n] if t) for original, n in ids.items()}


# ---- text


@pytest.mark.parametrize(
    "text",
    [
        "a\tb\n1\t2\n\n3\t4\n\n\n",
        "\n\na\tb\r\n1\t2\r\n   \r\n3\t4\r\n",
        "\ufeffa\tb\n1\tx\x85y\n2\tcaf\u2028é\n3\tp\x0bq\x1cr\n",
        "a\tb\n1\t\"x\n3\ty\"\n",
    ],
)  # fmt: skip
def test_rows_are_those_of_pandas(tmp_path, text):
    file = tmp_path / "x"
    file.write_bytes(text.encode())
    reference = pd.read_csv(file, sep="\t", dtype=str, quoting=3, lineterminator="\n", encoding="utf-8-sig")
    reference = reference.dropna(how="all")
    table = Table(file, "\t")
    assert [tuple(v.strip() for v in row) for row in table.frame.rows()] == [
        tuple(str(v).strip() for v in row) for row in reference.itertuples(index=False) if str(row[0]).strip()
    ]


def test_blank_lines_are_said_and_counted(tmp_path):
    lines = lines_of()
    folder = recbole(tmp_path / "s", [*lines[:3], "", *lines[3:9], "\t".join(["7", "", "1", "5"]), *lines[9:]])
    with pytest.raises(DataError, match=r"x\.inter, line 12: expected a value of 'item_id'"):
        import_folder("recbole", folder, tmp_path / "o")
    recbole(tmp_path / "s", [*lines[:3], "", *lines[3:]])
    summary = import_folder("recbole", folder, tmp_path / "o")
    assert written(tmp_path / "o") == expected()
    assert "x.inter: 1 blank lines skipped." in summary.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\tb\n1\t2\n\n3\t4\t5\n", "line 4: expected 2 values, found 3"),
        (b"a\tb\n1\t2\n3\tcaf\xe9\n", r"line 3: expected text in UTF-8, .*iconv -f latin1 -t utf-8"),
        (b"\xff\xfea\x00\t\x00b\x00\n\x00", "iconv -f utf-16"),
        (b"a\tb\ta\n1\t2\t3\n", "found 'a' 2 times"),
        (b"a\tb\tc\n1\t2\t3\n3\t4", "line 3: expected 3 values, found 2 and the end of the file"),
        (b"\n", "found an empty file"),
        (b"a\tb\n\n", "expected at least one row"),
    ],
)
def test_lines_that_cannot_be_read(tmp_path, text, message):
    (tmp_path / "x").write_bytes(text)
    with pytest.raises(DataError, match=message):
        Table(tmp_path / "x", "\t")


def test_line_numbers_behind_values_of_several_lines(tmp_path):
    (tmp_path / "x").write_text('a,b\n"one\ntwo",1\n\n3,x\n')
    table = Table(tmp_path / "x", ",", quoted=True)
    assert [table.line(row) for row in range(2)] == [2, 5]
    with pytest.raises(DataError, match="line 5: expected a number for 'b', found 'x'"):
        table.numbers("b")
    (tmp_path / "x").write_text('a,b\n"one\ntwo",1\n3,x,4\n')
    with pytest.raises(DataError, match="line 4: expected 2 values, found 3"):
        Table(tmp_path / "x", ",", quoted=True)


def test_short_lines_are_said(tmp_path):
    (tmp_path / "x").write_text("a\tb\tc\n1\t2\n3\t4\t5\n")
    assert Table(tmp_path / "x", "\t").notes == [
        "x: 1 lines have fewer than 3 values (line 2 has 2); what is not there is taken as unknown."
    ]
    (tmp_path / "x").write_text("a\tb\tc\n1\t2\t\n3\t4\t5\n")
    assert Table(tmp_path / "x", "\t").notes == []


def test_latin_1_with_other_line_separators(tmp_path):
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "ratings.dat").write_text("".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in LOG))
    text = "".join(f"{i}::Caf\xe9 {i}\x85 \x1c: (1995)::Drama\n" for i in range(1, 26))
    (folder / "movies.dat").write_bytes(text.encode("latin-1"))
    import_folder("movielens", folder, tmp_path / "o")
    titles = pl.read_parquet(tmp_path / "o" / "item_text.parquet")["item_title"].to_list()
    assert titles == [f"Caf\xe9 {i}\x85 \x1c: (1995)" for i in sorted(range(1, 26))]
    assert written(tmp_path / "o") == expected()
    (folder / "movies.dat").write_bytes((text + "26::x\n").encode("latin-1"))
    assert any("line 26 has 2" in note for note in import_folder("movielens", folder, tmp_path / "p").notes)


@pytest.mark.parametrize("place", ["x.inter", "x.item", "x.user"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_no_file(tmp_path, place, kind):
    folder = recbole(tmp_path / "s", lines_of())
    (folder / place).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / place)
    else:
        (folder / place).symlink_to("/dev/zero")
    with pytest.raises(DataError, match=rf"{place}: expected a file, found something that is none"):
        import_folder("recbole", folder, tmp_path / "o")


def test_a_pipe_among_embeddings_and_tables(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "x.inter").write_text("userID\titemID\tx_label\n0\t0\t0\n0\t1\t1\n0\t2\t2\n")
    os.mkfifo(folder / "image_feat.npy")
    with pytest.raises(DataError, match="such as a named pipe"):
        import_folder("mmrec", folder, tmp_path / "o")
    for split in ("train", "valid", "test"):
        pl.DataFrame({"user_index": [0], "item_index": [1], "seq_len": [0], "label": [1]}).write_parquet(
            folder / f"{split}.parquet"
        )
    pl.DataFrame({"full_item_seq": [[1]]}).write_parquet(folder / "user_info.parquet")
    os.mkfifo(folder / "item_info.parquet")
    with pytest.raises(DataError, match="such as a named pipe"):
        import_folder("fuxictr", folder, tmp_path / "o")


# ---- columns


def test_an_unused_column_may_hold_anything(tmp_path):
    lines = [f"{line}\t{'—' if k < 3 else 1.5}\tx" for k, line in enumerate(lines_of())]
    folder = recbole(tmp_path / "s", lines, HEADER + "\tprice:float\tdevice:token")
    summary = import_folder("recbole", folder, tmp_path / "o")
    assert written(tmp_path / "o") == expected()
    assert any("columns 'price', 'device' left out" in note for note in summary.notes)
    with pytest.raises(DataError, match="line 2: expected a number for 'price', found '—'"):
        import_folder("recbole", folder, tmp_path / "p", ImportOptions(label="price>1"))


@pytest.mark.parametrize(
    ("kind", "one", "zero"), [("float", "1.0", "0.0"), ("token", "1", "0"), ("token", "True", "False")]
)
def test_a_column_of_clicks_is_the_label(tmp_path, kind, one, zero):
    lines = [f"{u}\t{i}\t{one if r >= 4 else zero}\t{t}" for u, i, r, t in LOG]
    folder = recbole(tmp_path / "s", lines, HEADER.replace("rating:float", f"clicked:{kind}"))
    summary = import_folder("recbole", folder, tmp_path / "o")
    assert written(tmp_path / "o") == expected()
    assert any("column 'clicked'; with --label implicit," in note for note in summary.notes)
    summary = import_folder("recbole", folder, tmp_path / "p", ImportOptions(label="implicit", negatives=0))
    assert {c.click_rate for c in summary.splits.values()} == {1}


def test_a_column_of_0_and_1_that_may_be_the_label_is_asked_about(tmp_path):
    lines = [f"{u}\t{i}\t{int(r >= 4)}\t{t}" for u, i, r, t in LOG]
    folder = recbole(tmp_path / "s", lines, HEADER.replace("rating", "weekend"))
    with pytest.raises(DataError, match=r"found weekend.*--label weekend, or --label implicit"):
        import_folder("recbole", folder, tmp_path / "o")
    folder = recbole(tmp_path / "s", lines)  # ratings of 0 and 1: none reaches 4
    assert any("column 'rating'" in note for note in import_folder("recbole", folder, tmp_path / "o").notes)
    assert written(tmp_path / "o") == expected()


def test_mmrec_with_a_column_of_clicks(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    text = "".join(f"{u}\t{i}\t{t}\t{int(r >= 4)}\n" for u, i, r, t in LOG)
    (folder / "x.inter").write_text("userID\titemID\ttimestamp\tis_click\n" + text)
    assert any("'is_click'" in note for note in import_folder("mmrec", folder, tmp_path / "o").notes)
    assert written(tmp_path / "o") == expected()


def test_a_column_twice(tmp_path):
    folder = recbole(tmp_path / "s", [f"{line}\t1" for line in lines_of()], HEADER + "\trating:token")
    with pytest.raises(DataError, match="found 'rating' 2 times"):
        import_folder("recbole", folder, tmp_path / "o")


# ---- ids


@pytest.mark.parametrize("item", ["{}.0", "{}.00", "0{:02d}"])
def test_ids_are_aligned_across_files_by_value(tmp_path, item):
    import_folder("recbole", recbole(tmp_path / "s", lines_of()), tmp_path / "reference")
    summary = import_folder("recbole", recbole(tmp_path / "s", lines_of(item=item)), tmp_path / "o")
    assert written(tmp_path / "o") == expected()
    assert tags(tmp_path / "o") == tags(tmp_path / "reference")
    assert all(tags(tmp_path / "o").values())
    assert any(f"'{item.format(LOG[0][1])}' is taken as {LOG[0][1]}" in note for note in summary.notes)


def test_ids_of_three_files_of_splits(tmp_path):
    folder = recbole(tmp_path / "s", lines_of())
    (folder / "x.inter").unlink()
    parts = {"train": (LOG[:120], "{}"), "valid": (LOG[120:160], "{}.0"), "test": (LOG[160:], "{}")}
    for split, (log, item) in parts.items():
        (folder / f"x.{split}.inter").write_text("\n".join([HEADER, *lines_of(log, item)]) + "\n")
    assert import_folder("recbole", folder, tmp_path / "o").items == 25


def test_how_many_ids_were_found_is_said(tmp_path):
    some = ITEMS[: ITEMS.index("11\t")]
    seen = {i for _, i, _, _ in LOG}
    summary = import_folder("recbole", recbole(tmp_path / "s", lines_of(), item=some), tmp_path / "o")
    assert any(f"x.item: {len(seen) - 10} of {len(seen)} items of the log are not there" in n for n in summary.notes)
    other = recbole(tmp_path / "s", lines_of(), item=ITEMS.replace("\n", "\nB"))
    with pytest.raises(DataError, match=rf"x\.item: .*none of its {len(seen)} items .*'1' in the log and 'B1' in"):
        import_folder("recbole", recbole(other, lines_of(), item="item_id:token\tg:token\nB1\tx\n"), tmp_path / "p")
    with pytest.raises(DataError, match=r"x\.user: .*none of its 11 users"):
        import_folder("recbole", recbole(other, lines_of(), user="user_id:token\tg:token\nB1\tx\n"), tmp_path / "p")


def test_movielens_ids_written_as_floats(tmp_path):
    for name, form in (("int", "{}"), ("float", "{}.0")):
        folder = tmp_path / name
        folder.mkdir()
        rows = "".join(f"{u},{form.format(i)},{r},{t}\n" for u, i, r, t in LOG)
        (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
        (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(f"{i},T,A|B\n" for i in range(1, 26)))
        import_folder("movielens", folder, tmp_path / f"o-{name}")
        assert written(tmp_path / f"o-{name}") == expected()
    assert tags(tmp_path / "o-int") == tags(tmp_path / "o-float")


@pytest.mark.parametrize(
    ("columns", "forms"),
    [
        ([["5.0", "6.0"], ["5", "7"]], [[5, 6], [5, 7]]),
        ([["000005"], ["5"]], [[5], [5]]),
        ([["000005", "000012"], ["000012"]], [["000005", "000012"], ["000012"]]),
        ([["05", "5"], ["5"]], [["05", "5"], ["5"]]),
        ([["a", "5.0"], ["5", "a"]], [["a", "5"], ["5", "a"]]),
        ([["1.0", "1.1"], ["1.0"]], [["1.0", "1.1"], ["1.0"]]),
        ([["1.0", "1.5"], ["1", "2"]], [["1", "1.5"], ["1", "2"]]),
        ([["1.0", "1", "1.5"], ["1"]], [["1.0", "1", "1.5"], ["1"]]),
        ([["1e+05"], ["100000"]], [[100000], [100000]]),
        ([["12e45"], ["12"]], [["12e45"], ["12"]]),
        ([["15881234123412341005"]], [["15881234123412341005"]]),
    ],
)
def test_what_is_one_number_is_one_id(columns, forms):
    notes = []
    found = aligned([Ids(f"c{n}", pl.Series(c)) for n, c in enumerate(columns)], notes)
    assert [f.to_list() for f in found] == forms
    assert bool(notes) == (forms != columns and [[str(v) for v in f] for f in forms] != columns)


@pytest.mark.parametrize("value", [1.2345678901234568e19, 2.0**53 + 2])
def test_ids_whose_digits_are_lost(value):
    with pytest.raises(DataError, match="has been a floating point number"):
        aligned([Ids("x", pl.Series([str(value)]))], [])


def classic(folder, train, test, suffix):
    folder.mkdir()
    for split, rows in (("train", train), ("valid", test), ("test", test)):
        getattr(pl.DataFrame(rows), f"write_{suffix}")(folder / f"{split}.{suffix}")
    return folder


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_classic_ids_that_are_floats_in_one_split(tmp_path, suffix):
    g = np.random.default_rng(1)
    rows = {n: g.integers(1, 30, 80) for n in ("user_id", "item", "brand")} | {"label": g.integers(0, 2, 80)}
    rows["hist"] = [str(h) for h in g.integers(1, 30, 80)] if suffix == "csv" else g.integers(1, 30, (80, 3)).tolist()
    floats = {**rows, **{n: rows[n].astype(float) for n in ("user_id", "item", "brand")}}
    fields = {"target_field": ["item"], "sequence_field": ["hist"]}
    outs = []
    for name, test in (("same", rows), ("mixed", floats)):
        folder = classic(tmp_path / name, rows, test, suffix)
        if suffix == "csv":
            for file in folder.iterdir():
                text = file.read_text().splitlines()
                file.write_text("\n".join(line + ("^3" if n else "") for n, line in enumerate(text)) + "\n")
        outs.append(tmp_path / f"o-{name}")
        import_folder("fuxictr", folder, outs[-1], **fields)
    for split in ("train", "valid", "test"):
        same, mixed = (pl.read_parquet(out / f"{split}.parquet") for out in outs)
        assert same.equals(mixed)
    if suffix == "parquet":
        wrong = {**floats, "item": np.where(np.arange(80) == 7, np.nan, floats["item"])}
        with pytest.raises(DataError, match=r"valid\.parquet, column 'item', row 7: expected a whole .*, found nan"):
            import_folder("fuxictr", classic(tmp_path / "w", rows, wrong, suffix), tmp_path / "p", **fields)


@pytest.mark.parametrize("name", ["item", "hist", "user_id"])
def test_classic_ids_that_their_floats_do_not_hold(tmp_path, name):
    rows = {"user_id": [1, 2], "item": [1, 2], "hist": [[1, 2], [2, 1]], "label": [1, 0]}
    for folder, great in (("s", 2**24 - 1), ("t", 2**24)):
        (tmp_path / folder).mkdir()
        values = {**rows, name: np.array([[great, 1], [1, 2]] if name == "hist" else [great, 1], np.float32)}
        for split in ("train", "valid", "test"):
            np.savez(tmp_path / folder / f"{split}.npz", **values)
    fields = {"target_field": ["item"], "sequence_field": ["hist"]}
    import_folder("fuxictr", tmp_path / "s", tmp_path / "o", **fields)
    with pytest.raises(DataError, match=rf"train\.npz, column '{name}': '16777216\.0' has been a floating point"):
        import_folder("fuxictr", tmp_path / "t", tmp_path / "p", **fields)


def test_classic_truth_in_two_formats(tmp_path):
    rows = {"item": [1, 2, 3], "hist": ["1^2", "2^1", "3^1"], "new": [True, False, True], "label": [1, 0, 1]}
    folder = classic(tmp_path / "s", rows, {**rows, "new": ["True", "False", "False"]}, "csv")
    (folder / "train.csv").unlink()
    pl.DataFrame({**rows, "hist": [[1, 2], [2, 1], [3, 1]]}).write_parquet(folder / "train.parquet")
    import_folder("fuxictr", folder, tmp_path / "o", target_field=["item"], sequence_field=["hist"])
    assert [pl.read_parquet(tmp_path / f"o/{s}.parquet")["new"].to_list() for s in ("train", "test")] == [
        [2, 1, 2], [2, 1, 1],
    ]  # fmt: skip


def test_classic_columns_nobody_has_typed(tmp_path):
    g = np.random.default_rng(1)
    rows = {
        "item": g.integers(1, 9, 90),
        "hist": [f"{a}^{b}" for a, b in g.integers(1, 9, (90, 2))],
        "price": np.round(g.random(90), 4),
        "hour": g.integers(0, 24, 90),
        "label": g.integers(0, 2, 90),
    }
    folder = classic(tmp_path / "s", rows, {**rows, "hour": rows["hour"] + 1}, "csv")
    fields = {"target_field": ["item"], "sequence_field": ["hist"]}
    summary = import_folder("fuxictr", folder, tmp_path / "o", **fields)
    assert pl.read_parquet(tmp_path / "o" / "train.parquet")["price"].to_numpy() == pytest.approx(rows["price"])
    hours = pd.Series(rows["hour"])
    new = int((~(hours + 1).isin(hours)).sum())
    assert any("numeric, for their fractions: 'price'" in note for note in summary.notes)
    assert any(f"categorical: 'hour' ({hours.nunique()} values)" in note for note in summary.notes)
    assert any(f"'hour': {new} of 90 rows of test" in note for note in summary.notes)


def test_classic_ids_with_wide_gaps(tmp_path):
    rows = {"item": [300_000_000, 5, 7], "hist": [[5, 0], [300_000_000, 7], [0, 0]], "label": [1, 0, 1]}
    folder = classic(tmp_path / "s", rows, rows, "parquet")
    fields = {"target_field": ["item"], "sequence_field": ["hist"]}
    assert import_folder("fuxictr", folder, tmp_path / "o", ImportOptions(max_history=2), **fields).items == 3
    train = pl.read_parquet(tmp_path / "o" / "train.parquet")
    assert train["item_id"].to_list() == [3, 1, 2]
    assert train["item_seq"].to_list() == [[0, 1], [3, 2], [0, 0]]
    assert pl.read_parquet(tmp_path / "o" / "ids_item.parquet")["original_id"].to_list() == [5, 7, 300_000_000]


def test_longctr_keys_by_value(tmp_path):
    folder = tmp_path / "l"
    rows = {"user_index": [0, 1], "item_index": [1, 2], "seq_len": [1, 2], "label": [1, 0]}
    folder.mkdir()
    pl.DataFrame({"item_index": [0, 1, 2]}).write_parquet(folder / "item_info.parquet")
    pl.DataFrame({"full_item_seq": [[1], [2, 1]]}).write_parquet(folder / "user_info.parquet")
    for split in ("train", "valid", "test"):
        pl.DataFrame({k: np.array(v, float) for k, v in rows.items()}).write_parquet(folder / f"{split}.parquet")
    import_folder("fuxictr", folder, tmp_path / "o", ImportOptions(max_history=2))
    assert pl.read_parquet(tmp_path / "o" / "test.parquet")["item_seq"].to_list() == [[0, 1], [2, 1]]
    pl.DataFrame({**rows, "user_index": [0.5, 1]}).write_parquet(folder / "test.parquet")
    with pytest.raises(DataError, match=r"column 'user_index', row 0: expected a whole number, found 0\.5"):
        import_folder("fuxictr", folder, tmp_path / "p")
    pl.DataFrame(rows).write_parquet(folder / "test.parquet")
    pl.DataFrame({"full_item_seq": [[1], [None, 1]]}).write_parquet(folder / "user_info.parquet")
    with pytest.raises(DataError, match="row 1: expected items, found a null"):
        import_folder("fuxictr", folder, tmp_path / "p")


def test_longctr_columns_that_are_no_features(tmp_path):
    """Nulls and numbers with wide gaps in columns that nobody needs stop nothing, and are said."""
    folder = tmp_path / "l"
    folder.mkdir()
    items = {"item_index": [0, 1, 2], "hash": [0, 10**9, 5], "cate": [1, None, 2], "kind": [0, 1, 1]}
    pl.DataFrame(items).write_parquet(folder / "item_info.parquet")
    pl.DataFrame({"full_item_seq": [[1], [2, 1]]}).write_parquet(folder / "user_info.parquet")
    rows = {"user_index": [0, 1], "item_index": [1, 2], "seq_len": [1, 2], "label": [1, 0], "time": [1_400_000_000] * 2}
    rows |= {"hour": [3, 4], "gap": [1, 2]}
    for split in ("train", "valid", "test"):
        pl.DataFrame({**rows, "gap": [1, None]} if split == "test" else rows).write_parquet(folder / f"{split}.parquet")
    notes = import_folder("fuxictr", folder, tmp_path / "o").notes
    config = yaml.safe_load((tmp_path / "o" / "dataset_config.yaml").read_text())["o"]["feature_cols"]
    active = {str(f["name"]): f["active"] for f in config}
    assert {n: active.get(n) for n in ("time", "hash", "hour", "kind", "cate", "gap")} == {
        "time": False, "hash": False, "hour": True, "kind": True, "cate": None, "gap": None,
    }  # fmt: skip
    for name in ("'time': codes up to", "'hash': codes up to", "'cate' left out: 1 rows", "'gap' left out"):
        assert any(name in note for note in notes)


@pytest.mark.parametrize("value", ["nan", "NULL", " "])
def test_a_missing_user_is_no_user(tmp_path, value):
    """pandas reads these as missing; one user of all of them would have everybody's history."""
    lines = lines_of()
    lines[4] = "\t".join([value, *lines[4].split("\t")[1:]])
    with pytest.raises(DataError, match="line 6: expected a value of 'user_id'"):
        import_folder("recbole", recbole(tmp_path / "s", lines), tmp_path / "o")


# ---- times

FORMS = {
    "seconds": str,
    "milliseconds": lambda t: str(t * 1000),
    "nanoseconds": lambda t: str(t * 10**9),
    "fractions": lambda t: f"{t}.000000001",
    "mixed": lambda t: str(t * 1000 if t % 2 else t),
    "four units": lambda t: str(t * (1, 10**3, 10**6, 10**9)[t % 4]),
    "floats and milliseconds": lambda t: str(t * 1000) if t % 2 else f"{t}.0",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("source", ["recbole", "movielens", "mmrec"])
def test_histories_whatever_the_unit(tmp_path, form, source):
    folder = tmp_path / "s"
    folder.mkdir()
    if source == "recbole":
        recbole(folder, lines_of(time=FORMS[form]))
    elif source == "movielens":
        (folder / "u.data").write_text("\n".join(lines_of(time=FORMS[form])) + "\n")
        (folder / "u.item").write_text("".join(f"{i}|T|||{'|0' * 19}\n" for i in range(1, 26)))
    else:
        text = "userID\titemID\trating\ttimestamp\n" + "\n".join(lines_of(time=FORMS[form])) + "\n"
        (folder / "x.inter").write_text(text)
    summary = import_folder(source, folder, tmp_path / "o", ImportOptions(label="rating>=4"))
    assert written(tmp_path / "o") == expected()
    several = form in ("mixed", "four units", "floats and milliseconds")
    assert any("brought to one unit" in note for note in summary.notes) == several


def times(tmp_path, *texts):
    (tmp_path / "x").write_text("timestamp\tx\n" + "".join(f"{text}\ty\n" for text in texts))
    notes = []
    return read_times([Table(tmp_path / "x", "\t")], "timestamp", notes), notes


def test_times_keep_every_digit(tmp_path):
    """Neighbouring nanoseconds are one number as float64, which numpy shows."""
    first = 1_400_000_000_000_000_001
    assert np.float64(first) == np.float64(first + 1)
    assert times(tmp_path, first + 1, first)[0].tolist() == [first + 1, first]
    assert times(tmp_path, "1400000000.000000002", "1400000000.000000001")[0].argsort().tolist() == [1, 0]
    g = np.random.default_rng(0)
    through_float = (first + g.integers(0, 10**9, 40)).astype(np.float64)
    for texts in (through_float.astype(np.int64), through_float, [f"{t:.1f}" for t in through_float]):
        assert "have been floating point numbers" in times(tmp_path, *texts)[1][0]
    assert times(tmp_path, *(first + g.integers(0, 10**9, 40)))[1] == []
    assert times(tmp_path, *(10**9 * (1_400_000_000 + g.integers(0, 10**6, 40))))[1] == []  # whole seconds


def test_times_that_are_no_dates(tmp_path):
    assert times(tmp_path, 3, "2.5", -1)[0].tolist() == [3, 2.5, -1]
    values, notes = times(tmp_path, 1_400_000_000, 1_400_000_005, 0)
    assert values.tolist() == [1_400_000_000, 1_400_000_005, 0]
    assert "1 rows hold no date between 1973 and 2100 in seconds" in notes[0]
    assert "line 4: 0" in notes[0]
    with pytest.raises(DataError, match=r"line 4: expected a date, .*1 rows in seconds, 1 rows in milli.*found 0"):
        times(tmp_path, 1_400_000_000, 1_400_000_000_001, 0)
    for wrong in ("", "nan", "inf", "2014-05-13 00:00:00"):
        with pytest.raises(DataError, match="line 3: expected a time"):
            times(tmp_path, 1_400_000_000, wrong)


def test_units_that_differ_between_files(tmp_path):
    folder = recbole(tmp_path / "s", lines_of())
    (folder / "x.inter").unlink()
    for split, log, time in (
        ("train", LOG[:120], str),
        ("valid", LOG[120:160], FORMS["milliseconds"]),
        ("test", LOG[160:], str),
    ):
        (folder / f"x.{split}.inter").write_text("\n".join([HEADER, *lines_of(log, time=time)]) + "\n")
    summary = import_folder("recbole", folder, tmp_path / "o", ImportOptions(split="time"))
    assert written(tmp_path / "o") == expected()
    assert any("40 rows in milliseconds" in note for note in summary.notes)


def test_another_column_as_the_time_is_said(tmp_path):
    folder = recbole(tmp_path / "s", lines_of(), HEADER.replace("timestamp", "rated_at_time"))
    notes = import_folder("recbole", folder, tmp_path / "o").notes
    assert any("'rated_at_time' is taken as the time" in note for note in notes)
    folder = recbole(tmp_path / "s", lines_of(), HEADER.replace("timestamp:float", "timestamp:token"))
    import_folder("recbole", folder, tmp_path / "p")
    assert written(tmp_path / "o") == written(tmp_path / "p") == expected()
