"""FuxiCTR's data sets, whose rows, histories and splits are made already.

LongCTR: rows of user_index, item_index, seq_len and a label, ``user_info.parquet`` with one ``full_item_seq`` per
user, ``item_info.parquet`` indexed by item_index. A row's history is the first seq_len entries, the newest of them.

Classic fields: ``train``, ``valid`` and ``test`` as npz, parquet or csv, npz and parquet being encoded as
``feature_map.json`` beside them says; without one, numbers with a fraction are numeric and all else categorical,
and an import says which. ``target_field`` and ``sequence_field`` are lists that go together: the first
pair is the item itself, further pairs are properties of the item (its category). What lies in a history is taken
as it stands: a source that looked into the future cannot be mended here.

The public ``x1`` folders hold train and test only, and the leaderboards validate on the test rows: so does an import,
which says so.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from qin_zoo.data import SPLITS
from qin_zoo.data.importers.classic import ClassicFields
from qin_zoo.data.importers.longctr import convert_users
from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.data.importers.tables import folder_of
from qin_zoo.data.importers.write import ImportSummary, Output
from qin_zoo.errors import DataError
from qin_zoo.files import found_in

EXPECTED = (
    "LongCTR's train, valid, test, user_info and item_info.parquet, or train, valid and test as npz, parquet or csv "
    "(with feature_map.json for npz and parquet)"
)
_SUFFIXES = (".parquet", ".npz", ".csv")


def convert(
    path: str | Path,
    out: Output,
    options: ImportOptions,
    about: dict,
    target: list[str],
    sequence: list[str],
    user: str | None,
) -> ImportSummary:
    """Converts a folder of either layout.

    Args:
        path: the folder; only read.
        out: where it is written.
        options: of the import; those that FuxiCTR's data has no use for are refused.
        about: what ``import.json`` says of the source.
        target, sequence, user: fields of a classic data set.

    Raises:
        DataError: a file, field or option that cannot be used.
    """
    folder = folder_of(path, EXPECTED)
    default = ImportOptions()
    for name in ("history", "history_column", "negatives", "known", "max_rows_per_user", "embedding"):
        if getattr(options, name) != getattr(default, name):
            option = name.replace("_", "-")
            raise DataError(f"--{option}: FuxiCTR's data sets bring their own rows and histories. Leave it out.")
    if options.split not in (None, "given"):
        raise DataError(f"--split {options.split}: FuxiCTR's data sets bring their own. Use given, or leave it out.")
    notes: list[str] = []
    splits = {name: _split_file(folder, name, notes) for name in SPLITS}
    used = {**asdict(options), "split": "given", "negatives": 0}
    if (folder / "user_info.parquet").exists():
        if target or sequence or user:
            raise DataError(
                f"{folder}: --target-field, --sequence-field and --user-field are for classic fields; a folder with "
                "user_info.parquet names them by its layout. Leave them out."
            )
        return convert_users(folder, splits, out, options, {**about, "layout": "per user", "options": used}, notes)
    fields = ClassicFields(folder, splits, options.label, target, sequence, user, notes)
    used |= {"target_field": fields.target, "sequence_field": fields.sequence, "label": fields.label}
    return fields.write(out, options, {**about, "layout": "classic fields", "options": used})


def _split_file(folder: Path, name: str, notes: list[str]) -> Path:
    files = [folder / f"{name}{suffix}" for suffix in _SUFFIXES if (folder / f"{name}{suffix}").is_file()]
    if not files and name == "valid":
        test = _split_file(folder, "test", notes)
        notes.append(f"no valid.*: the validation rows are those of {test.name}, as on FuxiCTR's leaderboards.")
        return test
    if len(files) != 1:
        raise DataError(
            f"{folder}: expected {EXPECTED}; found {len(files)} files {name}.* (the folder holds {found_in(folder)}). "
            "Where there is no test split, copy or cut one."
        )
    return files[0]
