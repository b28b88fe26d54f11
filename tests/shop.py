"""A shop whose click probabilities are known: taste by latent factors, quality, fashion that fades, string ids.

    python tests/shop.py OUT [--rows 200000] [--seed 1]

writes interactions.csv (user_id, item_id, time, click), items.parquet (item_id, title, category, image), truth.parquet
(the probability of each interaction), and in OUT/recbole the same log as atomic files for `data import recbole`.

User u and item i have a taste t_u and a place s_i in 4 dimensions; places lie around those of 16 categories, which show
in titles, and images are noisy views of them. Item i has a quality q_i and a day of release d_i. Shown at time x it is
clicked with probability σ(a + 1.05·t_u·s_i + 0.65·q_i + 0.5·2^(−(x − d_i)/15)), products scaled to deviation 1. What is
shown follows popularity, exp(0.8·q_i + noise), and knows no taste.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

DAYS = 60
_FACTORS, _CATEGORIES, _IMAGE = 4, 16, 32
_TASTE, _QUALITY, _FASHION = 1.05, 0.65, 0.5
_THINGS = [
    "shirt", "lamp", "kettle", "chair", "novel", "scarf", "guitar", "tent", "camera", "puzzle", "perfume", "bicycle",
    "teapot", "rug", "jacket", "watch", "vase", "keyboard", "drill", "doll", "sofa", "racket", "blender", "mirror",
]  # fmt: skip
_KINDS = ["red", "blue", "small", "large", "plain", "wild", "old", "new", "soft", "bright"]


@dataclass(frozen=True)
class Shop:
    """A log and its truth.

    Attributes:
        interactions: user_id, item_id, time (seconds), click; in the order of time.
        items: item_id, title, category, image (32 numbers).
        probability: (rows,) of a click, of each interaction.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    probability: np.ndarray


def make_shop(rows: int = 200_000, seed: int = 1) -> Shop:
    """A shop with a user for 80 interactions and an item for 100."""
    g = np.random.default_rng(seed)
    users, items = max(rows // 80, 20), max(rows // 100, 2 * _CATEGORIES)
    taste = g.normal(size=(users, _FACTORS))
    category = g.integers(0, _CATEGORIES, items)
    centres = g.normal(size=(_CATEGORIES, _FACTORS))
    place = (centres[category] + 0.6 * g.normal(size=(items, _FACTORS))) / np.sqrt(_FACTORS * 1.36)
    quality = g.normal(size=items)
    released = np.where(g.random(items) < 0.5, -g.exponential(30, items), g.uniform(0, DAYS * 0.9, items))
    image = place @ g.normal(size=(_FACTORS, _IMAGE)) + 0.5 * g.normal(size=(items, _IMAGE))

    time = np.sort(g.uniform(0, DAYS, rows))
    activity = 0.3 + g.exponential(size=users)
    user = g.choice(users, rows, p=activity / activity.sum())
    weight = np.exp(0.8 * quality + 0.8 * g.normal(size=items))
    item = g.choice(items, rows, p=weight / weight.sum())
    while len(early := np.flatnonzero(released[item] > time)):  # not there yet: another one is shown
        item[early] = g.choice(items, len(early), p=weight / weight.sum())
    logit = _TASTE * (taste[user] * place[item]).sum(1) + _QUALITY * quality[item]
    logit += _FASHION * 2.0 ** ((released[item] - time) / 15) - 1.2
    probability = 1 / (1 + np.exp(-logit))

    user_ids = np.array([f"u{n:06x}" for n in g.permutation(1 << 20)[:users]])
    item_ids = np.array([f"sku-{n:05d}" for n in g.permutation(100_000)[:items]])
    words = g.integers(0, len(_KINDS), items)
    return Shop(
        pl.DataFrame(
            {
                "user_id": user_ids[user],
                "item_id": item_ids[item],
                "time": (1_700_000_000 + 86_400 * time).astype(np.int64),
                "click": (g.random(rows) < probability).astype(np.int8),
            }
        ),
        pl.DataFrame(
            {
                "item_id": item_ids,
                "title": [f"{_KINDS[w]} {_THINGS[c]} {n % 97}" for n, (w, c) in enumerate(zip(words, category))],
                "category": [_THINGS[c] for c in category],
                "image": image.astype(np.float32).tolist(),
            }
        ),
        probability,
    )


def write_shop(folder: Path, rows: int = 200_000, seed: int = 1) -> Shop:
    """Writes a shop's files; returns it."""
    shop = make_shop(rows, seed)
    (folder / "recbole").mkdir(parents=True, exist_ok=True)
    shop.interactions.write_csv(folder / "interactions.csv")
    shop.items.write_parquet(folder / "items.parquet")
    pl.DataFrame({"probability": shop.probability}).write_parquet(folder / "truth.parquet")
    types = {"user_id": "token", "item_id": "token", "time": "float", "click": "float", "title": "token_seq"}
    types["category"] = "token"
    for kind, frame in (("inter", shop.interactions), ("item", shop.items.drop("image"))):
        frame = frame.rename({n: f"{'timestamp' if n == 'time' else n}:{types[n]}" for n in frame.columns})
        frame.write_csv(folder / "recbole" / f"shop.{kind}", separator="\t", quote_style="never")
    return shop


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    write_shop(options.out, options.rows, options.seed)
