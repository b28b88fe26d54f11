"""FuxiCTR's classic fields: rows whose target and history stand in named columns.

``target_field`` and ``sequence_field`` are lists that go together: the first pair is the item itself, further pairs
are properties of the item (its category).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from qin_zoo.data import SPLITS, USERS
from qin_zoo.data.importers.encoded import below, floats, is_sparse, labels, own, too_sparse
from qin_zoo.data.importers.ids import Ids, aligned, whole
from qin_zoo.data.importers.log import Numbering, codes_of, padded
from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.data.importers.tables import Table, require
from qin_zoo.data.importers.write import ImportSummary, Output
from qin_zoo.data.sources import readable
from qin_zoo.errors import DataError, first_line
from qin_zoo.files import read_json


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
        notes: list[str],
    ) -> None:
        self.folder, self.paths, self.notes = folder, splits, notes
        specs, named = _feature_map(folder)
        self.specs = specs
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
        self.target, self.sequence, self.label = target, sequence, label or (named[0] if named else "label")
        self.vocabularies: dict[str, list[str]] = {}
        loaded = {path: _load(path, sequence, notes) for path in dict.fromkeys(splits.values())}
        self.tables = {name: dict(loaded[path]) for name, path in splits.items()}
        for split, path in splits.items():
            for name in (*target, *sequence, self.label):
                require(path, list(self.tables[split]), name)
                listed = self.tables[split][name].ndim > 1
                if listed != (name in sequence):
                    expected, found = ("one value", "lists") if listed else ("a sequence", "single values")
                    raise DataError(f"{path}, column '{name}': expected {expected} a row, found {found}. Name another.")
        first = self.tables["train"]
        self.user = user or next((n for n in USERS if n in first and first[n].ndim == 1), None)
        if self.user:
            require(splits["train"], list(first), self.user)

    def write(self, out: Output, options: ImportOptions, about: dict) -> ImportSummary:
        """Writes the rows and the items."""
        numbers = []
        for pair in zip(self.target, self.sequence):
            size = max(self.specs.get(name, {}).get("vocab_size", 0) for name in pair)
            numbers.append(self._codes(*pair, size=size))
        tables = self.tables
        size = numbers[0].size
        items = {name: numbers[0](tables[name][self.target[0]]) for name in SPLITS}
        histories = {name: numbers[0](tables[name][self.sequence[0]]) for name in SPLITS}
        for name in SPLITS:
            below(self.paths[name], self.target[0], items[name], size, "items", least=1)
        further = range(1, len(self.target))
        properties = {self.target[n]: self._property(n, numbers[n], items, histories, size) for n in further}
        users = self._codes(self.user) if self.user else None

        out.begin()
        out.feature(["user_id", "item_seq"] if users else "item_seq", "meta")
        columns = {name: self._row_column(name, out) for name in tables["train"] if self._is_feature(name)}
        self._say_what_was_taken(columns)
        for name in SPLITS:
            rows = {"user_id": users(tables[name][self.user])} if users else {}
            rows |= {"item_id": items[name], "item_seq": _right(histories[name], options.max_history)}
            rows |= {own(key): values[name] for key, values in columns.items() if values}
            rows["label"] = labels(self.paths[name], self.label, tables[name][self.label])
            out.write_split(name, [rows])
        out.feature("item_id", "categorical", source="item", vocab_size=size)
        table = {"item_id": np.arange(size, dtype=np.int32)}
        for n, (name, values) in enumerate(properties.items(), 1):
            table[own(name)] = values
            out.feature(own(name), "categorical", source="item", vocab_size=numbers[n].size)
            if terms := numbers[n].terms:
                self.vocabularies[own(name)] = terms
        if self.vocabularies:
            out.write_json("vocabularies.json", self.vocabularies)
        out.write_table("item_info.parquet", table)
        out.write_table("ids_item.parquet", numbers[0].table("item_id"))
        nobody = pl.DataFrame({"user_id": [], "original_id": []})
        out.write_table("ids_user.parquet", users.table("user_id") if users else nobody)
        return out.finish(about, users.size - 1 if users else 0, size - 1, self.notes)

    def _is_feature(self, name: str) -> bool:
        known = [self.specs or self.tables["train"], *self.tables.values()]
        return all(name in names for names in known) and name not in (*self.target, *self.sequence, self.label)

    def _codes(self, *names: str, size: int = 0) -> _Codes:
        """The numbers of what stands in columns that go together."""
        self._to_one_form(*names)
        parts = [table[name].reshape(-1) for table in self.tables.values() for name in names]
        return _Codes(self.folder, names[0], parts, size, self.notes)

    def _to_one_form(self, *names: str) -> None:
        """Brings the ids of columns that go together to one form, in all splits: all numbers, or all text."""
        places = [(split, name) for split in self.tables for name in names]
        for split, name in places:
            values = self.tables[split][name]
            if values.dtype.kind == "f":
                self.tables[split][name] = whole(self.paths[split], name, values)
        values = [self.tables[split][name] for split, name in places]
        if all(v.dtype.kind in "iu" for v in values):
            return
        texts = [pl.Series(v.reshape(-1)).cast(pl.String).str.strip_chars().replace("", None) for v in values]
        wheres = [f"{self.paths[split].name}, column '{name}'" for split, name in places]
        forms = aligned([Ids(where, text) for where, text in zip(wheres, texts)], self.notes)
        for (split, name), form, v in zip(places, forms, values):
            text = form.cast(pl.String).fill_null("").to_numpy().astype(object)
            self.tables[split][name] = text.reshape(v.shape)

    def _property(
        self, n: int, codes: _Codes, items: dict[str, np.ndarray], histories: dict[str, np.ndarray], size: int
    ) -> np.ndarray:
        """(items,) what the further fields say of each item; they must say one thing."""
        pairs = []
        for name in SPLITS:
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

    def _row_column(self, name: str, out: Output) -> dict[str, np.ndarray] | None:
        """split -> values of a row feature, or None where it is left out."""
        parts = {split: table[name] for split, table in self.tables.items()}
        spec = self.specs.get(name)
        kind = spec.get("type", "categorical") if spec else _kind_of(parts)
        if any(part.ndim != 1 for part in parts.values()) or kind not in ("categorical", "numeric", "meta"):
            self.notes.append(f"'{name}' ({kind}) left out: rows hold single values.")
            return None
        if kind == "numeric":
            try:
                parts = {s: floats(self.paths[s], name, v) for s, v in parts.items()}
            except DataError as error:
                if spec:
                    raise
                self.notes.append(f"'{name}' left out: {error}")
                return None
            out.feature(own(name), "numeric")
            return parts
        self._to_one_form(name)
        parts = {split: table[name] for split, table in self.tables.items()}
        size = spec.get("vocab_size", 0) if spec else 0
        if parts["train"].dtype.kind not in "iu":
            # the vocabulary is that of the training rows; what comes later only is unknown, 0
            train = pl.Series(parts["train"], dtype=pl.String)
            known = train.filter(train != "").unique().sort().to_list()
            texts, parts = parts, {s: codes_of(pl.Series(v, dtype=pl.String), known) for s, v in parts.items()}
            size, self.vocabularies[own(name)] = len(known) + 1, known
            for s, codes in parts.items():
                if unknown := int(((codes == 0) & (texts[s] != "")).sum()):
                    self.notes.append(
                        f"'{name}': {unknown} of {len(codes)} rows of {s} hold a value of no training row: unknown, 0."
                    )
        for s, v in parts.items():
            below(self.paths[s], name, v, 2**31, "codes")
        size = max(size, max(int(v.max()) for v in parts.values()) + 1)
        if kind == "meta":
            out.feature(own(name), kind)
            return parts
        sparse = is_sparse(size, sum(map(len, parts.values())))
        if sparse:
            self.notes.append(too_sparse(name, size))
        out.feature(own(name), kind, active=not sparse, vocab_size=size)
        return parts

    def _say_what_was_taken(self, columns: dict[str, dict[str, np.ndarray] | None]) -> None:
        """Without a feature map nobody has said which columns are numbers and which are categories."""
        taken = {name: parts["train"] for name, parts in columns.items() if parts and name not in self.specs}
        numeric = [f"'{name}'" for name, values in taken.items() if values.dtype.kind == "f"]
        categorical = [f"'{n}' ({len(np.unique(v))} values)" for n, v in taken.items() if v.dtype.kind != "f"]
        if numeric:
            self.notes.append(f"Taken as numeric, for their fractions: {', '.join(numeric)}.")
        if categorical:
            self.notes.append(
                f"Taken as categorical: {', '.join(categorical)}. Where that is wrong, set active: false in "
                "dataset_config.yaml, or write the column as floating point numbers to parquet."
            )


def _kind_of(parts: dict[str, np.ndarray]) -> str:
    """What a column is where no feature map says it: numbers with a fraction are numeric, in a csv file too."""
    if any(part.dtype.kind == "f" for part in parts.values()):
        return "numeric"
    if any(part.dtype.kind in "iu" or part.ndim != 1 for part in parts.values()):
        return "categorical"
    texts = [pl.Series(part, dtype=pl.String).str.strip_chars() for part in parts.values()]
    numbers = [text.cast(pl.Float64, strict=False) for text in texts]
    fractions = not any(n.null_count() for n in numbers) and any((n != n.floor()).any() for n in numbers)
    return "numeric" if fractions else "categorical"


class _Codes:
    """Encoded ids as they are, or text and numbers with wide gaps -> 1, 2, …"""

    def __init__(self, folder: Path, name: str, parts: list[np.ndarray], size: int, notes: list[str]) -> None:
        self._numbering: Numbering | None = None
        if all(part.dtype.kind in "iu" for part in parts):
            least = min(int(part.min(initial=0)) for part in parts)
            if least < 0:
                raise DataError(f"{folder}, field '{name}': expected ids from 0 on, found {least}. Encode it again.")
            known = np.unique(np.concatenate(parts))
            self.size = max(size, 1 + int(known.max(initial=0)))
            if not size and is_sparse(self.size, len(known)):
                notes.append(f"'{name}': {len(known)} ids up to {known.max()} are numbered anew, from 1; 0 is padding.")
                self._numbering = Numbering(pl.Series(known[known > 0]))
        else:
            series = pl.concat([pl.Series(part.astype(object), dtype=pl.String) for part in parts])
            self._numbering = Numbering(series.filter(series != ""))
        if self._numbering:
            self.size = len(self._numbering) + 1

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if self._numbering is None:
            return values.astype(np.int32)
        whole_numbers = self._numbering.ids.dtype == pl.Int64
        flat = pl.Series(values.reshape(-1), dtype=None if whole_numbers else pl.String)
        codes = self._numbering(flat).reshape(values.shape)
        return np.where(values == 0, 0, codes).astype(np.int32) if whole_numbers else codes

    @property
    def terms(self) -> list[str]:
        """What stood for 1, 2, …; empty where codes are those of the files."""
        return [] if self._numbering is None else self._numbering.ids.cast(pl.String).to_list()

    def table(self, name: str) -> pl.DataFrame:
        ids = np.arange(1, self.size, dtype=np.int32)
        original = ids if self._numbering is None else self._numbering.ids
        return pl.DataFrame({name: ids, "original_id": original})


def _load(path: Path, sequences: list[str], notes: list[str]) -> dict[str, np.ndarray]:
    """column -> (n,), or (n, width) for sequences; text for csv, what the file holds otherwise."""
    with readable(path):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                table = {name: archive[name] for name in archive.files}
        elif path.suffix == ".parquet":
            frame = pl.read_parquet(path, glob=False)
            table = {name: _array(frame[name], False, name in sequences) for name in frame.columns}
        else:
            text = Table(path, ",", quoted=True)
            notes += text.notes
            table = {name: _array(text.frame[name], True, name in sequences) for name in text.names}
    if not table or not all(len(v) for v in table.values()):
        raise DataError(f"{path}: expected at least one row, found none. Fetch or write it again.")
    return table


def _array(series: pl.Series, text: bool, sequence: bool) -> np.ndarray:
    if text and (sequence or series.str.contains("^", literal=True).any()):
        series = series.fill_null("").str.split("^")  # FuxiCTR's separator within a sequence
    if isinstance(series.dtype, (pl.List, pl.Array)):
        return padded(series, "right")
    return series.fill_null("").to_numpy().astype(object) if series.dtype == pl.String else series.to_numpy()


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected FuxiCTR's feature map with 'features' and 'labels' ({first_line(error)}). Take the file "
            "that FuxiCTR wrote beside the data."
        ) from None
