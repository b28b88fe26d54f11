"""MovieLens-1M with plot texts: ``ratings.parquet``, ``movies.parquet`` and ``users.parquet``.

Ratings bring each user's order (``seq``), a time and a split by global time. What a user did before is told by the
order, what others did by the time. Where a time is marked as not exact it lies between its neighbours'; in the first
of the splits that marks the ratings below 4, so neither the mark nor anything finer of the time (ties, hour) may become
a column: each would tell the label.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data import SPLITS
from qin_zoo.data.importers.ids import look_up
from qin_zoo.data.importers.log import InteractionLog, Side
from qin_zoo.data.importers.tables import folder_of, read_parquet
from qin_zoo.errors import DataError

EXPECTED = "ratings.parquet, movies.parquet and users.parquet"
_USER_COLUMNS = ("gender", "age", "occupation", "zip")


def read(path: str | Path) -> InteractionLog:
    """The log of the folder; genres are the items' tags, title and overview their texts."""
    folder = folder_of(path, EXPECTED)
    file = folder / "ratings.parquet"
    ratings = read_parquet(file, "split", whole=("user_id", "movie_id", "rating", "seq", "timestamp"))
    ratings = ratings.sort("user_id", "seq", maintain_order=True)
    notes: list[str] = []
    log = InteractionLog(
        file,
        ratings["user_id"],
        ratings["movie_id"],
        ratings["timestamp"].to_numpy(),
        order=places(file, ratings, notes),
        columns={"rating": lambda: ratings["rating"].to_numpy().astype(np.float64)},
        others=[n for n in ratings.columns if n not in ("user_id", "movie_id", "rating", "seq", "timestamp", "split")],
        given=given(file, ratings["split"]),
        cut_in_time=True,
        default_label="rating>=4",
        defaults={"history": "all", "history_column": "rating", "known": "all"},
        notes=notes,
    )
    if "timestamp_exact" in ratings.columns and (inexact := int((ratings["timestamp_exact"] == 0).sum())):
        notes.append(
            f"{file.name}: {inexact} times are not exact ({inexact / ratings.height:.1%}), most of them of ratings "
            "below 4: no hour or weekday, which would tell the label; counts of items are right to a few minutes."
        )
    movies = read_parquet(folder / "movies.parquet", "title", "genres", "overview", unique="movie_id")
    look_up("item", log.item, folder / "movies.parquet", movies["movie_id"], notes)
    genres = movies["genres"].fill_null("").str.split("|").list.eval(pl.element().filter(pl.element() != ""))
    log.items = Side(
        movies["movie_id"],
        categories={"year": movies["title"].str.extract(r"\((\d{4})\)\s*$")},
        lists={"genres": genres},
        texts={"title": movies["title"], "overview": movies["overview"]},
    )
    users = read_parquet(folder / "users.parquet", *_USER_COLUMNS, unique="user_id")
    look_up("user", log.user, folder / "users.parquet", users["user_id"], notes)
    log.users = Side(users["user_id"], {name: users[name].cast(pl.String) for name in _USER_COLUMNS})
    return log


def places(path: Path, rows: pl.DataFrame, notes: list[str]) -> np.ndarray:
    """(n,) each row's place among its user's, from 0, of rows sorted by user_id and seq; DataError for two alike."""
    if rows.select(pl.struct("user_id", "seq").is_duplicated().any()).item():
        raise DataError(f"{path}: expected one row for each user_id and seq, found two. Fetch it again.")
    notes.append("A user's earlier interactions are those with a smaller seq, equal times included.")
    return rows.select(pl.int_range(pl.len()).over("user_id")).to_series().to_numpy().astype(np.int64)


def given(path: Path, split: pl.Series) -> np.ndarray:
    """(n,) int8 of a column that says train, valid or test; DataError for anything else."""
    text = split.cast(pl.String)
    wrong = text.filter(text.is_in(SPLITS).fill_null(False).not_())
    if len(wrong):
        raise DataError(f"{path}, column 'split': expected {', '.join(SPLITS)}, found '{wrong[0]}'. Fetch it again.")
    return text.replace_strict(dict(zip(SPLITS, range(3))), return_dtype=pl.Int8).to_numpy()
