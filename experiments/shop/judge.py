"""What a day's model is worth, against the shop's truth and against trees of what could be known.

    python experiments/shop/judge.py RAW FOLDER EXPORT HISTORIES PREDICTIONS

RAW is what shop.py wrote, FOLDER the import of a day, EXPORT and HISTORIES a model's files, PREDICTIONS its
.prediction.csv of the test rows there. A day has few of these, and chance decides; therefore pairs of users and items,
too, weighted by the known probability of a click: 500 users at the day's end with 100 items on sale for long, and with
those of the day.
"""

from __future__ import annotations

import json
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pandas as pd
import typer
from scipy.stats import spearmanr
from shop import BEGIN, SECONDS, click_probability
from sklearn.metrics import roc_auc_score

from qin_zoo.serving import Scorer
from qin_zoo.serving.histories import FileHistories, Known

_USERS, _ITEMS = 500, 100
_KEYS = ("item_id", "user_id", "category", "both")
_PRIOR = 20  # rows by which a rate is drawn towards that of all


def judge(raw: Path, folder: Path, export: Path, histories: Path, predictions: Path) -> dict[str, float]:
    """Figures of a day, by name."""
    log = pd.read_parquet(raw / "truth/interactions.parquet")
    users = pd.read_parquet(raw / "truth/users.parquet").set_index("user_id")
    items = pd.read_parquet(raw / "truth/items.parquet").set_index("item_id")
    known = pd.concat([pd.read_parquet(raw / name / "items.parquet") for name in ("start", "day-1", "day-2", "day-3")])
    items = items.join(known.drop_duplicates("item_id").set_index("item_id"))
    test = pd.read_parquet(folder / "test.parquet")
    for name in ("user", "item"):
        names = pd.read_parquet(folder / f"ids_{name}.parquet").set_index(f"{name}_id")["original_id"]
        test[f"{name}_id"] = test[f"{name}_id"].map(names)
    now = _end(test, log)  # in days
    log = log[log["time"] < BEGIN + SECONDS * now].reset_index(drop=True)
    cut = len(log) - len(test)
    columns = _columns(log, items)
    trees = lgb.LGBMClassifier(n_estimators=200, learning_rate=0.05, min_child_samples=100, n_jobs=1, verbose=-1)
    trees.fit(columns[:cut], log["click"][:cut])
    clicks = log["click"][cut:]
    found = {
        "rows": len(test),
        "AUC": roc_auc_score(clicks, pd.read_csv(predictions)["Task2"]),
        "AUC of Bayes": roc_auc_score(clicks, log["probability"][cut:]),
        "AUC of trees": roc_auc_score(clicks, trees.predict_proba(columns[cut:])[:, 1]),
    }
    some = users.sample(_USERS, random_state=1).index
    on_sale = items[items["withdrawn"] > now]
    for name, of in (
        ("old", on_sale[on_sale["released"] < now - 30].sample(_ITEMS, random_state=1)),
        ("new", on_sale[(on_sale["released"] >= now - 1) & (on_sale["released"] < now)]),
    ):
        if len(of) and now > 57:
            scorer = Scorer(export, ids="original")
            scores = [_score(scorer, FileHistories(histories, 100, "original").get(u), of) for u in some]
            pairs = _pairs(log, users.loc[some], of, now, np.concatenate(scores), trees, items)
            found |= {f"{name} {key}": value for key, value in pairs.items()}
    return found


def _end(test: pd.DataFrame, log: pd.DataFrame) -> int:
    """The day that these rows end."""
    for day in (57, 58, 59, 60):
        shown = log.loc[log["time"] < BEGIN + SECONDS * day, ["user_id", "item_id"]].tail(len(test))
        if (shown.to_numpy() == test[["user_id", "item_id"]].to_numpy()).all():
            return day
    raise SystemExit("expected test rows that end a day of the log, found others")


def _score(scorer: Scorer, user: Known, items: pd.DataFrame) -> np.ndarray:
    """As the service does for a user_id."""
    history = user.history or scorer.requests.no_history
    return scorer.score(history, items.index.tolist(), {**scorer.of_user, **user.features})


def _pairs(log, users, items, now: int, scores: np.ndarray, trees, all_items) -> dict[str, float]:
    """Scores of users' next views of items, against their probabilities."""
    age = now - items["released"].to_numpy()
    chance = click_probability(
        np.stack(users["taste"])[:, None], np.stack(items["place"]), items["quality"].to_numpy(), age
    ).ravel()
    asked = pd.DataFrame({"user_id": np.repeat(users.index, len(items)), "item_id": np.tile(items.index, len(users))})
    asked = asked.assign(time=BEGIN + SECONDS * now, click=0)
    of_trees = trees.predict_proba(_columns(log, all_items, asked))[:, 1]

    def auc(values: np.ndarray) -> float:
        labels, weights = np.repeat([1, 0], len(chance)), np.concatenate([chance, 1 - chance])
        return roc_auc_score(labels, np.tile(values, 2), sample_weight=weights)

    return {
        "items": len(items),
        "mean": scores.mean(),
        "mean of Bayes": chance.mean(),
        "AUC": auc(scores),
        "AUC of Bayes": auc(chance),
        "AUC of trees": auc(of_trees),
        "Spearman": spearmanr(scores, chance).statistic,
    }


def _columns(log: pd.DataFrame, items: pd.DataFrame, asked: pd.DataFrame | None = None) -> pd.DataFrame:
    """Counts before each row of the log, or before the rows asked that come behind it; age, category and image."""
    log, rows = _keyed(log, items), None if asked is None else _keyed(asked, items)
    of = log if rows is None else rows
    columns = pd.DataFrame(np.stack(items["image"].loc[of["item_id"]])).add_prefix("image")
    columns["age"] = of["time"] - of["item_id"].map(log.groupby("item_id")["time"].min()).fillna(of["time"])
    columns["category"] = of["category"].astype(pd.CategoricalDtype(sorted(items["category"].unique())))
    for key in _KEYS:
        clicks = log.groupby(key)["click"]
        if rows is None:
            views, clicked = clicks.cumcount(), clicks.cumsum() - log["click"]
        else:
            views, clicked = (rows[key].map(values).fillna(0) for values in (clicks.count(), clicks.sum()))
        columns[f"{key} views"], columns[f"{key} rate"] = views, (clicked + 0.4 * _PRIOR) / (views + _PRIOR)
    return columns


def _keyed(log: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    category = items["category"].loc[log["item_id"]].to_numpy()
    return log.assign(category=category, both=log["user_id"] + category)


def main(raw: Path, folder: Path, export: Path, histories: Path, predictions: Path) -> None:
    """Prints what a day's model is worth, against the shop's truth and against trees of what could be known."""
    figures = judge(raw, folder, export, histories, predictions)
    print(json.dumps({name: round(float(value), 4) for name, value in figures.items()}))


if __name__ == "__main__":
    typer.run(main)
