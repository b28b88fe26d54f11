"""Real datasets in the challenge's layout, made from the raw folders; small, and no history sees its future."""

from pathlib import Path

import numpy as np
import polars as pl

HISTORY = 20


def movielens(raw: Path, out: Path, rows: int = 16_000) -> dict:
    """MovieLens-100K: a click is a rating of 4 or 5; the history holds the user's earlier clicks; split by time."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    read = lambda name: pl.read_csv(raw / f"ml-100k.{name}", separator="\t", quote_char=None, infer_schema=False)  # noqa: E731
    inter, items, users = read("inter"), read("item"), read("user")
    inter.columns, items.columns = ["user", "item", "rating", "time"], ["item", "title", "year", "genres"]
    users.columns = ["user", "age", "gender", "job", "zip"]
    inter = inter.cast({"user": int, "item": int, "rating": int, "time": int})
    users = users.cast({"user": int, "age": int})
    items = items.cast({"item": int}).sort("item").with_columns(pl.col("title", "genres").fill_null(""))
    index = {item: i + 1 for i, item in enumerate(items["item"].to_list())}
    genres = sorted({g for text in items["genres"].to_list() for g in text.split()})
    tags = [[genres.index(g) + 1 for g in text.split()][:5] for text in items["genres"].to_list()]
    words = TfidfVectorizer().fit_transform((items["title"] + " " + items["genres"]).to_list())
    vectors = TruncatedSVD(32, random_state=0).fit_transform(words).astype(np.float32)
    pl.DataFrame(
        {
            "item_id": range(len(index) + 1),
            "item_tags": [[0] * 5] + [t + [0] * (5 - len(t)) for t in tags],
            "text_emb": np.vstack([np.zeros((1, 32), np.float32), vectors]).tolist(),
        }
    ).write_parquet(out / "item_info.parquet")
    jobs = dict(zip(users["user"].to_list(), users["job"].rank("dense").to_list()))
    ages = dict(zip(users["user"].to_list(), (users["age"] // 10).to_list()))
    seen: dict = {}
    records = []
    for user, item, rating, _ in inter.sort("time", "user", "item").iter_rows():
        click = int(rating >= 4)
        history = seen.setdefault(user, [])
        records.append((user, index[item], list(history[-HISTORY:]), jobs[user], ages[user], click))
        if click:
            history.append(index[item])
    columns = ["user_id", "item_id", "item_seq", "job", "age", "label"]
    table = pl.DataFrame(records, schema=columns, orient="row").tail(rows)
    a, b = int(0.8 * rows), int(0.9 * rows)
    for split, part in (("train", table[:a]), ("valid", table[a:b]), ("test", table[b:])):
        part.write_parquet(out / f"{split}.parquet")
    return _dataset("ml-100k", out, ["job", "age"], ["text_emb"], tags=True)


def tiktok(raw: Path, out: Path, users: int = 3000) -> dict:
    """TikTok: given splits of clicks without times; one random video beside each; two modalities."""
    inter = pl.read_csv(raw / "tiktok.inter", separator="\t").filter(pl.col("userID") < users)
    image, audio = (np.load(raw / f"{m}_feat.npy").astype(np.float32) for m in ("image", "audio"))
    pad = lambda x: np.vstack([np.zeros((1, x.shape[1]), np.float32), x]).tolist()  # noqa: E731
    pl.DataFrame({"item_id": range(len(image) + 1), "image_emb": pad(image), "audio_emb": pad(audio)}).write_parquet(
        out / "item_info.parquet"
    )
    g = np.random.default_rng(0)
    of_user: dict = {}
    for user, item, split in inter.iter_rows():
        if split == 0:
            of_user.setdefault(user, []).append(item + 1)
    records: dict = {0: [], 1: [], 2: []}
    for user, item, split in inter.iter_rows():
        history = [i for i in of_user.get(user, []) if i != item + 1]
        for target, label in ((item + 1, 1), (int(g.integers(1, len(image) + 1)), 0)):
            records[split].append((user, target, history[-HISTORY:], label))
    for split, name in enumerate(("train", "valid", "test")):
        pl.DataFrame(records[split], schema=["user_id", "item_id", "item_seq", "label"], orient="row").write_parquet(
            out / f"{name}.parquet"
        )
    return _dataset("tiktok", out, [], ["image_emb", "audio_emb"], tags=False)


def _dataset(name: str, out: Path, context: list, modalities: list, tags: bool) -> dict:
    features = [{"name": ["user_id", "item_seq"], "active": True, "dtype": "int", "type": "meta"}]
    features += [{"name": n, "active": True, "dtype": "int", "type": "categorical"} for n in context]
    item = {"active": True, "dtype": "int", "source": "item"}
    features.append({"name": "item_id", "type": "categorical", **item})
    if tags:
        features.append({"name": "item_tags", "type": "sequence", **item})
    features += [{**item, "name": n, "type": "embedding", "dtype": "float", "embedding_dim": 8} for n in modalities]
    return {
        "data_root": str(out.parent),
        "data_format": "parquet",
        **{f"{s}_data": str(out / f"{s}.parquet") for s in ("train", "valid", "test")},
        "item_info": str(out / "item_info.parquet"),
        "rebuild_dataset": False,
        "feature_cols": features,
        "label_col": {"name": "label", "dtype": "float"},
    }
