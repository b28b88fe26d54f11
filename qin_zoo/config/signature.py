"""What a model's constructors say about its parameters: their names and, where annotated, their types."""

from __future__ import annotations

import inspect
import math
import re
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Annotated, Any, Union

from pydantic import BeforeValidator, PydanticUserError, Strict, TypeAdapter, ValidationError

from qin_zoo.config import values

NOT_CONFIGURABLE = ("self", "feature_map")
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 60
# Texts that FuxiCTR evaluates, looks up or takes apart, by the last word of a parameter's name.
_TEXTS: dict[str, tuple[str, Callable[[object], object]]] = {
    "initializer": (values.INITIALIZERS, values.check_initializer),
    "output_activation": (values.ACTIVATIONS, lambda value: values.check_activation(value, output=True)),
    "activation": (values.ACTIVATIONS, values.check_activation),
    "activations": (values.ACTIVATIONS, values.check_activation),
    "regularizer": (values.REGULARIZERS, values.check_regularizer),
}
# Ranges of numbers, or of the numbers in a list, by FuxiCTR's names: pattern -> least, greatest, expected.
_RANGES: dict[str, tuple[float, float, str]] = {
    r"(.*_)?dropout(_rates?)?": (0, math.nextafter(1, 0), "a number of at least 0 and less than 1"),
    r"(.*_)?(units|dims?)": (1, values.LARGEST_SIZE, f"whole numbers from 1 to {values.LARGEST_SIZE}"),
    r"(.*_)?layers": (0, 1000, "a whole number from 0 to 1000"),
    r"loss_alpha": (0, 1, "a number from 0 to 1"),
    r"(pos|neg)_weight|focal_gamma": (0, 2**31, "a number of at least 0"),
    r"num_.*": (1, values.LARGEST_SIZE, f"a whole number from 1 to {values.LARGEST_SIZE}"),
    r".*": (-(2**31), 2**31, "numbers between -2^31 and 2^31"),
}


class Rejected(Exception):
    """A value that is not of its key's type; the message says "expected …, got …"."""

    def __init__(self, expected: str, value: object, reason: str = ""):
        super().__init__(f"expected {expected}, got {_SHOWN.repr(value)}.{' ' * bool(reason)}{reason}")


def constructor_params(model_class: type) -> dict[str, Callable[[object], object]]:
    """Named parameters of a class's constructor and of those it inherits from, up to ``torch.nn.Module``.

    Returns:
        name -> a check of its values that returns the value, numbers converted, or raises :class:`Rejected`.
    """
    checks: dict[str, Callable[[object], object]] = {}
    for cls in model_class.__mro__:
        if cls is object or (cls.__module__.startswith("torch.nn.") and cls.__name__ == "Module"):
            break
        init = vars(cls).get("__init__")
        if init is None:
            continue
        for name, parameter in inspect.signature(init).parameters.items():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if named and name not in NOT_CONFIGURABLE:
                checks.setdefault(name, _annotated_check(parameter, init, cls.__name__))
    return checks


def _annotated_check(parameter: inspect.Parameter, init: Callable, owner: str) -> Callable[[object], object]:
    annotation = _resolved(parameter, init)
    adapter = _adapter(annotation)
    shown = inspect.formatannotation(annotation) if adapter else ""

    def check(value: object) -> object:
        _check_plain(value)
        if adapter is not None and not (value is None and parameter.default is None):
            try:
                value = adapter.validate_python(value)
            except ValidationError:
                raise Rejected(f"{shown}, as {owner} declares it", value) from None
        _check_named(parameter.name, value)
        return _fields(parameter.name, value, parameter.default)

    return check


def check_undeclared(name: str, value: object) -> object:
    """A value for a model's ``**kwargs``: anything plain, but for texts that FuxiCTR would evaluate.

    Raises:
        Rejected: it is neither.
    """
    _check_plain(value)
    _check_text(name, value)
    return _fields(name, value, None)


def _fields(name: str, value: object, default: object) -> object:
    """A field list in its one form, or as a tuple where that is the parameter's default: such models know no lists."""
    if not re.search(r"_fields?$", name) or not isinstance(value, (list, tuple)):
        return value
    try:
        fields = values.field_list(value)
    except ValueError:
        return value  # of the model's own making
    if isinstance(default, tuple):
        if len(fields) == 1 and isinstance(fields[0], tuple):
            return fields[0]
        if fields and all(isinstance(name, str) for name in fields):
            return tuple(fields)
    return fields


def _check_text(name: str, value: object) -> None:
    expected, check_text = next((t for end, t in _TEXTS.items() if f"_{name}".endswith(f"_{end}")), (None, None))
    if check_text and (isinstance(value, str) or (isinstance(value, list) and value)):
        try:
            check_text(value)
        except ValueError as error:
            raise Rejected(expected, value, str(error)) from None


def _check_named(name: str, value: object) -> None:
    """Refuses what no parameter of this name can be; whether it is text or a number the annotation says."""
    _check_text(name, value)
    low, high, expected = next(r for pattern, r in _RANGES.items() if re.fullmatch(pattern, name))
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, (int, float)) and not isinstance(number, bool) and not low <= number <= high:
            raise Rejected(expected, value)


def _check_plain(value: object) -> None:
    """Refuses what YAML has beside null, booleans, numbers, text, lists and mappings; NaN is no number."""
    if isinstance(value, (list, tuple)):
        for part in value:
            _check_plain(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise Rejected("text as keys", key, "Put it in quotes.")
            _check_plain(part)
    elif not isinstance(value, (str, int, float, bool, type(None))) or value != value:
        raise Rejected("text, a number, true, false, null, a list or a mapping", value, "Put text in quotes.")


def _resolved(parameter: inspect.Parameter, init: Callable) -> object:
    """The annotation as a type; ``parameter.empty`` where there is none or it cannot be told at run time."""
    holder = types.SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        return typing.get_type_hints(holder, globalns=getattr(init, "__globals__", {}), include_extras=True)["it"]
    except Exception:  # a name imported under TYPE_CHECKING only, or anything else in somebody's code
        return parameter.empty


def _adapter(annotation: object) -> TypeAdapter | None:
    if annotation in (inspect.Parameter.empty, Any, object):
        return None
    try:
        return TypeAdapter(_strict(annotation))
    except (PydanticUserError, TypeError):
        return None  # no type of values a file could hold


def _strict(annotation: object) -> object:
    """The annotation with our notion of numbers: text like ``1e-3`` counts, booleans do not."""
    whole, real = BeforeValidator(values.to_whole), BeforeValidator(values.to_real)
    leaf = {int: whole, float: real, bool: Strict(), str: Strict()}
    if isinstance(annotation, type) and annotation in leaf:
        return Annotated[annotation, leaf[annotation]]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return Annotated[(_strict(arguments[0]), *arguments[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_strict, arguments))]  # noqa: UP007 - there is no such X | Y
    if origin in (Iterable, Collection, Sequence):
        origin = list  # pydantic would make a generator of an Iterable
    if origin in (list, tuple, dict):
        return origin[tuple(a if a is Ellipsis else _strict(a) for a in arguments)]
    return annotation
