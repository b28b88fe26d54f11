"""Writes the csv files of the example: `python make_data.py [FOLDER]` (default: data/fields_example).

A click is likelier the more of the user's history is of the target's category, and the cheaper the item; so the
probabilities are known, and with them the best AUC that any model can reach.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer

ROWS = {"train": 40_000, "valid": 8_000, "test": 8_000}
USERS, ITEMS, CATEGORIES, LONGEST, VECTOR = 2_000, 500, 20, 20, 8


def main(folder: Annotated[Path, typer.Argument()] = Path("data/fields_example"), seed: int = 2025) -> None:
    """Writes the csv files of the example into FOLDER."""
    g = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    category_of = g.integers(0, CATEGORIES, ITEMS)
    price_of = g.lognormal(2, 0.5, ITEMS)
    vector_of = g.normal(size=(CATEGORIES, VECTOR))[category_of] + 0.3 * g.normal(size=(ITEMS, VECTOR))
    taste_of = g.dirichlet(np.full(CATEGORIES, 0.15), USERS)
    items_of = [np.flatnonzero(category_of == c) for c in range(CATEGORIES)]

    def history(user: int) -> np.ndarray:
        categories = g.choice(CATEGORIES, g.integers(0, LONGEST + 1), p=taste_of[user])
        return np.array([g.choice(items_of[c]) for c in categories], dtype=int)

    for split, rows in ROWS.items():
        users, hours = g.integers(0, USERS, rows), g.integers(0, 24, rows)
        histories = [history(user) for user in users]
        # half the targets are of a category the user knows, so that the history decides
        known = g.random(rows) < 0.5
        targets = np.array(
            [
                g.choice(items_of[category_of[g.choice(h)]]) if k and len(h) else g.integers(0, ITEMS)
                for k, h in zip(known, histories)
            ]
        )
        shares = [np.mean(category_of[h] == category_of[t]) if len(h) else 0.0 for h, t in zip(histories, targets)]
        affinity, evening = np.sqrt(shares), (hours >= 18).astype(float)
        cheapness = -(np.log(price_of[targets]) - 2)
        chance = 1 / (1 + np.exp(-(5 * affinity - 2.2 + 0.8 * cheapness + 0.5 * evening)))
        clicks = (g.random(rows) < chance).astype(int)
        pl.DataFrame(
            {
                "user_id": [f"u{u}" for u in users],
                "item_id": [f"i{t}" for t in targets],
                "category": [f"c{c}" for c in category_of[targets]],
                "hour": hours,
                "item_history": ["^".join(f"i{i}" for i in h) for h in histories],
                "category_history": ["^".join(f"c{c}" for c in category_of[h]) for h in histories],
                "price": price_of[targets].round(2),
                "item_vector": ["^".join(f"{v:.4f}" for v in row) for row in vector_of[targets]],
                "click": clicks,
            }
        ).write_csv(folder / f"{split}.csv")
        print(f"{split}: {rows} rows, {clicks.mean():.3f} clicks, best reachable AUC {auc(clicks, chance):.4f}")


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Chance that a click scores above what was not clicked."""
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    clicks = labels.sum()
    return (ranks[labels == 1].sum() - clicks * (clicks + 1) / 2) / (clicks * (len(labels) - clicks))


if __name__ == "__main__":
    typer.run(main)
