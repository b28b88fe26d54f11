"""The base class of the zoo's models: everything that is not the model."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from qin_zoo.distributed import ALONE, Group, others_wait
from qin_zoo.errors import ConfigError, ModelError, QinZooError
from qin_zoo.files import replace_file
from qin_zoo.fuxi import BaseModel, FeatureEmbedding, FeatureEmbeddingDict, FeatureMap
from qin_zoo.layers import PerPair
from qin_zoo.layers.history import let_compile
from qin_zoo.layers.synced_norm import sync_batch_norms
from qin_zoo.metrics import evaluate_metrics
from qin_zoo.models import sharded
from qin_zoo.models.embedders import add_own_types
from qin_zoo.models.inputs import Embedder, FieldInputs, ItemTableInputs, ModelInput, make_inputs, row_columns
from qin_zoo.models.lazy import each_row_once, make_lazy, rows_of
from qin_zoo.models.loss import Loss, name_in_fuxictr
from qin_zoo.models.penalty import Penalty
from qin_zoo.models.precision import Precision
from qin_zoo.models.uncompiled import no_compiler
from qin_zoo.models.weights import read_state, renamed, require_fit
from qin_zoo.progress import Progress

_FUXICTR = "embedding_layer.embedding_layers."  # how a checkpoint of FuxiCTR's models of named fields names tables


class _FinishedAfterInit(type):
    """Calls ``finish()`` once the outermost constructor is done, so that no model has to remember to."""

    def __call__(cls, *args, **kwargs):
        model = super().__call__(*args, **kwargs)
        model.finish()
        return model


class ZooModel(BaseModel, metaclass=_FinishedAfterInit):
    """A FuxiCTR ``BaseModel`` whose subclasses only say how interest is drawn and how features interact.

    A subclass builds its layers from ``self.item_dim`` (D) and ``self.context_dim`` (C), or from the sizes of the
    single features, ``self.item_dims`` and ``self.context_dims`` (name -> size, in the order in which they are
    concatenated), and implements :meth:`logits`, or :meth:`heads` where its loss needs more. Embedding, devices,
    labels, loss, accumulation, checkpoints and evaluation are here. One model runs on both kinds of input: an item
    table (features with ``source: item``), and FuxiCTR's named fields, with one pair of target and history
    (``target_field`` and ``sequence_field``), several, or none; which one is a matter of the dataset. So the layer that
    draws the interest is made by :meth:`per_sequence`, and ``self.interest_dim`` is its size.

    Args:
        feature_map: FuxiCTR's feature map of the dataset.
        model_id: name of checkpoint and log, usually the experiment id.
        gpu: index of the GPU, -1 for the CPU.
        task: ``binary_classification`` or ``regression``.
        learning_rate: of the optimiser.
        optimizer: name of a ``torch.optim`` class; ``adam`` for ``Adam``.
        loss: FuxiCTR's name of a loss. Its binary cross entropy is computed from the logits; ``published``: as FuxiCTR
            and the published codes do, from the probabilities, which are 0 or 1 where |logit| > 17: such a row has no
            gradient, and a wrong one a loss of 100. Or ``focal``; ``pairwise``, the cross entropy mixed with
            RankNet's loss of all pairs of a click and a row without in the batch; ``jrc``, mixed with JRC's listwise
            one. A batch of several processes is one batch; with ``accumulation_steps``, each of its parts is.
        pos_weight: what a row with a click counts in the cross entropy, or in ``focal`` (its α). The mean divides by
            the number of rows, not by the sum of weights.
        neg_weight: the same of a row without.
        loss_alpha: of ``pairwise`` and ``jrc``: the share of the cross entropy. With 0 predictions are ranks and no
            probabilities.
        focal_gamma: of ``focal``: the exponent; 0 makes it the cross entropy.
        loss_context: of ``jrc``: which rows are compared, those of one ``group`` (``group_id``) in the batch, or all
            of the ``batch``.
        sample_weight: a column of the training rows, no feature, that says what each counts; in pairs, the product.
        metrics: metrics of every evaluation.
        embedding_dim: size of the embedding of features that do not give their own.
        embedding_initializer: FuxiCTR's initialiser string for embedding tables.
        embedding_regularizer: L2 weight, or FuxiCTR's ``l1(x)``, ``l2(x)``, ``l1_l2(x,y)``, on embeddings.
        net_regularizer: the same on all other weights.
        embedding_optimizer: ``lazy``: a step reads and moves only those rows of embedding tables that occur in its
            batches, so that neither its time nor its gradients grow with the catalogue, and ``embedding_regularizer``
            counts for these rows only. With Adam rows rest until they occur again, as in ``torch.optim.SparseAdam``;
            SGD, and Adagrad without ``embedding_regularizer``, train as with ``dense``. Other optimisers, and several
            processes, are refused.
        accumulation_steps: batches whose gradients make one optimiser step.
        precision: ``fp32``; ``bf16``, matrix products in bfloat16, with float32 weights, logits and loss; ``tf32``,
            GPUs' shorter float32 products.
        compile: compile ``logits`` with ``torch.compile``; it needs a C++ compiler on a CPU. Checkpoints stay the same.
        factor: what the learning rate is multiplied by when the monitor does not improve.
        min_lr: floor of the learning rate.
        target_field: FuxiCTR fields only: the target item's feature, or a tuple of features that are concatenated; a
            list of both for several targets, each with a history of its own.
        sequence_field: FuxiCTR fields only: the histories' features, in the same form.
        history_matches: item table only: a row feature more, of ``embedding_dim`` numbers: how many of the history's
            items share the target's id, categories, tags or content, and what became of those (``item_seq_label``,
            …); see :class:`~qin_zoo.layers.HistoryMatches`.
        sharded_tables: features whose embedding tables are split by rows among the processes that train together,
            through TorchRec; those with which they share a table share its rows. None of them in one process. A
            process's device then holds its rows only, with their gradients and optimiser state; its host memory holds
            whole tables while the model is built and weights are loaded, that of the first process also, with
            optimiser state, while a checkpoint is saved.
        model_root: folder of checkpoints.
        verbose: 0 for no progress bars.
        **kwargs: FuxiCTR's further parameters (``monitor``, ``early_stop_patience``, …).
    """

    #: How the published code names weights, where it is not as here: see :func:`~qin_zoo.models.weights.renamed`.
    published_names: ClassVar[Mapping[str, str | None]] = {}

    def __init__(
        self,
        feature_map: FeatureMap,
        model_id: str = "ZooModel",
        gpu: int = -1,
        task: str = "binary_classification",
        learning_rate: float = 1e-3,
        optimizer: str = "adam",
        loss: str = "binary_crossentropy",
        pos_weight: float = 1.0,
        neg_weight: float = 1.0,
        loss_alpha: float = 0.5,
        focal_gamma: float = 2.0,
        loss_context: Literal["batch", "group"] = "batch",
        sample_weight: str | None = None,
        metrics: Iterable[str] = ("AUC", "logloss"),
        embedding_dim: int = 10,
        embedding_initializer: str = "partial(nn.init.normal_, std=1e-4)",
        embedding_regularizer: float | str | None = None,
        net_regularizer: float | str | None = None,
        embedding_optimizer: Literal["dense", "lazy"] = "dense",
        accumulation_steps: int = 1,
        precision: Literal["fp32", "tf32", "bf16"] = "fp32",
        compile: bool = False,
        factor: float = 0.1,
        min_lr: float = 1e-6,
        target_field: str | list | tuple | None = None,
        sequence_field: str | list | tuple | None = None,
        history_matches: bool = False,
        sharded_tables: list[str] | tuple[str, ...] = (),
        model_root: str = "./checkpoints/",
        verbose: int = 1,
        **kwargs,
    ):
        if gpu >= 0 and gpu >= torch.cuda.device_count():
            raise QinZooError(
                f"GPU {gpu} was asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} GPU(s) on "
                "this machine. Use --gpu -1 for the CPU, or install a CUDA build of torch."
            )
        super().__init__(
            feature_map,
            model_id=model_id,
            gpu=gpu,
            task=task,
            embedding_regularizer=embedding_regularizer,
            net_regularizer=net_regularizer,
            metrics=list(metrics),
            model_root=model_root,
            verbose=verbose,
            **kwargs,
        )
        self._optimizer_args = (optimizer, loss, learning_rate)
        self._loss_args = (pos_weight, neg_weight, loss_alpha, focal_gamma, loss_context, sample_weight)
        self._is_lazy, self._lazy = embedding_optimizer == "lazy", set()
        self._accumulation_steps = accumulation_steps
        self.group = ALONE
        self._compile_logits = compile
        self._precision = Precision(precision, self.device)
        self._factor = factor
        self._min_lr = min_lr
        self.embedding_dim = embedding_dim
        self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim, embedding_initializer=embedding_initializer)
        add_own_types(self.embedding_layer.embedding_layer, embedding_dim)
        sharded.check_tables(sharded_tables, self._tables, feature_map.features)
        self._sharded_tables = list(sharded_tables)
        self.shards: list[nn.Parameter] = []
        embedder = Embedder(feature_map, self.embedding_layer, embedding_dim, self.device)
        inputs = make_inputs(embedder, target_field, sequence_field)
        if history_matches and not isinstance(inputs, ItemTableInputs):
            raise ModelError(
                f"history_matches: expected a dataset with an item table; '{feature_map.dataset_id}' has named fields. "
                "Leave it out."
            )
        self.history_matches = inputs.add_matches(embedding_dim) if history_matches else None
        self._see(inputs)
        self.interest_dim = 0

    def _see(self, inputs: ItemTableInputs | FieldInputs) -> None:
        self._inputs = inputs
        self.pairs = inputs.pairs
        self.item_dims = {name: dim for pair in self.pairs for name, dim in pair.items()}
        self.context_dims = inputs.context_dims
        self.item_dim = sum(sum(pair.values()) for pair in self.pairs)
        self.context_dim = sum(self.context_dims.values())

    @property
    def field_dims(self) -> list[int]:
        """Sizes of the single features in [context; target; interest], the interest having those of an item."""
        items = [dim for pair in self.pairs for dim in pair.values()]
        return [*self.context_dims.values(), *items, *items]

    def see_weights(self, layer: FeatureEmbeddingDict) -> None:
        """Puts a number of this layer behind each feature's embedding, for models with a linear part.

        All sizes of features are greater by 1 from then on. A vector has its own, too, by a linear map.

        Args:
            layer: FuxiCTR's ``LogisticRegression(…).embedding_layer.embedding_layer``; it stays the model's.
        """
        for name, spec in self.feature_map.features.items():
            if spec["type"] == "embedding":  # which FuxiCTR's logistic regression has no weight for
                layer.feature_encoders[name] = nn.Linear(spec["pretrain_dim"], 1, bias=False)
        add_own_types(layer, 1)
        self._inputs.embedder.weights = layer
        self._see(self._inputs.again())

    def logits(self, x: ModelInput) -> Tensor:
        """The model itself: (B,) or (B, 1) logits from context, target, history and mask."""
        raise NotImplementedError(f"{type(self).__name__} must implement logits(x).")

    def heads(self, x: ModelInput) -> dict[str, Tensor]:
        """``logits`` and whatever else :meth:`add_loss` reads; a model that has more also overrides that."""
        return {"logits": self.logits(x)}

    def per_sequence(self, make: Callable[[int], nn.Module], dims: list[int] | None = None) -> nn.Module:
        """The layer that draws the interest from the history; where there are several, one for each.

        Called with ``x.target``, ``x.history`` and ``x.mask`` it returns (B, ``interest_dim``), which is set here.

        Args:
            make: gives the layer of a pair of target and history whose item vectors have a size D. Its results are
                of that size too, unless its ``output_dim`` says otherwise.
            dims: D of each pair. Default: that of its embedded features, ``self.pairs``.

        Returns:
            of one pair, as with every item table, that layer itself.
        """
        dims = [sum(pair.values()) for pair in self.pairs] if dims is None else dims
        layers = [make(dim) for dim in dims]
        self.interest_dim = sum(getattr(layer, "output_dim", dim) for layer, dim in zip(layers, dims))
        if not layers:
            logging.warning(
                f"{type(self).__name__} runs without a history: dataset '{self.feature_map.dataset_id}' has no "
                "target_field and sequence_field."
            )
        return layers[0] if len(layers) == 1 else PerPair(layers, dims)

    def per_item(self, make: Callable[[list[int]], nn.Module]) -> nn.Module:
        """A map of item vectors, for ``x.target`` and through ``map_items`` for ``x.history``; one for each pair.

        Args:
            make: gives the map, (…, D) -> (…, E), of items whose features have these sizes.
        """
        sizes = [list(pair.values()) for pair in self.pairs]
        layers = [make(dims) for dims in sizes]
        return layers[0] if len(layers) == 1 else PerPair(layers, map(sum, sizes))

    def use_content(self, name: str) -> int:
        """Asks for the stored vectors of an item feature, which ``x.content(name)`` then holds as they are.

        Args:
            name: a feature of type ``embedding`` of the item table; or of type ``meta`` with its ``pretrain_dim``: that
                is no part of ``x.target`` and ``x.history``. With named fields, a target with a frozen
                ``pretrained_emb``.

        Returns:
            d, the size of the vectors.

        Raises:
            ModelError: the dataset has no such vectors.
        """
        return self._inputs.add_content(name)

    def finish(self) -> None:
        """FuxiCTR's last three lines of every constructor: optimiser and loss, initialisation, device."""
        optimizer, loss, learning_rate = self._optimizer_args
        self.compile(optimizer, loss, learning_rate)
        self.reset_parameters()
        with sharded.kept_in_host_memory([self._tables[name].weight for name in self._sharded_tables if others_wait()]):
            self.model_to_device()
        self._regularize()
        self._precision.prepare(self)
        if self._compile_logits:
            let_compile()
            self.heads = torch.compile(self.heads, dynamic=True)

    def compile(self, optimizer: str, loss: str, lr: float) -> None:
        """FuxiCTR's: sets optimiser and loss; the optimiser updates all weights in one pass where it knows how to."""
        group_id = self.feature_map.group_id
        with no_compiler():
            super().compile(optimizer, name_in_fuxictr(loss), lr)
            kind = type(self.optimizer)
            if "fused" in inspect.signature(kind).parameters and (kind is torch.optim.Adam or not self._is_lazy):
                self.optimizer = kind(self.parameters(), lr=lr, fused=True)  # SGD and Adagrad know no sparse gradients
        self._loss = Loss(loss, self.loss_fn, self.output_activation, *self._loss_args, group_id)
        if self._is_lazy:
            self._lazy = make_lazy(self, self.optimizer)

    @property
    def _tables(self) -> nn.ModuleDict:
        """Feature -> embedding layer; features that share a table have the same."""
        return self.embedding_layer.embedding_layer.embedding_layers

    def _regularize(self) -> None:
        self._penalty = Penalty(self, self._embedding_regularizer, self._net_regularizer, self.shards, self._lazy)

    # ---- one batch

    def forward(self, inputs) -> dict[str, Tensor]:
        """Predictions of a batch.

        Args:
            inputs: the public triple ``(batch_dict, item_dict, mask)`` or an ``ItemBatch`` for a dataset
                with an item table; FuxiCTR's row dictionary for one with named fields.

        Returns:
            ``{"y_pred": (B, 1), "logits": (B, 1), "columns": {…}}`` and the model's further outputs; ``y_pred`` are
            probabilities for binary classification, ``columns`` what the loss needs of the rows, in training.
        """
        with self._precision.context():
            found = self.heads(self._inputs(inputs))
        found = {name: v.float() if v.dtype == torch.bfloat16 else v for name, v in found.items()}
        logits = found["logits"].view(-1, 1)
        columns = self._loss.columns(row_columns(inputs), self.device) if self.training else {}
        return found | {"y_pred": self.output_activation(logits), "logits": logits, "columns": columns}

    def add_loss(self, return_dict, y_true) -> Tensor:
        """The loss without regularisation; a NaN among the logits is one in the loss."""
        if "logits" not in return_dict:
            return super().add_loss(return_dict, y_true)
        return self.loss_of(return_dict["logits"], y_true, return_dict)

    def loss_of(self, logits: Tensor, y_true: Tensor, return_dict: dict) -> Tensor:
        """The configured loss of some logits, for models that have several; a mean over rows, or of all pairs of them.

        Args:
            logits: (B, 1) or (B,).
            y_true: labels, as many.
            return_dict: what :meth:`forward` returned.
        """
        return self._loss(logits, y_true, return_dict.get("columns", {}))

    def of_batch(self, mean: Tensor) -> Tensor:
        """A mean over rows as that over the rows of all processes, for losses that are no sums of such means."""
        return self._loss.of_batch(mean)

    def regularization_loss(self) -> Tensor | float:
        """FuxiCTR's regularisation of embeddings and other weights, a scalar."""
        return self._penalty()

    def get_labels(self, inputs) -> Tensor:
        """Labels of a batch of any kind, (B, 1) float32 on the model's device."""
        y = row_columns(inputs)[self.feature_map.labels[0]]
        return y.to(self.device, non_blocking=True).float().view(-1, 1)

    def get_group_id(self, inputs) -> Tensor:
        """Group ids of a batch of any kind, (B,)."""
        return row_columns(inputs)[self.feature_map.group_id]

    def train_step(self, batch_data) -> Tensor:
        """One step of training: loss with regularisation, backward, and every ``accumulation_steps`` an update.

        Returns:
            the batch's loss, a detached scalar on the device. ``gradient_norm`` is the norm of the gradient before
            clipping, a scalar on the device; None where the batch made no update.
        """
        labels = self.get_labels(batch_data)
        share = self._loss.take_share(len(labels), self.device)
        loss = self.compute_loss(self.forward(batch_data), labels)
        if self.group.active:  # each process counts as much as it has of the batch's rows
            loss = loss * share + self._penalty.of_shards()
        (loss / self._accumulation_steps).backward()
        step = self._batch_index + 1
        self.gradient_norm = None
        if step % self._accumulation_steps == 0 or step == self._steps_per_epoch:
            self.group.sum_gradients(self._whole_parameters())
            self._update()
        return self.group.sum(loss.detach())

    def _update(self) -> None:
        """Clips the gradient and moves the weights, unless the gradient is not finite: then they stay as they are."""
        each_row_once(self._lazy)
        self._penalty.add_to_rows()
        whole = [rows_of(weight) for weight in self._whole_parameters()]
        self.gradient_norm = sharded.clip_gradients(whole, self.shards, self.group, self._max_gradient_norm)
        finite = torch.isfinite(self.gradient_norm)
        fused = self.optimizer.defaults.get("fused")
        if fused:
            self.optimizer.found_inf = 1.0 - finite.float()  # looked at on the device: a GPU is not waited for
        with no_compiler():
            if fused or finite:
                self.optimizer.step()
            self.optimizer.zero_grad()

    def join(self, group: Group) -> None:
        """Trains and scores with other processes from now on: each step is one of the whole batch.

        Batch norm takes its statistics from the rows of all processes, gradients are added up, and every process
        begins with the first one's weights; of ``sharded_tables``, with its own rows of its own tables. Loaders must
        give each process its share (``take_share``).

        Raises:
            ConfigError: ``sharded_tables`` are asked for, and TorchRec is missing or the optimiser needs whole tables;
                or ``embedding_optimizer`` is ``lazy``.
        """
        if group.active and self._is_lazy:
            raise ConfigError(
                "embedding_optimizer: lazy trains in one process, here are several: run it without --devices and "
                "torchrun, or with embedding_optimizer dense (and sharded_tables, where a table is too large)."
            )
        self.group = group
        self._loss.join(group)
        if group.active:
            if self._sharded_tables:
                self.shards = sharded.split_tables(self, self._tables, self._sharded_tables, group)
                self._regularize()
            sync_batch_norms(self, group)
            group.share([*self._whole_parameters(), *self.buffers()])

    def _whole_parameters(self) -> list[nn.Parameter]:
        """Those that every process holds."""
        shards = set(self.shards)
        return [p for p in self.parameters() if p not in shards]

    def lr_decay(self, factor: float | None = None, min_lr: float | None = None) -> float:
        """Multiplies the learning rate by ``factor``, not below ``min_lr``; both default to the model's own."""
        return super().lr_decay(self._factor if factor is None else factor, self._min_lr if min_lr is None else min_lr)

    # ---- a whole split

    @torch.no_grad()
    def _score(self, data_generator, labels: bool):
        """Predictions, and where wanted labels and group ids, of a split as float64 and integer arrays."""
        self.eval()
        y_pred, y_true, group_id = [], [], []
        wants_groups = labels and self.feature_map.group_id is not None
        bar = Progress(data_generator, "scoring", name=self.model_id, shown=bool(self._verbose) and self.group.leads)
        for batch in self._together(bar):
            y_pred.append(self.forward(batch)["y_pred"].view(-1).float())
            if labels:
                y_true.append(self.get_labels(batch).view(-1))
            if wants_groups:
                group_id.append(self.get_group_id(batch).view(-1))
        predictions = self._gather(y_pred, torch.float32).astype(np.float64)
        if not labels:
            return predictions, None, None
        y_true = self._gather(y_true, torch.float32).astype(np.float64)
        return predictions, y_true, self._gather(group_id, torch.int64) if wants_groups else None

    def _together(self, batches: Iterable) -> Iterator:
        """The batches; who has no more takes part in the look-ups of the others, where tables are split."""
        for batch in batches:
            if self.shards:
                self.group.any(True)
            yield batch
        while self.shards and self.group.any(False):
            self._inputs.join_lookups()

    def _gather(self, parts: list[Tensor], dtype: torch.dtype) -> np.ndarray:
        """The rows of all processes."""
        parts = [part.to(self.device) for part in parts] or [torch.empty(0, dtype=dtype, device=self.device)]
        return self.group.gather_rows(torch.cat(parts)).cpu().numpy()

    def evaluate(self, data_generator, metrics: list[str] | None = None) -> dict[str, float]:
        """Metrics of a split; ``metrics`` defaults to the model's own. Of a split without labels none."""
        if not getattr(data_generator, "has_label", True):
            logging.info("The split has no labels: nothing to evaluate.")
            return {}
        y_pred, y_true, group_id = self._score(data_generator, labels=True)
        logs = self.evaluate_metrics(y_true, y_pred, metrics or self.validation_metrics, group_id)
        logging.info("[Metrics] " + " - ".join(f"{k}: {v:.6f}" for k, v in logs.items()))
        return logs

    def evaluate_metrics(self, y_true, y_pred, metrics, group_id=None) -> dict[str, float]:
        """FuxiCTR's metrics, grouped ones for all groups at once; see :mod:`qin_zoo.metrics`."""
        return evaluate_metrics(y_true, y_pred, metrics, group_id)

    def predict(self, data_generator) -> np.ndarray:
        """Predictions of a split, (N,) float64; it needs no labels."""
        return self._score(data_generator, labels=False)[0]

    # ---- checkpoints

    def save_weights(self, checkpoint: str) -> None:
        """Writes the ``state_dict``, tables whole, as FuxiCTR does, but never leaves a half-written file behind."""
        if not self.group.leads and not self.shards:
            return
        state = sharded.map_state(self, {"model": self.state_dict()}, sharded.ShardedTable.gathered)["model"]
        if self.group.leads:
            with replace_file(Path(checkpoint)) as temporary, open(temporary, "wb") as file:
                torch.save(state, file)

    def load_weights(self, checkpoint: str) -> None:
        """Loads a ``state_dict`` written by :meth:`save_weights`, by FuxiCTR or by the published code.

        Raises:
            CheckpointError: the file is missing, is no checkpoint, or belongs to another model or configuration.
        """
        self.to(self.device)
        state = renamed(read_state(checkpoint), self.published_names)
        if isinstance(self._inputs, FieldInputs) and any(name.startswith(_FUXICTR) for name in state):
            state = {name.replace(_FUXICTR, f"embedding_layer.{_FUXICTR}", 1): w for name, w in state.items()}
            state = self.from_fuxictr(state)
        expected = sharded.map_state(self, {"model": self.state_dict()}, sharded.ShardedTable.like_whole)
        require_fit(state, expected["model"], checkpoint)
        self.load_state_dict(sharded.map_state(self, {"model": state}, sharded.ShardedTable.local_part)["model"])

    def from_fuxictr(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of FuxiCTR's model of this name on named fields as this one's; a model that has one says how.

        Args:
            state: the ``state_dict``, its embeddings named as here.
        """
        return state

    def count_parameters(self, count_embedding: bool = True) -> int:
        """Number of trainable parameters, logged as FuxiCTR does and returned."""
        total = sum(
            p.numel()
            for name, p in self.named_parameters()
            if p.requires_grad and (count_embedding or "embedding" not in name)
        )
        logging.info(f"Total number of parameters: {total}.")
        return total
