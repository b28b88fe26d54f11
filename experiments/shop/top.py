"""/top over a million items: what it takes, and whether it is what a sort of all scores says.

    python experiments/shop/top.py make RAW BIG            # the last 20,000 rows of RAW/start, and a million items
    python experiments/shop/top.py measure BIG 8000 PID    # of the service that answers there, PID being its own
"""

from __future__ import annotations

import http.client
import json
import os
import time
from pathlib import Path

import numpy as np
import polars as pl
import typer

_ITEMS, _ROWS, _PART = 1_000_000, 20_000, 10_000
_HISTORY = 5

app = typer.Typer()


@app.command()
def make(raw: Path, big: Path) -> None:
    """The shop's files, with items besides that nobody was shown."""
    g, items = np.random.default_rng(1), pl.read_parquet(raw / "start/items.parquet")
    count = _ITEMS - len(items)
    like = items[g.integers(0, len(items), count)]
    image = np.stack(like["image"].to_numpy()) + 0.5 * g.normal(size=(count, 32))
    new = like.with_columns(
        item_id=pl.Series([f"new-{n:07d}" for n in range(count)]),
        image=pl.Series(image.astype(np.float32).tolist(), dtype=items["image"].dtype),
    )
    big.mkdir(parents=True)
    pl.concat([items, new]).write_parquet(big / "items.parquet")
    pl.read_csv(raw / "start/interactions.csv").tail(_ROWS).write_csv(big / "interactions.csv")


@app.command()
def measure(big: Path, port: int, pid: int) -> None:
    """Prints seconds and processor seconds of requests, and compares a few with numpy's sort of /score."""
    clicks = pl.read_csv(big / "interactions.csv").filter(pl.col("click") == 1)
    users = clicks.group_by("user_id", maintain_order=True).agg(pl.col("item_id").tail(_HISTORY))
    histories = [h for h in users["item_id"].to_list() if len(h) == _HISTORY]
    items = pl.read_parquet(big / "items.parquet", columns=["item_id", "category"])
    one = items["category"].value_counts().sort("count")["category"][8]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def ask(path: str, **request) -> dict:
        connection.request("POST", path, json.dumps(request), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text[:300]
        return json.loads(text)

    def spent() -> float:
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        stats = [Path(f"/proc/{one}/stat").read_text().rsplit(") ", 1)[1].split() for one in (pid, *workers)]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")

    for where, requests in (({"item_category": one}, 200), ({}, 6)):
        for k in (10, 100):
            ask("/top", k=k, history=histories[0], where=where)
            seconds, before = [], spent()
            for n in range(requests):
                begin = time.perf_counter()
                scored = ask("/top", k=k, history=histories[n % len(histories)], where=where)["scored"]
                seconds.append(time.perf_counter() - begin)
            p50, p99 = np.quantile(seconds, [0.5, 0.99])
            said = f"p50 {p50:.3f} s, p99 {p99:.3f} s, processor {(spent() - before) / requests:.3f} s"
            print(f"k {k}, {scored:,} items, {requests} requests: {said}", flush=True)
    ids = items["item_id"].to_list()
    chosen = np.array(items["category"] == one)
    for history in histories[:2]:
        parts = [ids[first : first + _PART] for first in range(0, len(ids), _PART)]
        begin = spent()
        scores = np.concatenate([ask("/score", history=history, candidates=part)["scores"] for part in parts])
        print(f"/score of all: processor {spent() - begin:.3f} s", flush=True)
        for where, kept in (({}, np.ones(len(ids), bool)), ({"item_category": one}, chosen)):
            for k in (10, 100):
                answer = ask("/top", k=k, history=history, where=where)
                best = np.flatnonzero(kept)[np.argsort(-scores[kept], kind="stable")[:k]]
                order = answer["items"] == [ids[n] for n in best]
                ties = len(set(scores[best])) < k
                off = np.abs(np.array(answer["scores"]) - scores[best]).max()
                print(f"k {k}, {kept.sum():,} items: same order {order} (ties: {ties}), scores differ by {off:.1e}")


if __name__ == "__main__":
    app()
