"""The keys of a configuration that do not belong to a model, and types of values: what is accepted and converted.

Each type is a pydantic annotation with an :class:`Expect` that completes "expected …". Strings that FuxiCTR
hands to ``eval``, or takes as the name of a method to call, have types here that let through only a known
shape, without evaluating it.

The keys of run, training, evaluation and dataset are FuxiCTR's, those of the challenge configurations, and our own,
each with a line of description. A ``None`` default only means that a key may be absent: the defaults of a run are those
of the signatures that receive the parameters.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import math
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, Strict

from qin_zoo.config.blocks import check_id
from qin_zoo.errors import ConfigError, suggest
from qin_zoo.feature_types import FEATURE_TYPES, LONGEST_NAME, can_be_a_name
from qin_zoo.metrics import check_metrics

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LARGEST = 2**31 - 1
LARGEST_SIZE = 2**20  # of a layer or an embedding; what is larger would only exhaust the memory
LONGEST_LIST = 100_000
_NAMES = f"Feature names become parts of file names, at most {LONGEST_NAME} bytes."


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


def real(expected: str, **limits: Any):
    """Numbers within limits, pydantic's ``gt``, ``ge``, ``lt``, ``le``, ``allow_inf_nan``."""
    return Annotated[float, BeforeValidator(to_real), Field(**limits), Expect(expected)]


def _valid(value: Any, check: Callable[[Any], object], reason: str = "") -> Any:
    """The value; ValueError where the check raises ConfigError, or is false, for which there may be a reason."""
    try:
        if check(value) is False:
            raise ValueError(reason)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return value


def text(expected: str, check: Callable[[str], object] = str, reason: str = ""):
    """Texts that a check lets through."""
    return Annotated[str, Strict(), AfterValidator(lambda value: _valid(value, check, reason)), Expect(expected)]


def one_of(*names: str):
    """The type of one of a few words."""

    def check(value: object) -> str:
        if value not in names or not isinstance(value, str):
            raise ValueError(suggest(value, names).strip())
        return value

    return Annotated[str, PlainValidator(check), Expect(f"one of {', '.join(names)}")]


def _is_path(value: str) -> bool:
    # what no file system takes would come back as an error from whatever opens it first
    longest = max(len(os.fsencode(part)) for part in re.split(r"[/\\]", value))
    return 0 < len(os.fsencode(value)) <= 4000 and longest <= 250 and "\0" not in value


def _scalar(value: object) -> str | float:
    if not isinstance(value, str):
        number = to_number(value)
        if math.isinf(number):
            raise ValueError
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
        if not isinstance(part, str) or not can_be_a_name(part):
            raise ValueError(_NAMES if isinstance(part, str) else "")
        return part

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


def _check_optimizer(value: str) -> None:
    from torch import optim

    known = [
        n for n, c in vars(optim).items()
        if inspect.isclass(c) and issubclass(c, optim.Optimizer) and n not in ("Optimizer", "LBFGS", "SparseAdam")
    ]  # fmt: skip
    if value.lower() != "adam" and value not in known:  # FuxiCTR spells only this one both ways
        raise ValueError(suggest(value, known).strip())


def _monitor(value: object) -> str | dict[str, float]:
    if isinstance(value, str):
        return _valid([value], check_metrics)[0]
    if not isinstance(value, dict) or not value:
        raise ValueError
    _valid(list(value), check_metrics)
    return {metric: to_real(weight) for metric, weight in value.items()}


def _check_preprocess(value: str) -> None:
    # FuxiCTR calls the method of that name, and its processor has methods that load pickles and write files
    match = re.fullmatch(r"(\w+)(?:\([^()\0]*\))?", value)
    if not match or match[1] not in PREPROCESSORS:
        raise ValueError(suggest(match[1], PREPROCESSORS).strip() if match else "")


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


def check_activation(value: object, output: bool = False) -> object:
    """Checks the name, or names, of an activation, which FuxiCTR looks up in ``torch.nn`` and calls.

    FuxiCTR hands on the size of a hidden layer, but not that of the ``output``.

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
INITIALIZERS = "nn.init.NAME_ or partial(nn.init.NAME_, key=number, …)"
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
Positive = real("a number greater than 0", gt=0, allow_inf_nan=False)
NonNegative = real("a number of at least 0", ge=0, allow_inf_nan=False)
Norm = real("a number greater than 0; .inf for no limit", gt=0)
Share = real("a number from 0 to 1", ge=0, le=1)
Fraction = real("a number between 0 and 1", gt=0, lt=1)
AnyText = text("text")
Text = text("text that is not empty", lambda value: value != "" and "\0" not in value)
FilePath = text(
    "a path: text that is not empty", _is_path, "Paths have at most 4000 bytes, and 250 between two slashes."
)
Character = text("one ASCII character", lambda value: len(value) == 1 and value.isascii() and value not in '\n\r\0"')
Scalar = Annotated[Any, PlainValidator(_scalar), Expect("text or a number")]
Id = text("an id that can be a file name", lambda value: check_id(value, "it"))
ClassName = text("the name of a class", str.isidentifier)
FeatureName = text("text (2024, on or no in quotes) without '/', '\\' and '..'", can_be_a_name, _NAMES)
Names = Annotated[list[FeatureName], Field(min_length=1), Expect("a list of names")]
Mappings = Annotated[list[dict[str, Any]], Expect("a list of mappings, as in [{name: item_id, dtype: int, …}]")]
Fields = Annotated[
    Any, PlainValidator(field_list), Expect("the name of a feature, or a list of names and of tuples of names")
]
Encoder = Annotated[Text | list[Text], Expect("text or a list of texts")]
Optimizer = text("the name of a torch.optim class", _check_optimizer)
_Loss = one_of(*_LOSSES)
_Task = one_of("binary_classification", "regression")
Losses = Annotated[_Loss | list[_Loss], Expect(f"one of {', '.join(_LOSSES)}, or a list of them")]
Tasks = Annotated[_Task | list[_Task], Expect("binary_classification or regression, or a list of them")]
Metrics = Annotated[
    list[str],
    Field(min_length=1),
    AfterValidator(lambda value: _valid(value, check_metrics)),
    Expect("a list of metrics, as in [AUC, logloss]"),
]
Monitor = Annotated[
    Any, PlainValidator(_monitor), Expect("a metric, or weights of metrics as in {AUC: 1, logloss: -1}")
]
Regularizer = Annotated[Any, PlainValidator(check_regularizer), Expect(REGULARIZERS)]
Initializer = Annotated[str, PlainValidator(check_initializer), Expect(INITIALIZERS)]
Preprocess = text(f"one of {', '.join(PREPROCESSORS)}, with or without (column)", _check_preprocess)
Pretrained = text("a file .h5, .npz or .parquet", lambda value: value.endswith((".h5", ".npz", ".parquet")))


# ---- the keys that do not belong to a model: a new one is added here


def _key(description: str):
    return Field(None, description=description)


class _Keys(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class RunParams(_Keys):
    """Keys of an experiment and its dataset."""

    # the run
    model: ClassName = _key("Name of the model.")
    model_id: Id = _key("Name of checkpoint and log: the experiment id.")
    model_root: FilePath = _key("Folder of checkpoints, logs and records.")
    task: Tasks = _key("What the model predicts; a list for several tasks.")
    gpu: whole(-1) = _key("Index of the GPU, -1 for the CPU.")
    seed: whole(0, 2**32 - 1) = _key("Seed of initialisation, dropout and shuffling.")
    init_from: FilePath | None = _key("Weights to begin with: of a run whose tables may have been smaller.")
    continues: FilePath | None = _key("Record of the run that is trained further, on the next period's rows.")
    continued_weights: Text | None = _key("SHA-256 of the weights of that run.")
    replay: one_of("fesail", "random", "none", "all") = _key("Which earlier rows are trained again beside them.")
    replay_rows: Count | None = _key("How many of them, at most; null for as many as the period has.")
    replay_function: one_of("inverse", "exp") = _key("FeSAIL's weight of a value stale for s periods: 1/s or exp(-s).")
    replay_bias: NonNegative = _key("What is added to that weight.")
    stale_limit: Count = _key("FeSAIL's η: a value stale for longer is held back no more.")
    stale_strength: NonNegative = _key("FeSAIL's λ: how much rows of stale values are held back; 0 for not at all.")
    retire_after: Count | None = _key("Periods without occurring after which a value's row begins anew; null: never.")
    verbose: Index = _key("0 for no progress: no bars on a terminal, no lines elsewhere.")
    tracker: one_of("mlflow", "wandb") | None = _key("Who is told parameters and curves beside TensorBoard's files.")
    recipe: one_of("small", "medium", "published") = _key(
        "Sizes, rates and looks chosen from the number of training rows; published: what the configuration says."
    )
    strict: Flag = _key("A key that a model from elsewhere does not know is an error, as it is for the zoo's own.")
    debug_mode: Flag = _key("FuxiCTR's tuner: give every run a name of its own.")

    # training
    epochs: Count = _key("Passes over the training rows, at most.")
    batch_size: Count = _key("Rows in a batch.")
    shuffle: Flag | one_of("fuxictr") = _key("Shuffle the training rows before every epoch; fuxictr: as FuxiCTR does.")
    num_workers: Index = _key("Processes that load data beside the one that trains.")
    optimizer: Optimizer = _key("Name of a torch.optim class.")
    learning_rate: Positive = _key("Of the optimiser, at the start.")
    loss: Losses = _key("Loss on the predictions; a list for several tasks.")
    max_gradient_norm: Norm = _key("Gradients longer than this are scaled down to it.")
    accumulation_steps: Count = _key("Batches whose gradients make one step of the optimiser.")
    checkpoint_steps: Count | None = _key("Batches between checkpoints; null for one every ten minutes.")
    on_nan: one_of("stop", "rollback") = _key("What to do when a loss is no number; rollback: to the last checkpoint.")
    ema_decay: Fraction | None = _key("Decay, such as 0.999, of a moving average of the weights; that is kept then.")
    reduce_lr_on_plateau: Flag = _key("Reduce the learning rate at every evaluation without gain.")
    factor: Fraction = _key("What the learning rate is then multiplied by.")
    min_lr: NonNegative = _key("Floor of the learning rate.")
    embedding_dim: Size = _key("Size of embeddings of features that do not give their own.")
    embedding_initializer: Initializer = _key("How embedding tables start.")
    embedding_regularizer: Regularizer = _key("Penalty on embedding tables; a number is an L2 weight.")
    net_regularizer: Regularizer = _key("Penalty on all other weights; a number is an L2 weight.")

    # evaluation
    metrics: Metrics = _key("Metrics of every evaluation.")
    monitor: Monitor = _key(
        "Metric, or weighted sum of metrics, that decides which weights are the best; by default AUC, or the first."
    )
    monitor_mode: one_of("max", "min") = _key("Whether more or less of it is better; follows from the metrics.")
    early_stop_patience: Count = _key("Evaluations without gain after which training stops.")
    eval_steps: Count | None = _key("Batches between evaluations; null for one per epoch.")
    save_best_only: Flag = _key("Keep the weights of the best evaluation, not of the last.")

    # the dataset
    dataset_id: Id = _key("Id of the dataset, a block of the dataset configuration.")
    data_root: FilePath = _key("Folder of prepared datasets.")
    data_format: one_of("csv", "parquet", "npz") = _key("Format of the data files.")
    data_loader: ClassName | None = _key("Name of the loader class.")
    train_data: FilePath | None = _key("File or folder of training rows.")
    valid_data: FilePath | None = _key("File or folder of validation rows.")
    test_data: FilePath | None = _key("File or folder of test rows.")
    item_info: FilePath | None = _key("File of the item table.")
    user_info: FilePath | None = _key("File of the users' histories, where they are not in the rows.")
    feature_map_json: FilePath | None = _key("File of the feature map, where the files are encoded already.")
    max_len: Length = _key("Items of the history that are used, the newest; 0 for none.")
    padding: one_of("pre", "post") = _key("Side on which short histories are filled.")
    cache_dir: FilePath | None = _key("Folder of the prepared columns.")
    feature_cols: Mappings = _key("The features, a mapping each.")
    label_col: Mappings = _key("The label, or a list of labels.")
    group_id: FeatureName | None = _key("Column that says which group a row is of, for gAUC and its like.")
    use_features: Names | None = _key("The features to use; null for all.")
    feature_specs: Mappings | None = _key("Changes to the features of the feature map.")
    feature_config: Mappings | None = _key("Older name of feature_specs.")
    target_field: Fields | None = _key("Target items: a feature, or a list; features in a tuple make one together.")
    sequence_field: Fields | None = _key("Their histories, in the same order.")
    encoder_file: FilePath | None = _key("Vocabularies and scales that a run kept; null to fit them to train_data.")
    rebuild_dataset: Flag = _key("Build vocabularies and encode the files; false where they are encoded already.")
    min_categr_count: Count = _key("Rarer categories become unknown.")
    num_buckets: whole(2) = _key("Buckets of features with a category_processor.")
    valid_size: NonNegative = _key("Share, or number, of training rows split off for validation.")
    test_size: NonNegative = _key("Share, or number, of training rows split off for the test.")
    split_type: one_of("sequential", "random") = _key("How they are split off.")
    sep: Character = _key("Separator of columns in csv files.")
    n_rows: Count | None = _key("Rows read from each file; null for all.")
    train_fraction: Share = _key("Share of the training rows that is used.")
    unseen_items: Share = _key("Share of the items that never occur in training.")
    missing_embeddings: Share = _key("Share of the items whose embedding features are zero.")
    embedding_noise: NonNegative = _key("Noise added to embedding features, in units of their own deviation.")
    shuffle_history: Flag = _key("Put every history in random order.")
    data_block_size: Index = _key("Rows in each encoded file; 0 for one file.")
    buffer_size: Count = _key("Rows shuffled together by FuxiCTR's block loaders.")


class FeatureColumn(_Keys):
    """Keys of an entry of ``feature_cols`` and of ``feature_specs``."""

    name: FeatureName | Names = _key("Its column, or a list of columns described alike.")
    active: Flag = _key("Whether it is used.")
    dtype: one_of("int", "float", "str", "list") = _key("Type of its values in the files.")
    type: one_of(*FEATURE_TYPES) = _key("What it is to the model.")
    source: AnyText = _key("What it describes: user, item, context or nothing in particular.")
    vocab_size: Count = _key("Number of its ids, padding included.")
    embedding_dim: Size = _key("Size of its embedding.")
    emb_output_dim: Size = _key("Size of what its feature_encoder returns.")
    pretrain_dim: Size = _key("Size of its vectors in the files.")
    period: Size = _key("Of type cyclic: after how much its numbers begin again, 24 of an hour of the day.")
    bins: Size = _key("Of type autodis: how many soft bins its numbers are shared among.")
    pretrained_emb: Pretrained = _key("File of pretrained vectors.")
    pretrain_usage: one_of("init", "sum", "concat") = _key("How pretrained vectors enter.")
    freeze_emb: Flag = _key("Whether pretrained vectors stay as they are.")
    max_len: Length = _key("Length of the list; 0 for the longest in the data.")
    padding: one_of("pre", "post") = _key("Side on which short lists are filled.")
    padding_idx: Index = _key("Id of padding.")
    splitter: Text = _key("What stands between the entries of a list in csv files.")
    feature_encoder: Encoder | None = _key("Layer, or layers, applied to its embedding.")
    share_embedding: FeatureName = _key("Feature whose embedding table it uses.")
    unknown_rate: real("a number of at least 0 and below 1", ge=0, lt=1) = _key(
        "Share of the training rows in which it is unknown, as it is of who is new."
    )
    codes_of: FeatureName = _key("Embedding column of the item table whose residual codes it holds.")
    codebook_size: Size = _key("Codes in each level of codes_of.")
    num_levels: Size = _key("Levels of codes_of.")
    code_items: Flag = _key("Whether each code of codes_of is the id of the item nearest to what it stands for.")
    neighbours_of: FeatureName = _key("Embedding column of the item table whose nearest items it holds.")
    top_k: Size = _key("Number of nearest items.")
    remap: Flag = _key("Whether its values are numbered anew.")
    min_categr_count: Count = _key("Rarer categories become unknown.")
    category_processor: one_of("quantile_bucket", "hash_bucket") = _key("How numbers become categories.")
    num_buckets: whole(2) = _key("Buckets of the category_processor.")
    normalizer: one_of("StandardScaler", "MinMaxScaler") = _key("How numbers are scaled.")
    preprocess: Preprocess = _key("FuxiCTR's function that makes the column.")
    fill_na: Scalar = _key("What stands for a missing value.")
    na_value: Scalar = _key("Older name of fill_na.")


class LabelColumn(_Keys):
    """Keys of an entry of ``label_col``."""

    name: FeatureName = _key("Its column.")
    dtype: one_of("int", "float", "str") = _key("Type of its values in the files.")
    active: Flag = _key("Whether it is used.")
    preprocess: Preprocess = _key("FuxiCTR's function that makes the column.")
    fill_na: Scalar = _key("What stands for a missing value.")
