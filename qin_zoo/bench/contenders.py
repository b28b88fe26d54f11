"""What runs in a race: reading, training or scoring, fast or plain, and the machine's own matrix products."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from qin_zoo.bench.plain import PlainLoader, make_plain
from qin_zoo.bench.synthetic import DISTINCT, random_batch
from qin_zoo.data.dataset import has_item_table
from qin_zoo.data.feed import feed
from qin_zoo.errors import ConfigError
from qin_zoo.experiment.prepare import Prepared, build_model, prepare
from qin_zoo.training.memory import keep_freed_memory, tidy_memory

_COPIED = 1 << 26  # numbers, to measure the memory with
_PRODUCT = (8192, 1024, 4096)  # rows, inputs and outputs: a layer of QIN at its published batch size


@dataclass(frozen=True)
class Contender:
    """One side of a race.

    Attributes:
        task: ``load``, ``train``, ``score``, or ``product`` for matrix products alone.
        name: as results call it: ``qin-zoo``; ``plain``, the reference, always float32; ``rival``, the model that the
            plugins have of this name, as it is; or ``matrix product``.
        drawn: one random batch, again and again, instead of those of the data's files.
        expid, config, data, overrides, plugins, gpu: of the experiment, as in ``prepare``.
        batches: batches in each measurement.
    """

    task: str
    name: str = "qin-zoo"
    expid: str = ""
    config: Path | None = None
    data: Path | None = None
    overrides: tuple[str, ...] = ()
    plugins: tuple[Path, ...] = ()
    gpu: int = -1
    batches: int = 1
    drawn: bool = False

    def prepare(self) -> Prepared:
        """The experiment, checked; ConfigError where it cannot be measured in this way."""
        overrides = (*self.overrides, *(("precision=fp32", "compile=false") if self.name == "plain" else ()))
        prepared = prepare(
            self.expid, self.config, gpu=self.gpu, data=self.data, overrides=overrides, plugins=self.plugins
        )
        if not has_item_table(prepared.params):
            raise ConfigError(f"{self.expid} has no item table: bench measures datasets with one, such as the sample.")
        return prepared

    def start(self) -> tuple[Callable[[], int], dict]:
        """Gets ready; returns a function that runs one measurement and gives its rows, and facts about it."""
        return {"product": _products, "load": _loading}.get(self.task, _computing)(self)


def product_contender(contender: Contender) -> Contender:
    """Matrix products in the precision, and on the device, of a contender."""
    precision = contender.prepare().params.get("precision", "fp32")
    product = {"task": "product", "name": "matrix product", "batches": 2}
    return replace(contender, overrides=(f"precision={precision}",), **product)


def copying(device: torch.device) -> tuple[Callable[[], object], int]:
    """A copy, as often as it is called, and the bytes that it reads and writes."""
    source = torch.ones(_COPIED, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.nbytes


def product(precision: str, device: torch.device) -> tuple[Callable[[], None], int]:
    """A matrix product of the size of a layer of QIN, as often as it is called, and its operations."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    rows, inputs, outputs = _PRODUCT
    a, b = torch.randn(rows, inputs, device=device).to(dtype), torch.randn(inputs, outputs, device=device).to(dtype)
    out = torch.empty(rows, outputs, dtype=dtype, device=device)
    return lambda: torch.mm(a, b, out=out), 2 * rows * inputs * outputs


def _products(contender: Contender):
    device = torch.device("cpu" if contender.gpu < 0 else f"cuda:{contender.gpu}")
    given = (text.partition("=")[2] for text in contender.overrides if text.startswith("precision="))
    multiply, flops = product(next(given, "fp32"), device)

    def measure() -> int:
        for _ in range(contender.batches):
            multiply()
        wait(device)
        return contender.batches

    return measure, {"flops": flops}


def _loading(contender: Contender):
    prepared = contender.prepare()
    dataset = prepared.open_dataset()
    loader = PlainLoader(dataset.feature_map, prepared.params) if contender.name == "plain" else dataset.loader("train")
    batches, rows = _endless(loader), loader.batch_size
    next(batches)

    def measure() -> int:
        return sum(rows for _ in itertools.islice(batches, contender.batches))

    return measure, {"batch_size": rows}


def _computing(contender: Contender):
    if contender.name == "qin-zoo":
        keep_freed_memory()
    prepared = contender.prepare()
    dataset = None if contender.drawn else prepared.open_dataset()
    model = build_model(prepared, dataset)
    if contender.name == "plain":
        make_plain(model)
    if contender.drawn:
        sizes = (prepared.params["batch_size"], prepared.params["max_len"], DISTINCT)
        batch = random_batch(model.feature_map, *sizes, model.device)
        batches = itertools.repeat(batch if contender.name == "qin-zoo" else batch.triple())
    elif contender.name == "plain":
        batches = _endless(PlainLoader(dataset.feature_map, prepared.params))
    else:
        batches = _endless(feed(dataset.loader("train"), model.device))
    step = training_step(model, prepared) if contender.task == "train" else scoring_step(model)
    with FlopCounterMode(display=False) as counter:
        rows = step(next(batches))
    wait(model.device)

    def measure() -> int:
        total = sum(step(next(batches)) for _ in range(contender.batches))
        wait(model.device)
        return total

    facts = {"batch_size": rows, "flops": counter.get_total_flops()}
    if contender.task == "train" and dataset:
        facts["train_rows"] = dataset.rows("train")
    return measure, facts | {"parameters": sum(p.numel() for p in model.parameters())}


def training_step(model, prepared: Prepared) -> Callable[[object], int]:
    """A step of training as :class:`~qin_zoo.training.trainer.Trainer` takes it; gives the batch's rows."""
    model._max_gradient_norm, model._steps_per_epoch, model._batch_index = prepared.params["max_gradient_norm"], 1, 0
    model.train()

    taken = itertools.count(1)

    def step(batch) -> int:
        model.train_step(batch)
        tidy_memory(next(taken))
        return len(model.get_labels(batch))

    return step


def scoring_step(model) -> Callable[[object], int]:
    """Scores a batch; gives its rows."""
    model.eval()
    return torch.no_grad()(lambda batch: len(model.forward(batch)["y_pred"]))


def _endless(loader) -> Iterator:
    """Full batches, epoch after epoch."""
    if loader.num_samples < loader.batch_size:
        raise ConfigError(
            f"batch_size is {loader.batch_size:,}, but the training split has only {loader.num_samples:,} rows, and "
            "bench measures full batches. Give --set batch_size=…, or more --rows."
        )
    for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
        rows = len(batch[2]) if isinstance(batch, tuple) else len(batch)
        if rows == loader.batch_size:
            yield batch


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
