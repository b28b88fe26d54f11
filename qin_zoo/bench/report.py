"""What a race measured, in figures."""

from __future__ import annotations

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
