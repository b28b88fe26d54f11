"""KuaiRand-Pure's standard log: ``interactions.parquet``, ``videos.parquet`` and ``users.parquet``.

Training rows are those of the part ``recovered``, validation the rest before 1 May 2022, test what follows. What a user
did before is told by ``seq``. Recovered rows have no time, but for each user's last: theirs are put at even distances
between 9 April, when the log begins, and that one, by seq, which counts the impressions that are not there, too. So
"before" is exact for the row's own user, and an estimate for other users' rows.

Whatever a row says of what came after the video was shown (play time, likes, comments …) never becomes a column.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from qin_zoo.data.importers.ids import look_up
from qin_zoo.data.importers.log import InteractionLog, Side
from qin_zoo.data.importers.ml1m import places
from qin_zoo.data.importers.tables import folder_of, read_parquet
from qin_zoo.errors import DataError

EXPECTED = "interactions.parquet, videos.parquet and users.parquet"
_BEGIN = 1_649_433_600_000  # 9 April 2022 in Beijing, milliseconds
_TEST_BEGINS = 20220501
_WHOLE = ("user_id", "video_id", "seq", "time_ms", "date")
_LABELS = ("long_view", "is_click", "is_like")
_USER_COLUMNS = (
    "user_active_degree", "is_live_streamer", "is_video_author", "follow_user_num_range", "fans_user_num_range",
    "friend_user_num_range", "register_days_range",
)  # fmt: skip
_VIDEO_COLUMNS = ("video_type", "upload_dt", "upload_type", "music_type")


def read(path: str | Path) -> InteractionLog:
    """The log of the folder; the videos' tags are the items' tags. DataError for a file that cannot be used."""
    folder = folder_of(path, EXPECTED)
    file = folder / "interactions.parquet"
    rows = read_parquet(file, "part", "duration_ms", whole=(*_WHOLE, *_LABELS)).sort("user_id", "seq")
    notes: list[str] = []
    order = places(file, rows, notes)
    parts = rows["part"].cast(pl.String)
    if wrong := [part for part in parts.unique() if part not in ("recovered", "log")]:
        raise DataError(f"{file}, column 'part': expected recovered or log, found '{wrong[0]}'. Fetch it again.")
    recovered = (parts == "recovered").to_numpy()
    log = InteractionLog(
        file,
        rows["user_id"],
        rows["video_id"],
        _times(file, rows, recovered),
        order=order,
        columns={name: (lambda values=rows[name]: values.to_numpy().astype(np.float64)) for name in _LABELS},
        others=[name for name in rows.columns if name not in (*_WHOLE, *_LABELS, "part", "duration_ms")],
        given=np.where(recovered, 0, np.where(rows["date"].to_numpy() < _TEST_BEGINS, 1, 2)).astype(np.int8),
        cut_in_time=True,
        default_label="long_view",
        defaults={"history": "all", "history_column": "label", "known": "all"},
        notes=notes,
    )
    notes.append(
        f"{file.name}: {int(recovered.sum())} recovered rows without times: no hour or weekday; rate_level, "
        "likes_level and views_level count them at times put evenly between 9 April and their user's last."
    )
    log.items = _videos(folder / "videos.parquet", log, rows)
    users = read_parquet(folder / "users.parquet", *_USER_COLUMNS, unique="user_id")
    look_up("user", log.user, folder / "users.parquet", users["user_id"], notes)
    known = [*_USER_COLUMNS, *(name for name in users.columns if name.startswith("onehot_feat"))]
    log.users = Side(users["user_id"], {name: users[name].cast(pl.String) for name in known})
    if left_out := [name for name in users.columns if name not in (*known, "user_id")]:
        notes.append(f"users.parquet: {', '.join(left_out)} left out: their ranges are there, or they hold one value.")
    return log


def _times(path: Path, rows: pl.DataFrame, recovered: np.ndarray) -> np.ndarray:
    """(n,) int64 milliseconds: as logged, or of recovered rows evenly between the log's begin and the user's last."""
    per_user = rows.with_columns(recovered=pl.Series(recovered)).with_columns(
        last=pl.col("time_ms").filter("recovered").last().over("user_id"),
        length=1 + pl.col("seq").filter("recovered").last().over("user_id"),
    )
    last = per_user["last"].fill_null(-1).to_numpy()
    unknown = np.flatnonzero(np.where(recovered, last, rows["time_ms"].to_numpy()) < 0)
    if unknown.size:
        raise DataError(
            f"{path}: expected a time_ms in every row of the part log, and in each user's last of the part recovered, "
            f"found none for user {rows['user_id'][int(unknown[0])]}. Fetch it again."
        )
    share = (rows["seq"].to_numpy() + 1) / per_user["length"].fill_null(1).to_numpy()
    estimate = _BEGIN + ((last - _BEGIN) * share).astype(np.int64)
    return np.where(recovered, estimate, rows["time_ms"].to_numpy())


def _videos(path: Path, log: InteractionLog, rows: pl.DataFrame) -> Side:
    names = ("author_id", "music_id", *_VIDEO_COLUMNS, "video_duration", "server_width", "server_height", "tag")
    videos = read_parquet(path, *names, unique="video_id")
    look_up("item", log.item, path, videos["video_id"], log.notes)
    # where the table has no duration the log has it, which is the same for every row of a video
    shown = rows.filter(pl.col("duration_ms") > 0).group_by("video_id").agg(pl.col("duration_ms").median())
    videos = videos.join(shown, on="video_id", how="left", maintain_order="left")
    seconds = pl.coalesce("video_duration", "duration_ms") / 1000
    videos = videos.with_columns(
        duration=(4 * seconds.clip(1).log(2)).floor().cast(pl.Int64),  # four steps to a doubling
        shape=pl.when(pl.col("server_width") > pl.col("server_height")).then(pl.lit("wide"))
        .when(pl.col("server_width") < pl.col("server_height")).then(pl.lit("tall")).otherwise(pl.lit("square")),
        **{name: pl.when(pl.col(name).is_duplicated()).then(name) for name in ("author_id", "music_id")},
    )  # fmt: skip
    log.notes.append(
        "item_author_id, item_music_id: known where two videos share it; of a single video it is the video once more. "
        "item_duration: four steps to a doubling of the seconds."
    )
    kept = (*_VIDEO_COLUMNS, "author_id", "music_id", "duration", "shape")
    tags = videos["tag"].fill_null("").str.split(",").list.eval(pl.element().filter(pl.element() != ""))
    return Side(videos["video_id"], {name: videos[name].cast(pl.String) for name in kept}, lists={"tag": tags})
