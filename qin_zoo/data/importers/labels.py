"""Which interactions are clicks: ``rating>=4``, a column of 0 and 1, or ``implicit``."""

from __future__ import annotations

import re
from operator import eq, ge, gt, le, lt, ne

import numpy as np

from qin_zoo.data.importers.log import InteractionLog
from qin_zoo.errors import DataError, QinZooError, suggest

_CLICKS = ("click", "label", "like")
_RULE = re.compile(r"\s*([^<>=!]+?)\s*(>=|<=|==|!=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
_NAME = re.compile(r"\s*([^<>=!]+?)\s*")
_COMPARE = {">=": ge, "<=": le, "==": eq, "!=": ne, ">": gt, "<": lt}


def clicks(log: InteractionLog, rule: str | None) -> tuple[np.ndarray, str]:
    """Which interactions are clicks, (n,) bool, and the rule that said so; notes the columns that are not used.

    Raises:
        DataError: a rule that is none, an unknown column, one that does not hold 0 and 1, or no rule where a column
            of 0 and 1 may be one.
    """
    rule = _default(log) if rule is None else rule
    if rule.strip() == "implicit":
        name, found, rule = "", np.ones(len(log.user), bool), "implicit"
    elif match := _RULE.fullmatch(rule):
        name, sign, number = match.groups()
        found, rule = _COMPARE[sign](number_column(log, name), float(number)), f"{name}{sign}{number}"
    elif match := _NAME.fullmatch(rule):
        rule = name = match.group(1)
        values = number_column(log, name)
        wrong = np.flatnonzero((values != 0) & (values != 1))
        if wrong.size:
            raise DataError(
                f"{log.at(name, wrong[0])}: expected a label, 0 or 1, found {values[wrong[0]]:g}. Say which values are "
                f"clicks, for example --label '{name}>=4'."
            )
        found = values == 1
    else:
        raise DataError(
            f"--label: expected a rule such as 'rating>=4', a column of 0 and 1, or 'implicit', found '{rule}'. "
            "A rule is COLUMN OP NUMBER, where OP is one of >=, >, <=, <, ==, !=."
        )
    if left_out := [f"'{other}'" for other in (*log.columns, *log.others) if other != name]:
        log.notes.append(
            f"{log.path.name}: column{'s' * (len(left_out) > 1)} {', '.join(left_out)} left out: rows keep user, item, "
            "time and label."
        )
    return found, rule


def rule_column(rule: str) -> str:
    """The column that a rule asks; the rule itself where it names none."""
    match = _RULE.fullmatch(rule)
    return match.group(1) if match else rule.strip()


def _default(log: InteractionLog) -> str:
    """The rule where none is asked for: the source's, unless columns of 0 and 1 say that not every row is a click."""
    if log.kept is not None:
        return log.default_label  # said by the person, or guessed and told
    rated = _RULE.fullmatch(log.default_label)
    flags = [name for name in ([rated[1]] if rated else log.columns) if _may_be_label(log, name)]
    if not flags or log.default_label in log.columns:
        return log.default_label
    if len(flags) == 1 and (rated or _sounds_like_clicks(flags[0])):
        log.notes.append(f"Clicks are rows with 1 in the column '{flags[0]}'; with --label implicit, every row is one.")
        return flags[0]
    raise DataError(
        f"{log.path}: expected one column of 0 and 1 that is called label or click, found {', '.join(flags)}. "
        f"Say which rows are clicks: --label {flags[0]}, or --label implicit if all are."
    )


def _may_be_label(log: InteractionLog, name: str) -> bool:
    """Whether a column holds 0 and 1, or is called a label and holds 0 alone."""
    try:
        values = log.columns[name]()
    except QinZooError:
        return False
    known = values[~np.isnan(values)]
    zeros = int((known == 0).sum())
    return (
        zeros > 0
        and (zeros < len(known) or _sounds_like_clicks(name))
        and bool(np.isin(known, (0, 1)).all())
        and len(known) >= len(values) / 2
    )


def _sounds_like_clicks(name: str) -> bool:
    return any(word in name.lower() for word in _CLICKS)


def number_column(log: InteractionLog, name: str, option: str = "--label", other: str = "implicit") -> np.ndarray:
    """(n,) float64, a column of the log without gaps; ``option`` asked for it, and takes ``other`` besides.

    Raises:
        DataError: there is no such column, or a row has no number in it.
    """
    if name not in log.columns:
        raise DataError(
            f"{option}: {log.path} has no column '{name}'.{suggest(name, [*log.columns, other])} "
            f"Possible: {', '.join([*log.columns, other])}."
        )
    values = log.columns[name]()
    bad = np.flatnonzero(np.isnan(values))
    if bad.size:
        raise DataError(
            f"{log.at(name, bad[0])}: expected a number, found none. Fill it in, drop the row, or change {option}."
        )
    return values
