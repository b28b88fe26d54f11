"""GroupLens' own folders of MovieLens: 100K (``u.data``), 1M and 10M (``ratings.dat``), 20M and later (``.csv``)."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from qin_zoo.data.importers.log import InteractionLog, ItemSide
from qin_zoo.data.importers.tables import folder_of, found_in, ids, numbers, read_text, require
from qin_zoo.errors import DataError

EXPECTED = "a MovieLens data set: u.data and u.item (100K), ratings.dat and movies.dat (1M, 10M), or ratings.csv and movies.csv (20M, 25M, 32M, latest)"  # fmt: skip  # noqa: E501
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_COLUMNS = ("userId", "movieId", "rating", "timestamp")
_NO_GENRE = ("(no genres listed)", "unknown", "")


def read(path: str | Path) -> InteractionLog:
    """The log of a MovieLens folder; genres are the items' tags."""
    folder = folder_of(path, EXPECTED)
    if (folder / "u.data").exists():
        return _of_100k(folder)
    if (folder / "ratings.dat").exists():
        return _of_dat(folder)
    if (folder / "ratings.csv").exists():
        file, movies = folder / "ratings.csv", folder / "movies.csv"
        log = _log(file, read_text(file, ",", quoted=True), first=2)
        frame = read_text(movies, ",", quoted=True)
        for name in ("movieId", "title", "genres"):
            require(movies, frame.columns, name)
        log.items = _items(ids(movies, frame, "movieId"), frame["title"], frame["genres"])
        return log
    raise DataError(f"{folder}: expected {EXPECTED}; found {found_in(folder)}. Give the unpacked folder itself.")


def _log(file: Path, frame: pl.DataFrame, first: int = 1) -> InteractionLog:
    for name in _COLUMNS:
        require(file, frame.columns, name)
    user, item = (ids(file, frame, name, first) for name in _COLUMNS[:2])
    rating, time = (numbers(file, frame, name, first) for name in _COLUMNS[2:])
    return InteractionLog(file, user, item, time, {"rating": rating}, default_label="rating>=4")


def _items(item: pl.Series, title: pl.Series, genres: pl.Series) -> ItemSide:
    lists = genres.fill_null("").str.split("|").list.eval(pl.element().filter(~pl.element().is_in(_NO_GENRE)))
    return ItemSide(item, lists={"genres": lists}, texts={"title": title})


def _of_100k(folder: Path) -> InteractionLog:
    file, movies, users = folder / "u.data", folder / "u.item", folder / "u.user"
    log = _log(file, read_text(file, "\t", _COLUMNS))
    names = ("id", "title", "released", "video", "url", *_GENRES)
    frame = read_text(movies, "|", names, encoding="latin-1")
    has = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES]
    genres = frame.select(pl.concat_str(has, separator="|", ignore_nulls=True)).to_series()
    log.items = _items(ids(movies, frame, "id", 1), frame["title"], genres)
    if users.exists():
        frame = read_text(users, "|", ("id", "age", "gender", "occupation", "zip_code"), encoding="latin-1")
        log.user_ids = ids(users, frame, "id", 1)
        log.user_columns = {name: frame[name] for name in frame.columns[1:]}
    return log


def _of_dat(folder: Path) -> InteractionLog:
    file, movies, users = folder / "ratings.dat", folder / "movies.dat", folder / "users.dat"
    # Polars separates by one character: "::" leaves an empty field between two values
    names = (_COLUMNS[0], "-1", _COLUMNS[1], "-2", _COLUMNS[2], "-3", _COLUMNS[3])
    log = _log(file, read_text(file, ":", names, keep=_COLUMNS))
    frame = _split(movies, ("id", "title", "genres"))
    log.items = _items(ids(movies, frame, "id", 1), frame["title"], frame["genres"])
    if users.exists():
        frame = _split(users, ("id", "gender", "age", "occupation", "zip_code"))
        log.user_ids = ids(users, frame, "id", 1)
        log.user_columns = {name: frame[name] for name in frame.columns[1:]}
    return log


def _split(file: Path, names: tuple[str, ...]) -> pl.DataFrame:
    """A small file with "::" between values, among which there may be single colons."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; expected {EXPECTED}. Give the unpacked folder itself.")
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-8")  # 10M
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # 1M
    rows = [line.split("::") for line in text.splitlines() if line]
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise DataError(
                f"{file}, line {number}: expected {len(names)} values separated by '::', found {len(row)}. Mend or "
                "drop the line."
            )
    if not rows:
        raise DataError(f"{file}: expected at least one row, found none. Fetch the file again.")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
