"""FuxiCTR's classic fields: rows whose target and history stand in named columns.

``target_field`` and ``sequence_field`` are lists that go together: the first pair is the item itself, further pairs
are properties of the item (its category).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qin_zoo.data.histories import gather_lists
from qin_zoo.data.importers.encoded import below, floats, labels, own, require
from qin_zoo.data.importers.log import Numbering, categories
from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.data.importers.splits import NAMES
from qin_zoo.data.importers.write import ImportSummary, Output
from qin_zoo.errors import DataError, first_line
from qin_zoo.files import read_json

_USERS = ("user_id", "userid", "user", "user_index", "uid")


class ClassicFields:
    """The splits of a classic data set as columns in memory."""

    def __init__(
        self,
        folder: Path,
        splits: dict[str, Path],
        label: str | None,
        target: list[str],
        sequence: list[str],
        user: str | None,
    ) -> None:
        self.folder = folder
        specs, named = _feature_map(folder)
        self.specs = specs
        self.paths = splits
        if specs and not sequence:
            sequence = [n for n, s in specs.items() if s.get("type") == "sequence" and s.get("share_embedding")]
            if target:
                sequence = [next((n for n in sequence if specs[n]["share_embedding"] == t), "") for t in target]
        if specs and not target:
            target = [specs.get(name, {}).get("share_embedding", "") for name in sequence]
        if not target or len(target) != len(sequence) or not all(target) or not all(sequence):
            raise DataError(
                f"{folder}: expected --target-field and --sequence-field, as many of one as of the other, found "
                f"{', '.join(filter(None, target)) or 'none'} and {', '.join(filter(None, sequence)) or 'none'}. Give, "
                "for example, --target-field item_id --sequence-field click_history."
            )
        self.target, self.sequence = target, sequence
        self.tables = {name: _load(path, sequence) for name, path in splits.items()}
        first, path = self.tables["train"], splits["train"]
        self.label = label or (named[0] if named else "label")
        for name, table in self.tables.items():
            for wanted in (*target, *sequence, self.label):
                require(splits[name], list(table), wanted)
        for name in (*target, self.label):
            if first[name].ndim != 1:
                raise DataError(f"{path}, column '{name}': expected one value in each row, found lists. Name another.")
        for name in sequence:
            if first[name].ndim != 2:
                raise DataError(f"{path}, column '{name}': expected a sequence in each row, found single values.")
        self.user = user or next((n for n in _USERS if n in first and first[n].ndim == 1), None)
        if self.user:
            require(path, list(first), self.user)

    def write(self, out: Output, options: ImportOptions, about: dict, notes: list[str]) -> ImportSummary:
        """Writes the rows and the items; adds to ``notes`` what is left out."""
        numbers = [self._number(t, s) for t, s in zip(self.target, self.sequence)]
        tables = self.tables
        items = {name: numbers[0](tables[name][self.target[0]]) for name in NAMES}
        histories = {name: numbers[0](tables[name][self.sequence[0]]) for name in NAMES}
        for name in NAMES:
            below(self.paths[name], self.target[0], items[name], numbers[0].size, "items", least=1)
        properties = {
            self.target[n]: self._property(n, numbers[n], items, histories, numbers[0].size)
            for n in range(1, len(self.target))
        }
        users = self._ids(self.user) if self.user else None
        user_count = 0 if users is None else users.size - 1

        out.begin()
        out.feature(["user_id", "item_seq"] if users else "item_seq", "meta")
        columns = {name: self._row_column(name, out, notes) for name in tables["train"] if self._is_feature(name)}
        for name in NAMES:
            rows = {"user_id": users(tables[name][self.user])} if users and self.user else {}
            rows |= {"item_id": items[name], "item_seq": _right(histories[name], options.max_history)}
            rows |= {own(key): values[name] for key, values in columns.items() if values}
            rows["label"] = labels(self.paths[name], self.label, tables[name][self.label])
            out.write_split(name, [rows])
        out.feature("item_id", "categorical", source="item", vocab_size=numbers[0].size)
        table = {"item_id": np.arange(numbers[0].size, dtype=np.int32)}
        for n, (name, values) in enumerate(properties.items(), 1):
            table[own(name)] = values
            out.feature(own(name), "categorical", source="item", vocab_size=numbers[n].size)
        out.write_table("item_info.parquet", table)
        out.write_table("ids_item.parquet", numbers[0].table("item_id"))
        out.write_table(
            "ids_user.parquet", users.table("user_id") if users else pl.DataFrame({"user_id": [], "original_id": []})
        )
        return out.finish(about, user_count, numbers[0].size - 1, notes)

    def _is_feature(self, name: str) -> bool:
        taken = {*self.target, *self.sequence, self.label}
        return (
            name not in taken
            and (not self.specs or name in self.specs)
            and all(name in t for t in self.tables.values())
        )

    def _number(self, target: str, sequence: str) -> _Codes:
        parts = [table[name].reshape(-1) for table in self.tables.values() for name in (target, sequence)]
        sizes = [self.specs.get(name, {}).get("vocab_size", 0) for name in (target, sequence)]
        return _Codes(self.folder, target, parts, max(sizes))

    def _ids(self, name: str) -> _Codes:
        return _Codes(self.folder, name, [t[name] for t in self.tables.values()], 0)

    def _property(
        self, n: int, codes: _Codes, items: dict[str, np.ndarray], histories: dict[str, np.ndarray], size: int
    ) -> np.ndarray:
        """(items,) what the further fields say of each item; they must say one thing."""
        pairs = []
        for name in NAMES:
            values, lists = codes(self.tables[name][self.target[n]]), codes(self.tables[name][self.sequence[n]])
            if lists.shape != histories[name].shape:
                raise DataError(
                    f"{self.paths[name]}, column '{self.sequence[n]}': expected sequences as long as those of "
                    f"'{self.sequence[0]}'. Leave the field out of --sequence-field."
                )
            pairs += [np.stack([items[name], values]), np.stack([histories[name].reshape(-1), lists.reshape(-1)])]
        every = np.unique(np.concatenate(pairs, axis=1), axis=1)
        every = every[:, every[0] > 0]
        twice = np.flatnonzero(every[0][1:] == every[0][:-1])
        if twice.size:
            item = every[0][twice[0]]
            raise DataError(
                f"{self.folder}, field '{self.target[n]}': expected one value for each item, found several for item "
                f"{item}. It is no property of the item: leave it out of --target-field and --sequence-field."
            )
        out = np.zeros(size, np.int32)
        out[every[0]] = every[1]
        return out

    def _row_column(self, name: str, out: Output, notes: list[str]) -> dict[str, np.ndarray] | None:
        """split -> values of a row feature, or None where it is left out."""
        parts = {split: table[name] for split, table in self.tables.items()}
        kind = self.specs.get(name, {}).get(
            "type", "categorical" if parts["train"].dtype.kind in "iuOUT" else "numeric"
        )
        first = parts["train"]
        if first.ndim != 1 or kind not in ("categorical", "numeric", "meta"):
            notes.append(f"'{name}' ({kind}) left out: rows hold single values.")
            return None
        if kind == "numeric":
            parts = {s: floats(self.paths[s], name, v) for s, v in parts.items()}
            out.feature(own(name), "numeric")
            return parts
        size = self.specs.get(name, {}).get("vocab_size")
        if first.dtype.kind not in "iu":
            # the vocabulary is that of the training rows; what comes later only is unknown, 0
            _, known = categories(pl.Series(first))
            parts = {s: _Vocabulary(known)(v) for s, v in parts.items()}
            size = len(known) + 1
        highest = max(int(v.max()) for v in parts.values()) + 1
        if kind == "categorical":
            for s, v in parts.items():
                below(self.paths[s], name, v, 2**31, "codes")
            out.feature(own(name), kind, vocab_size=max(size or 0, highest))
        else:
            out.feature(own(name), kind)
        return parts


class _Codes:
    """Encoded ids as they are, or text -> 1, 2, …"""

    def __init__(self, folder: Path, name: str, parts: list[np.ndarray], size: int) -> None:
        self._numbering: Numbering | None = None
        if all(part.dtype.kind in "iu" for part in parts):
            least = min(int(part.min(initial=0)) for part in parts)
            if least < 0:
                raise DataError(
                    f"{folder}, field '{name}': expected ids of 0 and more, found {least}. Encode it again."
                )
            self.size = max(size, 1 + max(int(part.max(initial=0)) for part in parts))
        else:
            series = pl.concat([pl.Series(part.astype(object), dtype=pl.String) for part in parts])
            self._numbering = Numbering(series.filter(series != ""))
            self.size = len(self._numbering) + 1

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if self._numbering is None:
            return values.astype(np.int32)
        return _Vocabulary(self._numbering.ids.to_list())(values)

    def table(self, name: str) -> pl.DataFrame:
        ids = np.arange(1, self.size, dtype=np.int32)
        original = ids if self._numbering is None else self._numbering.ids
        return pl.DataFrame({name: ids, "original_id": original})


class _Vocabulary:
    """Text -> code from 1, 0 for what is not among the terms."""

    def __init__(self, terms: list[str]) -> None:
        self._enum = pl.Enum(terms)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        series = pl.Series(values.reshape(-1).astype(object), dtype=pl.String).cast(self._enum, strict=False)
        codes = series.to_physical().cast(pl.Int64).fill_null(-1).to_numpy() + 1
        return codes.astype(np.int32).reshape(values.shape)


def _load(path: Path, sequences: list[str]) -> dict[str, np.ndarray]:
    """column -> (n,), or (n, width) for sequences; text for csv, what the file holds otherwise."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                table = {name: archive[name] for name in archive.files}
        else:
            frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
            table = {name: _array(frame[name], path.suffix == ".csv", name in sequences) for name in frame.columns}
    except (ValueError, EOFError, OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}). Fetch or write it again.") from None
    if not table or not all(len(v) for v in table.values()):
        raise DataError(f"{path}: expected at least one row, found none. Fetch or write it again.")
    return table


def _array(series: pl.Series, text: bool, sequence: bool) -> np.ndarray:
    if text:
        series = series.fill_null("")
        if not sequence and not series.str.contains("^", literal=True).any():
            return series.to_numpy().astype(object)
        series = series.str.split("^")  # FuxiCTR's separator within a sequence
    if series.dtype == pl.String:
        return series.fill_null("").to_numpy().astype(object)
    inner = getattr(series.dtype, "inner", None)
    if inner is None:
        return series.to_numpy()
    lists = series.cast(pl.List(inner))
    width = max(int(lists.list.len().max() or 0), 1)
    ends = np.cumsum(lists.list.len().to_numpy().astype(np.int64))
    starts = ends - lists.list.len().to_numpy()
    flat = lists.explode(empty_as_null=False, keep_nulls=False)
    index = gather_lists(np.arange(1, len(flat) + 1), starts, ends, width)
    entries = flat.to_numpy()
    padding = np.array([""], object) if inner == pl.String else np.zeros(1, entries.dtype)
    return np.concatenate([padding, entries])[index]


def _right(sequences: np.ndarray, width: int) -> np.ndarray:
    """(n, width) the sequences without their zeros, padded with 0 on the left."""
    order = np.argsort(sequences != 0, axis=1, kind="stable")
    moved = np.take_along_axis(sequences, order, axis=1)[:, -width:]
    return np.pad(moved, ((0, 0), (width - moved.shape[1], 0)))


def _feature_map(folder: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    path = folder / "feature_map.json"
    if not path.exists():
        return {}, []
    try:
        content = read_json(path)
        specs = {name: dict(spec) for feature in content["features"] for name, spec in feature.items()}
        return specs, [str(label) for label in content["labels"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected FuxiCTR's feature map with 'features' and 'labels' ({first_line(error)}). Take the file "
            "that FuxiCTR wrote beside the data."
        ) from None
