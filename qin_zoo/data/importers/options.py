"""The choices of an import, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from qin_zoo.errors import DataError, suggest

_SPLITS = ("time", "leave-one-out", "given")


@dataclass(frozen=True)
class ImportOptions:
    """What becomes a click, a history, a split and a negative.

    Attributes:
        label: ``COLUMN OP NUMBER``, the name of a column of 0 and 1, or ``implicit``; None: the format's own,
            or its column of clicks of 0 and 1.
        history: ``clicks`` or ``all``: which of the earlier interactions enter a history; None: clicks, or what
            suits the format.
        history_column: ``label``, or a column of the log with whole numbers, that is written beside the ids of the
            history, entry by entry; None: none, or what suits the format.
        max_history: entries of a history, padding included; the newest are kept.
        split: ``time``, ``leave-one-out`` or ``given``; None: ``given`` where the source has splits, else ``time``
            where it has times, else ``leave-one-out``.
        valid_share, test_share: of the interactions, for ``time``.
        negatives: rows sampled for each click; None: 1 where every interaction is a click, else 0.
        known: ``levels`` or ``all``: the columns of what was known at a row's moment, see ``build.py``; None: levels,
            or what suits the format.
        max_rows_per_user: training interactions of a user that become rows, the newest; None: all. Histories and
            counts keep the others.
        seed: same seed, same negatives.
        embedding: the item embedding that enters ``item_info``; None: the image's, or the first.
        extend: folder of an earlier import whose numbers of users, items and categories stay; None: number anew.
        only_new: rows are those of interactions that the earlier import does not hold; histories and counts see all.
        force: replace an earlier import in the same folder.
    """

    label: str | None = None
    history: str | None = None
    history_column: str | None = None
    max_history: int = 100
    split: str | None = None
    valid_share: float = 0.1
    test_share: float = 0.1
    negatives: int | None = None
    known: str | None = None
    max_rows_per_user: int | None = None
    seed: int = 1
    embedding: str | None = None
    extend: str | None = None
    only_new: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        for name, possible in (("history", ("clicks", "all")), ("split", _SPLITS), ("known", ("levels", "all"))):
            value = getattr(self, name)
            if value not in (None, *possible):
                near = suggest(value, possible)
                raise DataError(f"--{name}: expected one of {', '.join(possible)}, found '{value}'.{near}")
        if self.only_new and self.extend is None:
            raise DataError("--only-new: expected the import that is extended, found none. Give --extend DIR.")
        for name, least in (("max_history", 1), ("seed", 0), ("negatives", 0), ("max_rows_per_user", 1)):
            value = getattr(self, name)
            wrong = isinstance(value, bool) or not isinstance(value, int) or value < least
            if wrong and (value is not None or name in ("max_history", "seed")):
                option = name.replace("_", "-")
                raise DataError(f"--{option}: expected a whole number of at least {least}, found {value!r}.")
        shares = (self.valid_share, self.test_share)
        if not all(0 < share < 1 for share in shares) or sum(shares) >= 1:
            raise DataError(
                "--valid-share, --test-share: expected two shares above 0 that leave something for training, "
                f"found {self.valid_share} and {self.test_share}. Their sum has to be below 1, for example 0.1 and 0.1."
            )
