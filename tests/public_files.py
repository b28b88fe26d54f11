"""A few random rows in the very files and columns of public datasets, whatever our configurations say."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import polars as pl

ROWS, ITEMS, USERS, CATEGORIES = 60, 30, 12, 7


def _histories(g: np.random.Generator, rows: int, longest: int = 9) -> list[list[int]]:
    return [g.integers(1, ITEMS, n).tolist() for n in g.integers(0, longest, rows)]


def _joined(lists: list[list[int]], change: Callable[[int], int] = int) -> list[str]:
    return ["^".join(str(change(i)) for i in row) for row in lists]


def _category(item):
    return item % CATEGORIES


def _amazon(g, n):
    item, history = g.integers(1, ITEMS, n), _histories(g, n)
    return {
        "label": g.integers(0, 2, n), "user_id": g.integers(0, USERS, n), "item_id": item, "cate_id": _category(item),
        "item_history": _joined(history), "cate_history": _joined(history, _category),
    }  # fmt: skip


def _taobao(g, n):
    history = _histories(g, n)
    sizes = {
        "userid": USERS, "cms_segid": 9, "cms_group_id": 9, "final_gender_code": 3, "age_level": 7, "pvalue_level": 4,
        "shopping_level": 4, "occupation": 2, "new_user_class_level": 5, "adgroup_id": ITEMS, "cate_id": CATEGORIES,
        "campaign_id": 9, "customer": 9, "brand": ITEMS,
    }  # fmt: skip
    ids = {name: g.integers(1, size, n) for name, size in sizes.items()}
    return {
        "clk": g.integers(0, 2, n), "btag_his": _joined(history, lambda i: 1), "cate_his": _joined(history, _category),
        "brand_his": _joined(history), **ids, "price": g.random(n) * 100, "pid": g.integers(1, 3, n), "btag": [1] * n,
    }  # fmt: skip


def _kuaivideo(g, n):
    return {
        "timestamp": range(n), "user_id": g.integers(0, USERS, n), "item_id": g.integers(1, ITEMS, n),
        "is_click": g.integers(0, 2, n), "is_like": [0] * n, "is_follow": [0] * n,
        "pos_items": _joined(_histories(g, n)), "neg_items": _joined(_histories(g, n)),
    }  # fmt: skip


def _microvideo(g, n):
    item, history = g.integers(1, ITEMS, n), _histories(g, n)
    return {
        "user_id": g.integers(0, USERS, n), "item_id": item, "cate_id": _category(item), "timestamp": range(n),
        "is_click": g.integers(0, 2, n), "clicked_items": _joined(history),
        "clicked_categories": _joined(history, _category),
    }  # fmt: skip


def _words(g, n, count, missing=0.1):
    return [None if g.random() < missing else f"{value:08x}" for value in g.integers(0, count, n)]


def _criteo_x4(g, n):
    numbers = {f"I{i}": [None if g.random() < 0.2 else int(v) for v in g.integers(-2, 3000, n)] for i in range(1, 14)}
    return {"Label": g.integers(0, 2, n), **numbers, **{f"C{i}": _words(g, n, 9) for i in range(1, 27)}}


def _criteo_x1(g, n):
    numbers = {f"I{i}": g.random(n) for i in range(1, 14)}
    return {"label": g.integers(0, 2, n), **numbers, **{f"C{i}": g.integers(0, 2_000_000, n) for i in range(1, 27)}}


def _avazu_x4(g, n):
    names = (
        "C1 banner_pos site_id site_domain site_category app_id app_domain app_category device_id device_ip "
        "device_model device_type device_conn_type C14 C15 C16 C17 C18 C19 C20 C21"
    )
    hours = [f"1410{day}{hour:02d}" for day, hour in zip(g.integers(21, 31, n), g.integers(0, 24, n))]
    ids = {"id": g.integers(0, 2**62, n), "click": g.integers(0, 2, n), "hour": hours}
    return ids | {name: _words(g, n, 9, missing=0) for name in names.split()}


def _kkbox(g, n):
    names = "msno song_id source_system_tab source_screen_name source_type city gender registered_via language"
    return {
        "label": g.integers(0, 2, n), **{name: _words(g, n, 4) for name in names.split()},
        "genre_ids": _joined(_histories(g, n, 5)), "artist_name": _joined(_histories(g, n, 5)),
        "isrc": [f"{code}ABC" for code in g.choice(["US", "GB", "TW"], n)], "bd": g.integers(0, 110, n),
    }  # fmt: skip


def _numbered(*names: str) -> Callable:
    return lambda g, n: {"label": g.integers(0, 2, n), **{name: g.integers(0, 40, n) for name in names}}


_FRAPPE = "user item daytime weekday isweekend homework cost weather country city"
# dataset -> rows, files of vectors (of items, by their ids), whether there is a file of validation rows
CSV: dict[str, tuple[Callable, tuple[str, ...], bool]] = {
    "AmazonElectronics_x1": (_amazon, (), False),
    "TaobaoAd_x1": (_taobao, (), False),
    "KuaiVideo_x1": (_kuaivideo, ("item_visual_emb_dim64.h5", "user_visual_emb_dim64.h5"), False),
    "MicroVideo1.7M_x1": (_microvideo, ("item_image_emb_dim64.h5",), False),
    "Criteo_x4": (_criteo_x4, (), True),
    "Criteo_x1": (_criteo_x1, (), True),
    "Avazu_x4": (_avazu_x4, (), True),
    "Avazu_x1": (_numbered(*(f"feat_{i}" for i in range(1, 23))), (), True),
    "KKBox_x1": (_kkbox, (), True),
    "MovielensLatest_x1": (_numbered("user_id", "item_id", "tag_id"), (), True),
    "Frappe_x1": (_numbered(*_FRAPPE.split()), (), True),
}

_NEWS = {
    "user_id": 14209, "trigger_id": 1471, "device_type": 5, "is_sso_user": 4, "gender": 4, "postcode": 7, "age": 11,
    "is_subscriber": 4, "premium": 4, "article_type": 12, "sentiment_label": 5, "publish_days": 33, "publish_hours": 27,
    "impression_hour": 26, "impression_weekday": 9,
}  # fmt: skip
PER_USER = {"KuaiVideo_x2": "is_click", "MicroVideo1.7M_x2": "is_click", "Ebnerd_small_x1": "click"}


def _per_user(name: str, folder: Path, g: np.random.Generator) -> None:
    full = [g.integers(1, ITEMS, n).tolist() for n in g.integers(1, 20, USERS)]
    pl.DataFrame({"user_index": range(USERS), "full_item_seq": full}).write_parquet(folder / "user_info.parquet")
    if name == "Ebnerd_small_x1":
        kinds = {"category": g.integers(0, 16, ITEMS), "subcategory": g.integers(0, 91, (ITEMS, 5)).tolist()}
        items = {"article_id": range(ITEMS), **kinds}
    else:
        items = {"item_id": range(ITEMS), "image_emb_dim64": g.normal(size=(ITEMS, 64)).astype(np.float32).tolist()}
        items |= {"cate_id": g.integers(1, 9, ITEMS)} if name.startswith("Micro") else {}
    pl.DataFrame({"item_index": range(ITEMS), **items}).write_parquet(folder / "item_info.parquet")
    for split in ("train", "valid", "test"):
        user = g.integers(0, USERS, ROWS)
        rows = {"user_index": user, "item_index": g.integers(1, ITEMS, ROWS)}
        rows["seq_len"] = [int(g.integers(0, len(full[u]) + 1)) for u in user]
        rows[PER_USER[name]] = (np.arange(ROWS) % 2).astype(np.float32)
        if name == "Ebnerd_small_x1":
            rows |= {key: g.integers(0, size, ROWS) for key, size in _NEWS.items()}
            sizes = {"ner_clusters": 10618, "topics": 80}
            rows |= {key: g.integers(0, size, (ROWS, 5)).tolist() for key, size in sizes.items()}
        pl.DataFrame(rows).write_parquet(folder / f"{split}.parquet")


def _microlens(name: str, folder: Path, g: np.random.Generator) -> None:
    vectors = g.normal(size=(ITEMS, 128)).astype(np.float32)
    tags = g.integers(1, 11_740, (ITEMS, 5))
    vectors[0], tags[0] = 0, 0
    items = pl.DataFrame({"item_id": range(ITEMS), "item_tags": tags.tolist(), "item_emb_d128": vectors.tolist()})
    strategy = name.removeprefix("MicroLens_1M_x1").removesuffix("_codes")
    items.write_parquet(folder / f"item_info{strategy}.parquet")
    for split in ("train", "valid", "test"):
        levels = {level: g.integers(0, 11, ROWS) for level in ("likes_level", "views_level")}
        lists = [[0] * (100 - len(h)) + h for h in _histories(g, ROWS)]
        rows = {"user_id": range(ROWS), "item_id": g.integers(1, ITEMS, ROWS), "item_seq": lists, **levels}
        rows |= {} if split == "test" else {"label": np.arange(ROWS) % 2}
        pl.DataFrame(rows).write_parquet(folder / f"{split}.parquet")


def write_public(name: str, folder: Path, csv_rows: int = ROWS) -> Path | None:
    """Writes the files of a public dataset into ``folder`` and returns it; None for a dataset that is not public."""
    g = np.random.default_rng(0)
    write = _per_user if name in PER_USER else _microlens if name.startswith("MicroLens") else None
    if write is None and name not in CSV:
        return None
    folder.mkdir(parents=True)
    if write:
        write(name, folder, g)
        return folder
    rows, vectors, validated = CSV[name]
    for split in ("train", "valid", "test") if validated else ("train", "test"):
        pl.DataFrame(rows(g, csv_rows)).write_csv(folder / f"{split}.csv")
    for file in vectors:
        with h5py.File(folder / file, "w") as out:
            out["key"], out["value"] = np.arange(ITEMS), g.normal(size=(ITEMS, 64)).astype(np.float32)
    return folder
