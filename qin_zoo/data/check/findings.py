"""What a check can find: the codes, how severe each is and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

SEVERITIES = ("error", "warning", "note")
EXAMPLES = 5
"""Rows and values a finding quotes."""

_FETCH = "Fetch or write the file again."
_ENCODE = "Encode the files again from the same table of ids."
FIX = "`qin-zoo data check DIR --fix OUT` mends a copy."

# code -> (severity, how to mend it)
CODES: dict[str, tuple[str, str]] = {
    # files and columns
    "missing-file": ("error", "Put the file into the folder under this name."),
    "unreadable-file": ("error", _FETCH),
    "empty-file": ("error", "Write the split again; a file without rows cannot be trained on or scored."),
    "missing-column": ("error", "Add the column or rename the one that holds it."),
    "wrong-type": ("error", "Cast the column and write the file again."),
    "history-not-ids": ("error", "Store each history as a list of integer item ids, newest last."),
    "null-value": ("error", f"Fill the nulls (ids: 0, histories: an empty list) or drop those rows. {FIX}"),
    # rows of a split
    "negative-id": ("error", f"Ids count from 0, and 0 is padding: encode the column again. {FIX}"),
    "padding-target": ("warning", f"Item 0 is padding: give the row its item or drop it. {FIX}"),
    "unknown-item": ("error", f"{_ENCODE} {FIX}"),
    "unknown-history-item": ("error", f"{_ENCODE} {FIX}"),
    "unknown-user": ("error", f"Write the split and user_info.parquet from the same data. {FIX}"),
    "history-too-short": ("error", f"Write the split and user_info.parquet from the same data. {FIX}"),
    "label-not-binary": ("error", f"Labels are clicks: map them to 0 and 1. {FIX}"),
    "label-missing": ("error", "Join the labels to the rows; only the test split may lack them."),
    "test-labels": ("error", "Give every test row a label, 0 or 1, or none: leave the column out."),
    "label-one-class": ("error", "Sample rows with both labels; AUC is undefined for one class."),
    "level-out-of-range": ("error", f"Bucket the counts into 0…10 again. {FIX}"),
    "history-length-varies": ("note", "Nothing to do here; FuxiCTR's own loader wants one length."),
    "long-history": ("note", "Nothing to do: models read the newest items."),
    "no-history": ("warning", "Join the histories again; a sequence model has nothing to read."),
    "padding-not-left": ("warning", "Pad on the left, newest item last: loaders cut the newest from the end."),
    "padding-inside": ("warning", "Move the zeros to the front: a loader may count them as items."),
    "target-in-history": ("warning", "Cut each history before its row's own click."),
    # item table and user table
    "item-order": ("error", "Sort by item id and give every id a row: row i has to describe item i."),
    "missing-padding-row": ("error", "Put a row of zeros for item 0 before the first."),
    "duplicate-item": ("error", "Keep one row for each item id."),
    "user-order": ("error", "Sort by user index and give every index a row: row i has to describe user i."),
    "broken-embedding": ("error", f"Replace NaN and infinite values. {FIX}"),
    "embedding-length": ("error", f"Give every item a vector of one length. {FIX}"),
    "zero-embedding": ("warning", f"Compute the item's embedding, or use the mean of the others. {FIX}"),
    "padding-row-not-zero": ("warning", f"Set the padding row to zeros. {FIX}"),
    "repeated-embedding": ("warning", "Look at those items' images and texts: a placeholder was probably embedded."),
    "embedding-norm-outlier": ("warning", "Compute those embeddings again, or normalise all of them."),
    "negative-tag": ("error", f"Tag ids count from 1, and 0 is padding. {FIX}"),
    "tag-beyond-vocabulary": ("warning", f"Encode the tags again, or name their number with --tags. {FIX}"),
    "tag-padding-inside": ("warning", f"Move the zeros to the end. {FIX}"),
    # between rows and files
    "duplicate-rows": ("warning", f"Keep one of each. {FIX}"),
    "contradictory-labels": ("warning", f"Drop them: a model cannot tell them apart. {FIX}"),
    "extreme-user": ("warning", f"Drop them or cap their rows: probably no single person. {FIX}"),
    "split-leakage": ("warning", "Take those rows out of the training split before comparing models."),
    "click-rate-shift": ("note", "Scores are not calibrated across the splits; AUC does not mind."),
    "history-shift": ("warning", "Say it with every figure: other histories are tested than are trained on."),
    "cold-items": ("note", "Nothing to do: the model has only their content to go by."),
    "cold-users": ("note", "Nothing to do: the model has only their history to go by."),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: what it is, a key of :data:`CODES`.
        severity: ``error`` (training fails or is wrong), ``warning`` (look at it) or ``note``.
        file: name of the file.
        column: the column, or None.
        count: rows concerned; 0 where it concerns the file or column as a whole.
        rows: the first few of them, counted from 0.
        message: what was expected, what came.
        mend: how to mend it.
    """

    code: str
    severity: str
    file: str
    column: str | None
    count: int
    rows: tuple[int, ...]
    message: str
    mend: str


class Findings:
    """Collects findings of files that are read piece by piece."""

    def __init__(self) -> None:
        self._found: list[Finding] = []
        self._wrong: dict[tuple[str, ...], tuple[int, list[str]]] = {}  # place among the findings, and what came

    def add(
        self,
        code: str,
        file: str,
        column: str | None,
        message: str,
        mask: np.ndarray | None = None,
        severity: str | None = None,
    ) -> None:
        """Adds one; ``severity`` where it is another than usual, ``mask`` (rows,) where single rows are concerned."""
        usual, mend = CODES[code]
        if severity == "note" and usual != "note":
            mend = "Nothing to do."  # so few, or so ordinary, that it is only said
        rows = np.flatnonzero(mask) if mask is not None else np.empty(0, np.int64)
        shown = tuple(rows[:EXAMPLES].tolist())
        self._found.append(Finding(code, severity or usual, file, column, len(rows), shown, message, mend))

    def wrong(
        self,
        code: str,
        file: str,
        column: str,
        expected: str,
        mask: np.ndarray,
        values: np.ndarray | str = "null",
        first: int = 0,
    ) -> None:
        """Adds the rows of a piece, if there are any, to those of earlier pieces.

        Args:
            code, file, column: what and where.
            expected: what those rows do not hold.
            mask: (n,) which they are.
            values: (n,) what stands there; or what stands in all of them.
            first: the piece's first row.
        """
        rows = np.flatnonzero(mask)
        if not rows.size:
            return
        place, came = self._wrong.setdefault((code, file, column, expected), (len(self._found), []))
        if place == len(self._found):
            self.add(code, file, column, "")
        before = self._found[place]
        some = rows[: EXAMPLES - len(before.rows)]
        here = [values] if isinstance(values, str) else values[some].tolist()
        came += [f"{value:.6g}" if isinstance(value, float) else str(value) for value in here]
        message = f"expected {expected}; found {', '.join(dict.fromkeys(came))}"
        shown = (*before.rows, *(first + some).tolist())
        self._found[place] = replace(before, count=before.count + len(rows), rows=shown, message=message)

    def sorted(self) -> list[Finding]:
        """The worst first; otherwise as they were found."""
        return sorted(self._found, key=lambda f: SEVERITIES.index(f.severity))
