"""Every model's step beside what bounds it, in float32 and bfloat16: python experiments/speed.py OUT.md

Published sizes on random batches (`qin-zoo bench growth`), each model and precision (`--precision fp32`: that alone)
in a process of its own. What is measured is kept in OUT.md.jsonl, and again goes on from there. "Bound" is what its
products and the memory passes of its other operations take alone, as a share of the step; above 100 % where a cache
spares passes. A batch whose products alone would take longer than 15 seconds is left out.
"""

import json
import subprocess
import sys
from enum import Enum
from pathlib import Path

import typer
import yaml

HERE = Path(__file__).parent
SIZES, LONGEST, ROUNDS = (1024, 2048, 8192), 15.0, 3


class Precision(str, Enum):
    """What a step computes in."""

    fp32 = "fp32"
    bf16 = "bf16"


def experiments() -> list[str]:
    names = []
    for file in sorted(HERE.glob("*/model_config.yaml")):
        names += [name for name in yaml.safe_load(file.read_text()) if name.endswith("_MicroLens_1M_x1")]
    return names


def measure(name: str, precision: str, size: int) -> dict:
    command = ["bench", "growth", name, "--axis", f"batch_size={size}", "--rounds", str(ROUNDS), "--json"]
    run = [sys.executable, "-m", "qin_zoo", *command, "--set", f"precision={precision}"]
    done = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True)
    return {"name": name, "precision": precision} | json.loads(done.stdout)["points"][0]


def table(points: list[dict]) -> str:
    lines = ["| model | precision | rows | step | × products | bound | rows/s | scoring | × | bound | rows/s |"]
    lines.append(f"| --- | --- |{' ---: |' * 9}")
    for p in sorted(points, key=lambda p: (p["name"], p["precision"] != "fp32", p["rows"])):
        step = p["gradient"] + p["update"]
        rates = [
            f"{time:.3f} s | {time / p[f'{kind}_products']:.2f} | "
            f"{(p[f'{kind}_products'] + p[f'{kind}_passes']) / time:.0%} | {p['rows'] / time:,.0f}"
            for kind, time in (("step", step), ("score", p["score"]))
        ]
        lines.append(
            f"| {p['name'].removesuffix('_MicroLens_1M_x1')} | {p['precision']} | {p['rows']:,} | {' | '.join(rates)} |"
        )
    return "\n".join(lines) + "\n"


def main(out: Path, precision: list[Precision] = tuple(Precision)) -> None:
    """Measures every model, and writes the table to OUT; what OUT.jsonl holds is not measured again."""
    kept = out.with_name(f"{out.name}.jsonl")
    points = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(p["name"], p["precision"], p["value"]): p for p in points}
    for name in experiments():
        for kind in (p.value for p in precision):
            alone = 0.0  # seconds of products of the size before
            for before, size in zip((SIZES[0], *SIZES), SIZES):
                if (name, kind, size) not in done:
                    if alone * size / before > LONGEST:
                        print(f"{name} {kind} {size}: left out", flush=True)
                        break
                    done[name, kind, size] = measure(name, kind, size)
                    with kept.open("a") as file:
                        file.write(json.dumps(done[name, kind, size]) + "\n")
                    print(table([done[name, kind, size]]).splitlines()[-1], flush=True)
                alone = done[name, kind, size]["step_products"]
    out.write_text(table(list(done.values())))


if __name__ == "__main__":
    typer.run(main)
