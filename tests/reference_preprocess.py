"""What FuxiCTR's own preprocessing makes of raw files: its FeatureProcessor, without Ray's transport."""

import json
from pathlib import Path

import numpy as np
import polars as pl


def fuxictr_processors() -> dict:
    """FuxiCTR's processors by the dataset they are for, "" the plain one."""
    from fuxictr.datasets import avazu, criteo, kkbox
    from fuxictr.preprocess import FeatureProcessor

    own = {module.__name__.rpartition(".")[2]: module.CustomizedFeatureProcessor for module in (avazu, criteo, kkbox)}
    return {"": FeatureProcessor, **own}


def fuxictr_encode(params: dict, folder: Path, processor: str = "") -> tuple[dict, dict, dict]:
    """Feature specifications, vocabularies, and encoded columns of each split: the calls of FuxiCTR's build_dataset.

    The csv reader is ours: FuxiCTR's passes an argument that polars 1.31 has renamed.
    """
    base = fuxictr_processors()[processor]

    class Processor(base):
        def read_data(self, path, data_format="csv", sep=",", n_rows=None, **kwargs):
            if data_format == "parquet":
                return pl.scan_parquet(path, n_rows=n_rows)
            return pl.scan_csv(path, separator=sep, schema_overrides=self.dtype_dict, n_rows=n_rows)

        def save_pickle(self, pickle_file):
            """A class within a function cannot be pickled, and nothing here reads it."""

    columns = [dict(c) for c in params["feature_cols"]]
    processor = Processor(**{**params, "feature_cols": columns, "data_root": str(folder)})
    options = {k: params[k] for k in ("data_format", "sep", "n_rows") if k in params}
    splits = [s for s in ("train", "valid", "test") if params.get(f"{s}_data")]
    frames = {s: processor.preprocess(processor.read_data(params[f"{s}_data"], **options)) for s in splits}
    from fuxictr.preprocess.build_dataset import merge_meta_ddf

    meta = merge_meta_ddf(processor, frames["train"], frames.get("valid"), frames.get("test"))
    counts = {k: params[k] for k in ("min_categr_count", "num_buckets") if k in params}
    processor.fit(frames["train"], rebuild_dataset=True, meta_ddf=meta, **counts)
    encoded = {}
    for split, frame in frames.items():
        table = frame.collect()
        encoded[split] = processor.transform({name: table[name].to_numpy() for name in table.columns})
    out = Path(processor.data_dir)
    vocabulary = json.loads((out / "feature_vocab.json").read_text())
    return dict(processor.feature_map.features), vocabulary, encoded


def assert_encoded_alike(ours: dict, params: dict, folder: Path, processor: str = "") -> None:
    """Our encoded files, vocabularies and specifications are FuxiCTR's."""
    features, vocabulary, encoded = fuxictr_encode(params, folder, processor)
    entry = Path(ours["train_data"]).parent
    found = json.loads((entry / "feature_vocab.json").read_text())
    assert found.keys() == vocabulary.keys()
    for name, words in vocabulary.items():
        assert found[name] == words, name
        assert list(found[name].values()) == sorted(words.values())
    specs = {k: v for x in json.loads((entry / "feature_map.json").read_text())["features"] for k, v in x.items()}
    assert list(specs) == list(features)
    for name, spec in features.items():
        mine = {k: v for k, v in specs[name].items() if k not in ("pretrained_emb", "pretrain_dim")}
        assert mine == {k: v for k, v in spec.items() if k not in ("pretrained_emb", "pretrain_dim")}, name
        assert ("pretrained_emb" in specs[name]) == ("pretrained_emb" in spec)
    for split, columns in encoded.items():
        table = pl.read_parquet(ours[f"{split}_data"])
        for name, values in columns.items():
            want, got = np.stack(list(values)), np.stack(table[name].to_list())
            if want.dtype.kind == "f":
                np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7, err_msg=f"{split} {name}")
            else:
                np.testing.assert_array_equal(got, want, err_msg=f"{split} {name}")
