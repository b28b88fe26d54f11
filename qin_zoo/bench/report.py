"""What a race measured, for people and for machines."""

from __future__ import annotations

from qin_zoo.bench.growth import Point
from qin_zoo.bench.race import Result


def summarise(results: list[Result]) -> dict:
    """Medians, memory and ratios of a race, ready for JSON.

    The fraction of the machine's matrix products is the time that the step's own products would take alone, at the rate
    measured in the same race, by the time of the step.
    """
    by_name = {result.name: result for result in results if not result.failure}
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
        if name != "matrix product"
    }
    if failed := {result.name: result.failure for result in results if result.failure}:
        summary["failed"] = failed
    fast, plain, product = (by_name.get(name) for name in ("qin-zoo", "plain", "matrix product"))
    plain = by_name.get("rival", plain)
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


def print_summary(summary: dict, title: str) -> None:
    """The summary as a table on the terminal."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in ("", "rows/s", "range", "first after", "memory", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, values in summary.items():
        if not isinstance(values, dict) or name == "failed":
            continue
        rates, memory = values["all"], f"{values['peak_bytes'] / 2**20:,.0f} MiB"
        if values["gpu_bytes"]:
            memory += f", GPU {values['gpu_bytes'] / 2**20:,.0f} MiB"
        ratio = f"{summary['ratio']:.1f} ×" if name == "qin-zoo" and "ratio" in summary else ""
        table.add_row(
            name,
            f"{values['rows_per_second']:,.0f}",
            f"{min(rates):,.0f}–{max(rates):,.0f}",
            f"{values['seconds_to_first']:.1f} s",
            memory,
            ratio,
        )
    console = Console()
    console.print(table)
    if summary.get("epoch_seconds"):
        console.print(f"An epoch of {summary['qin-zoo']['train_rows']:,} rows takes {summary['epoch_seconds']:,.0f} s.")
    if "product_fraction" in summary:
        console.print(
            f"A step takes {summary['step_seconds']:.3f} s; its matrix products alone, at the measured "
            f"{summary['product_flops_per_second'] / 1e9:,.0f} GFLOP/s, {summary['products_alone_seconds']:.3f} s: "
            f"{summary['step_seconds'] / summary['products_alone_seconds']:.2f} ×, "
            f"{summary['product_fraction']:.0%} of what the machine can do."
        )


def print_growth(points: list[Point], title: str) -> None:
    """The growth of a step as a table on the terminal: gradient is forward and backward pass, update the rest."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("varied")
    for heading in ("value", "gradient", "update", "step", "rows/s", "score", "rows/s"):
        table.add_column(heading, justify="right")
    previous = None
    for p in points:
        if previous not in (None, p.axis):
            table.add_section()
        previous = p.axis
        table.add_row(
            p.axis, f"{p.value:,}", f"{p.gradient:.3f} s", f"{p.update:.3f} s", f"{p.step:.3f} s",
            f"{p.rows / p.step:,.0f}", f"{p.score:.3f} s", f"{p.rows / p.score:,.0f}",
        )  # fmt: skip
    Console().print(table)
