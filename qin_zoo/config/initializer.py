"""FuxiCTR's initialiser strings, checked without being evaluated."""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import warnings

from qin_zoo.errors import suggest

INITIALIZERS = "nn.init.NAME_ or partial(nn.init.NAME_, key=number, …)"


def check_initializer(value: object) -> str:
    """Checks an initialiser, which FuxiCTR evaluates, by its syntax tree; never evaluates it.

    Accepted: ``nn.init.NAME_`` and ``partial(nn.init.NAME_, key=number or word, …)``, also with ``torch.nn``,
    where NAME_ is one of ``torch.nn.init`` and the keys are its own.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError
    keywords: list[ast.keyword] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd literals, which are refused below
            node = ast.parse(value, mode="eval").body
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) != "partial" or len(node.args) != 1:
                raise ValueError
            node, keywords = node.args[0], node.keywords
        name = ast.unparse(node)
    except (SyntaxError, UnicodeError, MemoryError, RecursionError) as error:
        raise ValueError("It is not a Python expression.") from error
    from torch.nn import init

    known = [n for n, f in vars(init).items() if re.fullmatch(r"[a-z]\w*_", n) and inspect.isfunction(f)]
    match = re.fullmatch(r"(?:torch\.)?nn\.init\.([a-z]\w*_)", name)
    if not match or match[1] not in known:
        raise ValueError(f"torch.nn.init has no '{match[1]}'.{suggest(match[1], known)}" if match else "")
    parameters = list(inspect.signature(getattr(init, match[1])).parameters.values())[1:]  # the first is the tensor
    accepted = [p.name for p in parameters if p.name != "generator"]
    for keyword in keywords:
        if keyword.arg not in accepted:
            raise ValueError(f"{match[1]} takes {', '.join(accepted) or 'nothing'}.")
        literal = None
        with contextlib.suppress(ValueError, TypeError):
            literal = ast.literal_eval(keyword.value)
        if type(literal) not in (int, float, str):
            raise ValueError(f"The value of {keyword.arg} must be a number or a word in quotes.")
    missing = {p.name for p in parameters if p.default is p.empty} - {k.arg for k in keywords}
    if missing:
        raise ValueError(
            f"{match[1]} needs {', '.join(sorted(missing))}: partial(nn.init.{match[1]}, {min(missing)}=…)."
        )
    return value
