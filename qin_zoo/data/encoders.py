"""Feature encoders named in files: checked here, because FuxiCTR evaluates their text as Python."""

from __future__ import annotations

import ast
import inspect

from qin_zoo.errors import ConfigError, suggest

# constructor -> its arguments: whole numbers, but for bias
_KNOWN = {
    "layers.MaskedAveragePooling": inspect.signature(lambda: None),
    "layers.MaskedSumPooling": inspect.signature(lambda: None),
    "nn.Identity": inspect.signature(lambda: None),
    "nn.Flatten": inspect.signature(lambda: None),
    "layers.KMaxPooling": inspect.signature(lambda k, dim: None),
    "nn.Linear": inspect.signature(lambda in_features, out_features, bias=True: None),
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
    for text in encoder if isinstance(encoder, list) and encoder else [encoder]:
        if problem := _problem(text):
            raise ConfigError(
                f"{where}: feature_encoder {str(text)[:60]!r} is refused: {problem}. Allowed are null and "
                "layers.MaskedAveragePooling(), layers.MaskedSumPooling(), layers.KMaxPooling(k=…, dim=…), "
                "nn.Identity(), nn.Flatten() (the embeddings of a list side by side), nn.Linear(in, out, "
                "bias=True|False), or a list of these."
            )


def _problem(text: object) -> str:
    """Why this is no encoder; empty where it is one."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        return "expected text such as 'layers.MaskedAveragePooling()'"
    try:
        call = ast.parse(text.strip(), mode="eval").body
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        name = ""
    if name not in _KNOWN:
        return f"'{name}' is not one of them.{suggest(name, _KNOWN)}" if name else "it is not a call of one of them"
    try:
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        given = _KNOWN[name].bind(*map(ast.literal_eval, call.args), **named).arguments
    except (TypeError, ValueError) as error:
        return f"expected {name}{_KNOWN[name]} with plain values ({error})"
    wrong = [key for key, value in given.items() if type(value) is not (bool if key == "bias" else int)]
    return f"expected a plain {'bool' if wrong[0] == 'bias' else 'int'} for '{wrong[0]}'" if wrong else ""
