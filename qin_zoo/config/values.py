"""Types of configuration values: what is accepted, what is converted, and how to say what was expected.

Each type is a pydantic annotation with an :class:`Expect` that completes "expected …". Strings that FuxiCTR
hands to ``eval``, or takes as the name of a method to call, have types here that let through only a known
shape, without evaluating it.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, Strict

from qin_zoo.config.blocks import check_id
from qin_zoo.config.initializer import INITIALIZERS, check_initializer
from qin_zoo.errors import ConfigError, suggest
from qin_zoo.feature_types import LONGEST_NAME, can_be_a_name
from qin_zoo.metrics import check_metrics

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LARGEST = 2**31 - 1
LARGEST_SIZE = 2**20  # of a layer or an embedding; what is larger would only exhaust the memory
LONGEST_LIST = 100_000


@dataclass(frozen=True)
class Expect:
    """Completes the sentence "expected …" in messages about the type that carries it."""

    text: str


def to_number(value: object) -> float | int:
    """A number as it is; text like ``1e-3``, no number to YAML 1.1, as a float; ValueError for anything else."""
    if isinstance(value, str) and re.fullmatch(_NUMBER, value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    if (isinstance(value, int) and abs(value) > 10**300) or math.isnan(value):
        raise ValueError
    return value


def to_whole(value: object) -> int:
    """A number without a fraction as int; ValueError for anything else."""
    number = to_number(value)
    if number != number // 1 or math.isinf(number):
        raise ValueError
    return int(number)


def to_real(value: object) -> float:
    """A number as float; ValueError for anything else."""
    return float(to_number(value))


def whole(low: int, high: int = _LARGEST):
    """Whole numbers from ``low`` to ``high``."""
    text = f"a whole number of at least {low}" if high == _LARGEST else f"a whole number from {low} to {high}"
    return Annotated[int, BeforeValidator(to_whole), Field(ge=low, le=high), Expect(text)]


def one_of(*names: str):
    """The type of one of a few words."""

    def check(value: object) -> str:
        if value not in names or not isinstance(value, str):
            raise ValueError(suggest(value, names).strip())
        return value

    return Annotated[str, PlainValidator(check), Expect(f"one of {', '.join(names)}")]


def _no_nul(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError
    return value


def _path(value: str) -> str:
    # what no file system takes would come back as an error from whatever opens it first
    parts = re.split(r"[/\\]", _no_nul(value))
    if len(os.fsencode(value)) > 4000 or any(len(os.fsencode(part)) > 250 for part in parts):
        raise ValueError("Paths have at most 4000 bytes, and 250 between two slashes.")
    return value


def _character(value: str) -> str:
    if len(value) != 1 or not value.isascii() or value in '\n\r\0"':
        raise ValueError
    return value


def _scalar(value: object) -> str | float:
    if not isinstance(value, str):
        number = to_number(value)
        if math.isinf(number):
            raise ValueError
    return value


def _id(value: str) -> str:
    try:
        check_id(value, "it")
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return value


def _class_name(value: str) -> str:
    if not value.isidentifier():
        raise ValueError
    return value


def _feature_name(value: str) -> str:
    if not can_be_a_name(value):
        raise ValueError(f"Feature names become parts of file names, at most {LONGEST_NAME} bytes.")
    return value


def field_list(value: object) -> str | list[str | tuple[str, ...]]:
    """Field lists as FuxiCTR's sequence models read them, in one form.

    Fields in a tuple belong together: their embeddings are concatenated. Fields in a list are each for themselves:
    several targets, each with a history of its own. A tuple alone is a list of one; a list within a list is a tuple
    (JSON, in which a run is recorded, has no tuples).

    Returns:
        a name, or a list of names and tuples of names.

    Raises:
        ValueError: it is none of these, or a name that no feature can have.
    """

    def name(part: object) -> str:
        if not isinstance(part, str):
            raise ValueError
        return _feature_name(part)

    if isinstance(value, str):
        return name(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError
    groups: list[str | tuple[str, ...]] = []
    for part in [value] if isinstance(value, tuple) else value:
        names = tuple(map(name, part)) if isinstance(part, (list, tuple)) and part else (name(part),)
        groups.append(names if len(names) > 1 else names[0])
    return groups


def check_regularizer(value: object) -> float | str | None:
    """Checks a penalty: a weight, null, or FuxiCTR's ``l1(x)``, ``l2(x)``, ``l1_l2(x,y)``.

    Raises:
        ValueError: it is none of these.
    """
    if value is None:
        return None
    pattern = rf"(?:l1|l2)\({_NUMBER}\)|l1_l2\({_NUMBER}, ?{_NUMBER}\)"
    if isinstance(value, str) and re.fullmatch(pattern, value):
        if "-" in re.sub(r"[eE]-", "", value):
            raise ValueError("Weights cannot be negative.")
        return value
    weight = to_real(value)
    if weight < 0 or math.isinf(weight):
        raise ValueError("Weights cannot be negative or infinite.")
    return weight


def _optimizer(value: str) -> str:
    from torch import optim

    known = [
        n for n, c in vars(optim).items()
        if inspect.isclass(c) and issubclass(c, optim.Optimizer) and n not in ("Optimizer", "LBFGS", "SparseAdam")
    ]  # fmt: skip
    if value.lower() != "adam" and value not in known:  # FuxiCTR spells only this one both ways
        raise ValueError(suggest(value, known).strip())
    return value


def _metrics(value: list[str]) -> list[str]:
    try:
        check_metrics(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return value


def _monitor(value: object) -> str | dict[str, float]:
    if isinstance(value, str):
        return _metrics([value])[0]
    if not isinstance(value, dict) or not value:
        raise ValueError
    _metrics(list(value))
    return {metric: to_real(weight) for metric, weight in value.items()}


def _preprocess(value: str) -> str:
    # FuxiCTR calls the method of that name, and its processor has methods that load pickles and write files
    match = re.fullmatch(r"(\w+)(?:\([^()\0]*\))?", value)
    if not match or match[1] not in PREPROCESSORS:
        raise ValueError(suggest(match[1], PREPROCESSORS).strip() if match else "")
    return value


def _pretrained(value: str) -> str:
    if not value.endswith((".h5", ".npz", ".parquet")):
        raise ValueError
    return value


def check_activation(value: object, output: bool = False) -> object:
    """Checks the name of an activation, which FuxiCTR looks up in ``torch.nn`` and calls.

    Args:
        value: a name, or a list of names.
        output: whether it follows the last layer, whose size FuxiCTR does not hand on.

    Raises:
        ValueError: it is none that works without arguments.
    """
    if isinstance(value, list):
        return [check_activation(name, output) for name in value]
    from torch.nn.modules import activation

    sized = ("prelu", "dice")  # FuxiCTR gives these the size of their layer
    known = [*(n for n in activation.__all__ if n not in _NO_ACTIVATIONS), "Dice"]
    if not isinstance(value, str) or (value not in known and value.lower() not in _ACTIVATIONS):
        raise ValueError(suggest(value, known).strip())
    if output and value.lower() in sized:
        raise ValueError(f"{value} is for hidden layers only.")
    return value


PREPROCESSORS = (
    "copy_from",
    "convert_to_bucket",
    "convert_hour",
    "convert_weekday",
    "convert_weekend",
    "extract_country_code",
    "bucketize_age",
)
REGULARIZERS = "a number of at least 0, null, l1(x), l2(x) or l1_l2(x,y)"
ACTIVATIONS = "the name of an activation of torch.nn, or Dice"
_ACTIVATIONS = ("relu", "sigmoid", "tanh", "softmax", "prelu", "dice")  # which FuxiCTR spells in any way
_NO_ACTIVATIONS = ("GLU", "MultiheadAttention", "Softmax2d", "Threshold")  # need arguments, or another shape
_LOSSES = (
    "binary_crossentropy", "binary_cross_entropy", "bce", "published", "focal", "pairwise", "jrc", "mse_loss",
    "l1_loss", "smooth_l1_loss", "huber_loss",
)  # fmt: skip

Flag = Annotated[bool, Strict(), Expect("true or false")]
Count = whole(1)
Index = whole(0)
Size = whole(1, LARGEST_SIZE)
Length = whole(0, LONGEST_LIST)
Positive = Annotated[
    float, BeforeValidator(to_real), Field(gt=0, allow_inf_nan=False), Expect("a number greater than 0")
]
NonNegative = Annotated[
    float, BeforeValidator(to_real), Field(ge=0, allow_inf_nan=False), Expect("a number of at least 0")
]
Norm = Annotated[float, BeforeValidator(to_real), Field(gt=0), Expect("a number greater than 0; .inf for no limit")]
Share = Annotated[float, BeforeValidator(to_real), Field(ge=0, le=1), Expect("a number from 0 to 1")]
Fraction = Annotated[float, BeforeValidator(to_real), Field(gt=0, lt=1), Expect("a number between 0 and 1")]
AnyText = Annotated[str, Strict(), Expect("text")]
Text = Annotated[str, Strict(), AfterValidator(_no_nul), Expect("text that is not empty")]
FilePath = Annotated[str, Strict(), AfterValidator(_path), Expect("a path: text that is not empty")]
Character = Annotated[str, Strict(), AfterValidator(_character), Expect("one ASCII character")]
Scalar = Annotated[Any, PlainValidator(_scalar), Expect("text or a number")]
Id = Annotated[str, Strict(), AfterValidator(_id), Expect("an id that can be a file name")]
ClassName = Annotated[str, Strict(), AfterValidator(_class_name), Expect("the name of a class")]
FeatureName = Annotated[str, Strict(), AfterValidator(_feature_name), Expect("a name without '/', '\\' and '..'")]
Names = Annotated[list[FeatureName], Field(min_length=1), Expect("a list of names")]
Mappings = Annotated[list[dict[str, Any]], Expect("a list of mappings, as in [{name: item_id, dtype: int, …}]")]
Fields = Annotated[
    Any, PlainValidator(field_list), Expect("the name of a feature, or a list of names and of tuples of names")
]
Encoder = Annotated[Text | list[Text], Expect("text or a list of texts")]
Optimizer = Annotated[str, Strict(), AfterValidator(_optimizer), Expect("the name of a torch.optim class")]
_Loss = one_of(*_LOSSES)
_Task = one_of("binary_classification", "regression")
Losses = Annotated[_Loss | list[_Loss], Expect(f"one of {', '.join(_LOSSES)}, or a list of them")]
Tasks = Annotated[_Task | list[_Task], Expect("binary_classification or regression, or a list of them")]
Metrics = Annotated[
    list[str], Field(min_length=1), AfterValidator(_metrics), Expect("a list of metrics, as in [AUC, logloss]")
]
Monitor = Annotated[
    Any, PlainValidator(_monitor), Expect("a metric, or weights of metrics as in {AUC: 1, logloss: -1}")
]
Regularizer = Annotated[Any, PlainValidator(check_regularizer), Expect(REGULARIZERS)]
Initializer = Annotated[str, PlainValidator(check_initializer), Expect(INITIALIZERS)]
Preprocess = Annotated[
    str, Strict(), AfterValidator(_preprocess), Expect(f"one of {', '.join(PREPROCESSORS)}, with or without (column)")
]
Pretrained = Annotated[str, Strict(), AfterValidator(_pretrained), Expect("a file .h5, .npz or .parquet")]
