"""A shop whose click probabilities are known: taste by latent factors, quality, fashion that fades, string ids.

    python experiments/shop/shop.py OUT [--rows 200000] [--seed 1]

writes what such a shop would hand over: OUT/start, the files of 57 days, and OUT/day-1 to day-3, those of one day each:
interactions.csv (user_id, item_id, time, click) and items.parquet (item_id, title, category, image) of what is on sale.
One item in a hundred is new on each of the three days, and as many are gone. OUT/truth has what no shop knows.

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

DAYS, SINGLE_DAYS = 60, 3  # of which the last are handed over one by one
BEGIN, SECONDS = 1_700_000_000, 86_400  # of the first day, and of a day
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
        users: user_id, taste (4 numbers).
        truth: item_id, place (4 numbers), quality, and the days it is on sale: released, withdrawn.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    probability: np.ndarray
    users: pl.DataFrame
    truth: pl.DataFrame


def click_probability(taste, place, quality, age) -> np.ndarray:
    """Of users of a taste (…, 4) shown items of a place (…, 4), a quality and an age in days (…)."""
    logit = _TASTE * (taste * place).sum(-1) + _QUALITY * quality + _FASHION * 2.0 ** (-age / 15) - 1.2
    return 1 / (1 + np.exp(-logit))


def make_shop(rows: int = 200_000, seed: int = 1, new_items: int = 0) -> Shop:
    """A shop with a user for 80 interactions and an item for 100.

    Args:
        new_items: that come on each of the last three days, in the course of it; as many others are gone by then.
    """
    g = np.random.default_rng(seed)
    users, items = max(rows // 80, 20), max(rows // 100, 2 * _CATEGORIES)
    taste = g.normal(size=(users, _FACTORS))
    category = g.integers(0, _CATEGORIES, items)
    centres = g.normal(size=(_CATEGORIES, _FACTORS))
    place = (centres[category] + 0.6 * g.normal(size=(items, _FACTORS))) / np.sqrt(_FACTORS * 1.36)
    quality = g.normal(size=items)
    released = np.where(g.random(items) < 0.5, -g.exponential(30, items), g.uniform(0, DAYS * 0.9, items))
    withdrawn = np.full(items, np.inf)
    for day in range(SINGLE_DAYS * (new_items > 0)):
        first = DAYS - SINGLE_DAYS + day
        released[day * new_items : (day + 1) * new_items] = np.linspace(first, first + 0.5, new_items)
        withdrawn[items - (day + 1) * new_items : items - day * new_items] = first
    image = place @ g.normal(size=(_FACTORS, _IMAGE)) + 0.5 * g.normal(size=(items, _IMAGE))

    time = np.sort(g.uniform(0, DAYS, rows))
    activity = 0.3 + g.exponential(size=users)
    user = g.choice(users, rows, p=activity / activity.sum())
    weight = np.exp(0.8 * quality + 0.8 * g.normal(size=items))
    item = g.choice(items, rows, p=weight / weight.sum())
    while len(absent := np.flatnonzero((released[item] > time) | (withdrawn[item] <= time))):  # another one is shown
        item[absent] = g.choice(items, len(absent), p=weight / weight.sum())
    probability = click_probability(taste[user], place[item], quality[item], time - released[item])

    user_ids = np.array([f"u{n:06x}" for n in g.permutation(1 << 20)[:users]])
    item_ids = np.array([f"sku-{n:05d}" for n in g.permutation(100_000)[:items]])
    words = g.integers(0, len(_KINDS), items)
    return Shop(
        pl.DataFrame(
            {
                "user_id": user_ids[user],
                "item_id": item_ids[item],
                "time": (BEGIN + SECONDS * time).astype(np.int64),
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
        pl.DataFrame({"user_id": user_ids, "taste": taste.tolist()}),
        pl.DataFrame(
            {
                "item_id": item_ids,
                "place": place.tolist(),
                "quality": quality,
                "released": released,
                "withdrawn": withdrawn,
            }
        ),
    )


def write_shop(folder: Path, rows: int = 200_000, seed: int = 1) -> Shop:
    """Writes a shop's files; returns it."""
    shop = make_shop(rows, seed, new_items=max(rows // 10_000, 1))
    day = (shop.interactions["time"] - BEGIN) / SECONDS
    ends = [0, *range(DAYS - SINGLE_DAYS, DAYS + 1)]
    for name, first, last in zip(["start", *(f"day-{n + 1}" for n in range(SINGLE_DAYS))], ends, ends[1:]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        shop.interactions.filter((day >= first) & (day < last)).write_csv(folder / name / "interactions.csv")
        on_sale = (shop.truth["released"] < last) & (shop.truth["withdrawn"] > first)
        shop.items.filter(on_sale).write_parquet(folder / name / "items.parquet")
    (folder / "truth").mkdir(exist_ok=True)
    shop.interactions.with_columns(probability=shop.probability).write_parquet(folder / "truth/interactions.parquet")
    shop.users.write_parquet(folder / "truth/users.parquet")
    shop.truth.write_parquet(folder / "truth/items.parquet")
    return shop


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    write_shop(options.out, options.rows, options.seed)
