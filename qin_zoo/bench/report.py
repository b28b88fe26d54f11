"""What a race measured, in figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qin_zoo.bench.race import Result
from qin_zoo.experiment.report import markdown_table
from qin_zoo.files import replace_text


def summarise(results: list[Result]) -> dict:
    """Medians, memory and ratios of a race, ready for JSON.

    The fraction of the machine's matrix products is the time that the step's own products would take alone, at the rate
    measured in the same race, by the time of the step.
    """
    by_name = {result.name: result for result in results if not result.failure}
    fast, product = by_name.get("qin-zoo"), by_name.pop("matrix product", None)
    plain = by_name.get("rival", by_name.get("plain"))
    summary: dict = {
        name: {
            "rows_per_second": result.median,
            "all": result.rates,
            "seconds_to_first": result.ready,
            "peak_bytes": result.peak_bytes,
            "gpu_bytes": result.gpu_bytes,
            **result.facts,
        }
        for name, result in by_name.items()
    }
    if failed := {result.name: result.failure for result in results if result.failure}:
        summary["failed"] = failed
    if fast and plain:
        summary["ratio"] = fast.median / plain.median
    if fast and "train_rows" in fast.facts:
        summary["epoch_seconds"] = fast.facts["train_rows"] / fast.median
    if product:
        summary["product_flops_per_second"] = product.median * product.facts["flops"]
        if fast:
            seconds = fast.facts["batch_size"] / fast.median
            alone = fast.facts["flops"] / summary["product_flops_per_second"]
            summary |= {"step_seconds": seconds, "products_alone_seconds": alone, "product_fraction": alone / seconds}
    return summary


_BOUND = {
    "products": "matrix products",
    "others": "memory: gathers and elementwise passes",
    "idle": "the host: the GPU waits",
}


def write_gpu_table(lines: list[dict[str, Any]], facts: dict[str, Any], limits: dict[str, float], path: Path) -> None:
    """Writes ``path``.md and ``path``.json.

    Args:
        lines: what ``check_gpu`` measured.
        facts: ``environment``, ``rows``, and ``notes``, lines for the head.
        limits: of the logits' difference, by precision.
        path: of the files, without suffix.
    """
    done = [line for line in lines if "failure" not in line]
    text = [f"# {', '.join(facts['environment']['gpus']) or 'CPU'}, torch {facts['environment']['torch']}", ""]
    text += [*facts["notes"], ""]
    for precision in limits:
        if of_it := [line for line in done if line["precision"] == precision]:
            rates = [f"{max(line[key] for line in of_it) / 1e12:,.2f}" for key in ("product_rate", "memory_rate")]
            text.append(f"{precision}: matrix products {rates[0]} TFLOP/s; a copy {rates[1]} TB/s, read and written.")
    rows = [_gpu_row(line, limits) for line in done]
    text += ["", *([markdown_table([*rows[0]], [[*row.values()] for row in rows])] if rows else []), ""]
    for line in (line for line in lines if "failure" in line):
        name = f"{line['expid']}, {line['precision']}{', compiled' if line['compiled'] else ''}"
        text.append(f"- {name}: no result. {line['failure']}")
    contents = {".md": "\n".join(text).strip(), ".json": json.dumps(facts | {"lines": lines}, indent=2)}
    for suffix, content in contents.items():
        replace_text(path.with_name(path.name + suffix), content + "\n")


def _gpu_row(line: dict[str, Any], limits: dict[str, float]) -> dict[str, str]:
    whole = line["steps"] * line["step_seconds"] >= 0.99 * line["epoch_seconds"]
    compiled = f", compiled in {line['first_seconds']:.0f} s" if line["compiled"] else ""
    far = line["logits"] > limits[line["precision"]]
    return {
        "experiment": line["expid"],
        "precision": line["precision"] + compiled,
        "rows/s": f"{line['rows_per_second']:,.0f}",
        "epoch": f"{line['epoch_seconds']:.2f} s" + ("" if whole else f" (from {line['steps']:,} steps)"),
        "step": f"{1000 * line['step_seconds']:.2f} ms",
        "memory": f"{line['peak_bytes'] / 2**30:.2f} GiB" + (", rows resident" if line["resident"] else ""),
        "of the products' rate": f"{line['product_share']:.0%}",
        "products, others, idle": ", ".join(f"{line[key]:.0%}" for key in _BOUND),
        "logits": f"{line['logits']:.1e}" + (" **too far**" if far else ""),
        "gradients": f"{line['gradients']:.1e}",
        "bound by": _BOUND[max(_BOUND, key=line.__getitem__)],
    }
