"""The keys of a configuration that do not belong to a model: run, training, evaluation, dataset.

Tables of types (:mod:`qin_zoo.config.values`) and one-line descriptions. A ``None`` default only means that
a key may be absent: the defaults of a run are those of the signatures that receive the parameters. The keys
are FuxiCTR's, those of the challenge configurations, and our own; a new one is added here.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from qin_zoo.config.values import (
    AnyText,
    Character,
    ClassName,
    Count,
    Encoder,
    FeatureName,
    Fields,
    FilePath,
    Flag,
    Fraction,
    Id,
    Index,
    Initializer,
    Length,
    Losses,
    Mappings,
    Metrics,
    Monitor,
    Names,
    NonNegative,
    Norm,
    Optimizer,
    Positive,
    Preprocess,
    Pretrained,
    Regularizer,
    Scalar,
    Share,
    Size,
    Tasks,
    Text,
    one_of,
    whole,
)
from qin_zoo.feature_types import FEATURE_TYPES


def _key(description: str):
    return Field(None, description=description)


class _Table(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class RunParams(_Table):
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


class FeatureColumn(_Table):
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
    pretrained_emb: Pretrained = _key("File of pretrained vectors.")
    pretrain_usage: one_of("init", "sum", "concat") = _key("How pretrained vectors enter.")
    freeze_emb: Flag = _key("Whether pretrained vectors stay as they are.")
    max_len: Length = _key("Length of the list; 0 for the longest in the data.")
    padding: one_of("pre", "post") = _key("Side on which short lists are filled.")
    padding_idx: Index = _key("Id of padding.")
    splitter: Text = _key("What stands between the entries of a list in csv files.")
    feature_encoder: Encoder | None = _key("Layer, or layers, applied to its embedding.")
    share_embedding: FeatureName = _key("Feature whose embedding table it uses.")
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


class LabelColumn(_Table):
    """Keys of an entry of ``label_col``."""

    name: FeatureName = _key("Its column.")
    dtype: one_of("int", "float", "str") = _key("Type of its values in the files.")
    active: Flag = _key("Whether it is used.")
    preprocess: Preprocess = _key("FuxiCTR's function that makes the column.")
    fill_na: Scalar = _key("What stands for a missing value.")
