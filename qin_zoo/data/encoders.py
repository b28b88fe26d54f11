"""Feature encoders named in files: checked here, because FuxiCTR evaluates their text as Python."""

from __future__ import annotations

import ast

from qin_zoo.errors import ConfigError, suggest

# constructor -> (argument, type, may be left out)
_KNOWN: dict[str, tuple[tuple[str, type, bool], ...]] = {
    "layers.MaskedAveragePooling": (),
    "layers.MaskedSumPooling": (),
    "nn.Identity": (),
    "nn.Flatten": (),
    "layers.KMaxPooling": (("k", int, False), ("dim", int, False)),
    "nn.Linear": (("in_features", int, False), ("out_features", int, False), ("bias", bool, True)),
}
_LONGEST = 200  # characters; deep nesting would exhaust the parser long before it means anything


def check_encoder(encoder: object, where: str) -> None:
    """Raises ConfigError unless ``encoder`` is None or one or several known constructors with plain arguments.

    Args:
        encoder: a ``feature_encoder`` entry: text, a list of texts, or None.
        where: the file and feature it stands in, for the message.
    """
    if encoder is None:
        return
    texts = encoder if isinstance(encoder, list) and encoder else [encoder]
    for text in texts:
        if not isinstance(text, str) or len(text) > _LONGEST:
            raise _refused(where, str(text)[:60], "expected text such as 'layers.MaskedAveragePooling()'")
        try:
            call = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise _refused(where, text, "it is not a call") from None
        _check_call(call, where, text)


def _check_call(call: ast.expr, where: str, text: str) -> None:
    if not (
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)
    ):
        raise _refused(where, text, "it is not a call of one of them")
    name = f"{call.func.value.id}.{call.func.attr}"
    if name not in _KNOWN:
        raise _refused(where, text, f"'{name}' is not one of them.{suggest(name, _KNOWN)}")
    arguments = _KNOWN[name]
    given: dict[str | None, ast.expr] = dict(zip((a for a, _, _ in arguments), call.args))
    repeated = [k.arg for k in call.keywords if k.arg in given]
    given |= {k.arg: k.value for k in call.keywords}
    names = [a for a, _, _ in arguments]
    if len(call.args) > len(arguments) or repeated or any(a not in names for a in given):
        raise _refused(where, text, f"{name} takes the arguments ({', '.join(names)})")
    for argument, kind, optional in arguments:
        if argument not in given and not optional:
            raise _refused(where, text, f"{name} needs the argument '{argument}'")
        if argument in given and not _is_plain(given[argument], kind):
            raise _refused(where, text, f"expected a plain {kind.__name__} for '{argument}'")


def _is_plain(node: ast.expr, kind: type) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return isinstance(node, ast.Constant) and type(node.value) is kind


def _refused(where: str, text: str, why: str) -> ConfigError:
    return ConfigError(
        f"{where}: feature_encoder {text!r} is refused: {why}. Allowed are null and "
        "layers.MaskedAveragePooling(), layers.MaskedSumPooling(), layers.KMaxPooling(k=…, dim=…), nn.Identity(), "
        "nn.Flatten() (the embeddings of a list side by side), nn.Linear(in, out, bias=True|False), or a list of these."
    )
