"""GroupLens' own folders of MovieLens: 100K (``u.data``), 1M and 10M (``ratings.dat``), 20M and later (``.csv``)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import polars as pl

from qin_zoo.data.importers.ids import aligned, column, look_up
from qin_zoo.data.importers.log import InteractionLog, Side
from qin_zoo.data.importers.moments import read_times
from qin_zoo.data.importers.tables import Table, folder_of
from qin_zoo.errors import DataError
from qin_zoo.files import found_in

EXPECTED = "a MovieLens data set: u.data and u.item (100K), ratings.dat and movies.dat (1M, 10M), or ratings.csv and movies.csv (20M, 25M, 32M, latest)"  # fmt: skip  # noqa: E501
_USER_100K = ("id", "age", "gender", "occupation", "zip_code")
_USER_1M = ("id", "gender", "age", "occupation", "zip_code")
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_COLUMNS = ("userId", "movieId", "rating", "timestamp")
_NO_GENRE = ("(no genres listed)", "unknown", "")


def read(path: str | Path) -> InteractionLog:
    """The log of a MovieLens folder; genres are the items' tags. DataError for a folder of another form."""
    folder = folder_of(path, EXPECTED)
    if (folder / "u.data").exists():
        ratings, separator, names, users = Table(folder / "u.data", "\t", _COLUMNS), "|", _USER_100K, folder / "u.user"
        columns = ("id", "title", "released", "video", "url", *_GENRES)
        movies = Table(folder / "u.item", separator, columns, encoding="latin-1")
        has = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES]
        movies.frame = movies.frame.with_columns(pl.concat_str(has, separator="|", ignore_nulls=True).alias("genres"))
    elif (folder / "ratings.dat").exists():
        separator, names, users = "::", _USER_1M, folder / "users.dat"
        ratings = Table(folder / "ratings.dat", separator, _COLUMNS)
        movies = Table(folder / "movies.dat", separator, ("id", "title", "genres"), encoding="latin-1")
    elif (folder / "ratings.csv").exists():
        ratings, movies = (Table(folder / f"{name}.csv", ",", quoted=True) for name in ("ratings", "movies"))
        return _log(ratings, movies, "movieId", None)
    else:
        raise DataError(f"{folder}: expected {EXPECTED}; found {found_in(folder)}. Give the unpacked folder itself.")
    return _log(ratings, movies, "id", Table(users, separator, names, encoding="latin-1") if users.exists() else None)


def _log(ratings: Table, movies: Table, movie: str, users: Table | None) -> InteractionLog:
    """The log of the three tables; those of movies have ``title`` and ``genres``."""
    ratings.require(*_COLUMNS)
    movies.require(movie, "title", "genres")
    notes: list[str] = []
    user_name, item_name, _, time = _COLUMNS
    of_users = [column(users, "id", unique=True)] if users else []
    user, *known = aligned([column(ratings, user_name), *of_users], notes)
    item, of_movies = aligned([column(ratings, item_name), column(movies, movie, unique=True)], notes)
    look_up("item", item, movies.path, of_movies, notes)
    columns = {n: partial(ratings.numbers, n) for n in ratings.names if n not in (user_name, item_name, time)}
    log = InteractionLog(
        ratings.path, user, item, read_times([ratings], time, notes), columns, default_label="rating>=4", notes=notes
    )
    lists = movies.frame["genres"].fill_null("").str.split("|")
    genres = lists.list.eval(pl.element().filter(~pl.element().is_in(_NO_GENRE)))
    log.items = Side(of_movies, lists={"genres": genres}, texts={"title": movies.frame["title"]})
    if users:
        look_up("user", user, users.path, *known, notes)
        log.users = Side(*known, {name: users.frame[name] for name in users.names if name != "id"})
    for table in (ratings, movies, users):
        notes += table.notes if table else []
    return log
