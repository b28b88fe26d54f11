"""How fast published configurations train on a GPU, what bounds them, and whether the numbers are the CPU's.

Rows are random, in the shape of the configuration's dataset; where they fit, all of them lie on the GPU. An epoch that
does not end in its time is extrapolated from the steps that were taken.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from qin_zoo.batch import ItemBatch
from qin_zoo.bench.contenders import Contender, copying, training_step, wait
from qin_zoo.bench.race import peak_bytes
from qin_zoo.bench.synthetic import random_batch
from qin_zoo.data.feed import DeviceResident, feed, map_rows
from qin_zoo.experiment.prepare import Prepared, build_model, prepare
from qin_zoo.models.precision import PRECISIONS
from qin_zoo.processes.worker import Worker, failure
from qin_zoo.threads import share

EXPERIMENTS = (
    "QIN_MicroLens_1M_x1",
    "DIN_MicroLens_1M_x1",
    "DIN_CrossAttention_MicroLens_1M_x1",
    "Transformer_DCN_MicroLens_1M_x1",
)
BOUNDS = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 1e-1}
"""How far logits may be from the CPU's in float32, as a share of the largest of them."""
_DRAWN = 1 << 17  # different rows; more are these again
_COMPARED = 512  # rows that the CPU computes, too
_PROFILED = 5  # steps
_PRODUCT = re.compile(r"^aten::(addmm|mm|bmm|baddbmm)|gemm|nvjet|cutlass|xmma|flash|fmha|scaled_dot_product|mkldnn")


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    expid: str
    precision: str
    compiled: bool

    def prepare(self, gpu: int, overrides: tuple[str, ...] = ()) -> Prepared:
        """The experiment in this precision."""
        own = (f"precision={self.precision}", f"compile={self.compiled}")
        return prepare(self.expid, gpu=gpu, overrides=[*overrides, *own])


class RandomRows:
    """Random rows in the place of a training split's, shuffled anew in every epoch.

    Args:
        feature_map: FuxiCTR's feature map of a dataset with an item table.
        rows: how many; beyond ``drawn`` the same ones come again, at places of their own.
        batch_size, length: rows of a batch, places of a history.
        drawn: rows that differ.
    """

    batch_layout = "index"

    def __init__(self, feature_map, rows: int, batch_size: int, length: int, drawn: int = _DRAWN) -> None:
        self.num_samples, self.batch_size = rows, batch_size
        self._drawn = random_batch(feature_map, min(rows, drawn), length)
        self._generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[ItemBatch]:
        return map(self.batch, self.next_batches())

    def next_batches(self) -> list[np.ndarray]:
        """Begins an epoch: the rows of each of its batches, (B,) int64 each."""
        order = self._generator.permutation(self.num_samples)
        return [order[first : first + self.batch_size] for first in range(0, self.num_samples, self.batch_size)]

    def batch(self, rows: np.ndarray) -> ItemBatch:
        """The batch of these rows, (B,) int64."""
        places = torch.from_numpy(rows % len(self._drawn))
        return map_rows(self._drawn, lambda t: t.index_select(0, places))


def check_gpu(
    gpu: int,
    rows: int,
    seconds: float,
    expids: tuple[str, ...] = EXPERIMENTS,
    overrides: tuple[str, ...] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Measures each experiment in every precision, and then compiled, which may take a minute before it begins.

    Args:
        gpu: index of the GPU; -1 for the CPU, to see that all of it runs.
        rows: of the training split.
        seconds: for everything; each experiment has a process, one more compiled, and leaves what it does not need.
        expids, overrides: experiments of datasets with an item table, as in ``prepare``.

    Returns:
        a line for each setting, see :func:`measure`; with ``failure``, the reason, where it has no result.
    """
    lines: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    groups = [[Setting(expid, precision, False) for precision in PRECISIONS] for expid in expids]
    groups += [[replace(one, compiled=True) for one in reversed(group)] for group in groups]  # the fastest one first
    for number, group in enumerate(groups):
        own = (deadline - time.monotonic()) / (len(groups) - number)
        flops = next((line["flops"] for line in lines if line["expid"] == group[0].expid and "flops" in line), 0)
        lines += _in_a_process(group, own, flops, gpu, rows, overrides, progress=progress)
    return lines


def _in_a_process(
    settings: list[Setting], seconds: float, flops: int, gpu: int, *how, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    deadline, worker = time.monotonic() + seconds, Worker(gpu, share(1), work_on)
    lines: list[dict[str, Any]] = []
    try:
        for setting in settings:
            progress(f"{setting.expid}, {setting.precision}{', compiled' if setting.compiled else ''}")
            found = {"failure": f"no time left: its process had {max(seconds, 0):.0f} s"}
            if (left := deadline - time.monotonic()) > 0:
                worker.send((setting, seconds / (4 * len(settings)), flops, *how))
                if worker.connection.poll(left):
                    kind, said = worker.receive()
                    found = said if kind == "done" else {"failure": said}
                else:
                    worker.stop(kill=True)
            flops = found.get("flops", flops)
            lines.append(vars(setting) | found)
    finally:
        worker.stop(kill=True)
    return lines


def work_on(job: tuple, gpu: int, connection: Connection) -> tuple[str, object]:
    """What the process of an experiment does: measures a setting, with the arguments that :func:`measure` has."""
    setting, *arguments = job
    try:
        return "done", measure(setting, gpu, *arguments)
    except Exception as error:  # its process has no other way to say so
        return "failed", failure(error, None)


def measure(
    setting: Setting, gpu: int, seconds: float, flops: int, rows: int, overrides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Trains for an epoch, or for some seconds of one.

    Args:
        setting, gpu, rows, overrides: see :func:`check_gpu`.
        seconds: for the steps that are timed.
        flops: of a step, where they are known, else 0: compiled code is not counted.

    Returns:
        ``rows_per_second``, ``step_seconds``, ``steps`` taken, ``epoch_seconds``; ``first_seconds``, of the first step
        and its compilation; ``resident``, whether the rows lay on the GPU; ``peak_bytes``; ``flops`` of a step;
        ``product_rate`` (operations a second of matrix products alone) and ``memory_rate`` (bytes a second, read and
        written); ``product_share``, the time that a step's products would take at that rate by its own; and what
        :func:`profile` and :func:`differences` give.
    """
    if gpu >= 0:
        torch.cuda.init()  # or it knows no device yet
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(gpu)
    prepared = setting.prepare(gpu, overrides)
    model = build_model(prepared)
    params, device = prepared.params, model.device
    loader = RandomRows(model.feature_map, rows, params["batch_size"], params["max_len"])
    source, step = feed(loader, device), training_step(model, prepared)
    batches = itertools.chain.from_iterable(itertools.repeat(source))
    begin = time.perf_counter()
    counter = FlopCounterMode(display=False)
    with nullcontext() if setting.compiled else counter:  # under a counter nothing would be compiled
        step(next(batches))
        wait(device)
    first = time.perf_counter() - begin
    for _ in range(3):
        step(next(batches))
    wait(device)
    begin, taken, done = time.perf_counter(), 0, 0
    for batch in batches:
        taken, done = taken + 1, done + step(batch)
        if done >= rows or time.perf_counter() - begin > seconds:
            break
    wait(device)
    spent = time.perf_counter() - begin
    rate, flops = done / spent, flops or counter.get_total_flops()
    peak, in_precision = peak_bytes(), (f"precision={setting.precision}",)
    if gpu >= 0:
        peak = torch.cuda.max_memory_allocated(gpu)
    product, facts = Contender("product", gpu=gpu, overrides=in_precision, batches=20 if gpu >= 0 else 1).start()
    found = {
        "rows_per_second": rate,
        "step_seconds": spent / taken,
        "steps": taken,
        "epoch_seconds": rows / rate,
        "first_seconds": first,
        "resident": isinstance(source, DeviceResident),
        "peak_bytes": peak,
        "flops": flops,
        "product_rate": _rate(product) * facts["flops"],
        "memory_rate": _memory_rate(device),
    }
    found["product_share"] = flops / found["product_rate"] / found["step_seconds"]
    found |= profile(lambda: step(batch), device)
    return found | differences(model, setting, overrides, loader.batch(np.arange(min(_COMPARED, rows))))


def profile(step: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Where the time of a step goes, as shares of it.

    Returns:
        ``products``, ``others``, ``idle``: time in kernels of matrix products, in other ones, and without any; and
        ``kernels``, the eight that take longest, (name, share). On a CPU operators stand in the place of kernels.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    on_gpu = device.type == "cuda"
    step()
    wait(device)
    with record(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as recorded:
        begin = time.perf_counter()
        for _ in range(_PROFILED):
            step()
        wait(device)
        whole = (time.perf_counter() - begin) * 1e6  # the profiler counts in µs
    times: dict[str, float] = {}
    for event in recorded.key_averages():
        if (event.device_type == DeviceType.CPU) != on_gpu and not getattr(event, "is_user_annotation", False):
            times[event.key] = event.self_device_time_total if on_gpu else event.self_cpu_time_total
    products = sum(spent for name, spent in times.items() if _PRODUCT.search(name)) / whole
    others = sum(times.values()) / whole - products
    longest = sorted(times.items(), key=lambda pair: -pair[1])[:8]
    return {
        "products": products,
        "others": others,
        "idle": max(1 - products - others, 0.0),
        "kernels": [(name[:100], spent / whole) for name, spent in longest],
    }


def differences(model, setting: Setting, overrides: tuple[str, ...], batch: ItemBatch) -> dict[str, float]:
    """How far a model is from the same weights on the CPU, in float32 and not compiled, in evaluation mode.

    Returns:
        ``logits``, the largest difference by the largest logit, and ``gradients``, the norm of the difference of the
        loss's gradient by its norm.
    """
    exact = build_model(replace(setting, precision="fp32", compiled=False).prepare(-1, overrides))
    exact.load_state_dict(model.state_dict())
    found = []
    for one in (model, exact):
        one.eval()
        one.zero_grad()
        items = {name: t.to(one.device) for name, t in batch.items.items()}
        placed = replace(map_rows(batch, lambda t, one=one: t.to(one.device)), items=items)
        out = one.forward(placed)
        one.add_loss(out, one.get_labels(placed)).backward()
        gradients = {n: p.grad.cpu() for n, p in one.named_parameters() if p.grad is not None}
        found.append((out["logits"].detach().cpu(), gradients))
    (logits, gradients), (want, right) = found
    apart = [gradients.get(name, torch.zeros_like(g)) - g for name, g in right.items()]
    apart, whole = (torch.stack([t.double().norm() for t in part]).norm() for part in (apart, right.values()))
    return {
        "logits": float((logits - want).abs().max() / want.abs().max().clamp(min=1)),
        "gradients": float(apart / whole),
    }


def _memory_rate(device: torch.device) -> float:
    """Bytes a second of a copy, read and written."""
    copy, moved = copying(device)

    def run() -> int:
        for _ in range(10):
            copy()
        wait(device)
        return 10

    return _rate(run) * moved


def _rate(run: Callable[[], int]) -> float:
    run()
    begin = time.perf_counter()
    return run() / (time.perf_counter() - begin)
