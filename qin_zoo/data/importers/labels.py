"""Which interactions are clicks: ``rating>=4``, a column of 0 and 1, or ``implicit``."""

from __future__ import annotations

import operator
import re

import numpy as np

from qin_zoo.data.importers.log import InteractionLog
from qin_zoo.errors import DataError, suggest

_RULE = re.compile(r"\s*([^\s<>=!]+)\s*(>=|<=|==|!=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
_NAME = re.compile(r"\s*([^\s<>=!]+)\s*")
_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def clicks(log: InteractionLog, rule: str | None) -> tuple[np.ndarray, str]:
    """Which interactions are clicks, (n,) bool, and the rule that said so.

    Raises:
        DataError: a rule that is none, an unknown column, or one that does not hold 0 and 1.
    """
    rule = log.default_label if rule is None else rule
    if rule.strip() == "implicit":
        return np.ones(len(log.user), bool), "implicit"
    if match := _RULE.fullmatch(rule):
        name, sign, number = match.groups()
        return _COMPARE[sign](_column(log, name), float(number)), f"{name}{sign}{number}"
    if not (match := _NAME.fullmatch(rule)):
        raise DataError(
            f"--label: expected a rule such as 'rating>=4', a column of 0 and 1, or 'implicit', found '{rule}'. "
            "A rule is COLUMN OP NUMBER, where OP is one of >=, >, <=, <, ==, !=."
        )
    name = match.group(1)
    values = _column(log, name)
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if wrong.size:
        raise DataError(
            f"{log.path}, column '{name}', data row {wrong[0] + 1}: expected a label, 0 or 1, found "
            f"{values[wrong[0]]:g}. Say which values are clicks, for example --label '{name}>=4'."
        )
    return values == 1, name


def _column(log: InteractionLog, name: str) -> np.ndarray:
    if name not in log.columns:
        known = [*log.columns, "implicit"]
        raise DataError(
            f"--label: {log.path} has no numeric column '{name}'.{suggest(name, known)} "
            f"Possible: {', '.join(log.columns) or 'no column'}; or 'implicit' (every interaction is a click)."
        )
    values = log.columns[name]
    bad = np.flatnonzero(np.isnan(values))
    if bad.size:
        raise DataError(
            f"{log.path}, column '{name}', data row {bad[0] + 1}: expected a number, found none. Fill it in, drop "
            "the row, or choose another --label."
        )
    return values
