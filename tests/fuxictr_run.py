"""Calls FuxiCTR's public functions in the order in which its run_expid.py and the challenge's prediction script do.

A test copies it beside its data and runs it there. Arguments: a JSON object with ``out`` (where results go), ``expids``
and options: ``zoo_first`` for a script that imports the models before FuxiCTR, ``only_csv`` for one of earlier 2.x,
which builds csv datasets only, ``weights`` for one that predicts with those of another run, whose ``model_root`` it is.
"""

# ruff: noqa: E402
import gc
import json
import os
import sys

options = json.loads(sys.argv[1])
os.chdir(os.path.dirname(os.path.realpath(__file__)))
if options.get("zoo_first"):
    import model_zoo
from fuxictr.features import FeatureMap
from fuxictr.preprocess import FeatureProcessor, build_dataset
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.torch_utils import seed_everything
from fuxictr.utils import load_config, print_to_list, set_logger

import model_zoo


def open_model(expid, model_root=None):
    params = load_config("config", expid)
    params["gpu"] = -1
    params["model_root"] = model_root or params["model_root"]
    set_logger(params)
    seed_everything(seed=params["seed"])
    folder = os.path.join(params["data_root"], params["dataset_id"])
    if params["data_format"] == "csv" or not options.get("only_csv"):
        processor = FeatureProcessor(**params)
        files = build_dataset(processor, **params)
        params["train_data"], params["valid_data"], params["test_data"] = files
    feature_map = FeatureMap(params["dataset_id"], folder)
    feature_map.load(os.path.join(folder, "feature_map.json"), params)
    model = getattr(model_zoo, params["model"])(feature_map, **params)
    model.count_parameters()
    return model, params


def train(expid):
    model, params = open_model(expid)
    train_gen, valid_gen = RankDataLoader(model.feature_map, stage="train", **params)
    model.fit(train_gen, validation_data=valid_gen, **params)
    valid = model.evaluate(valid_gen)
    del train_gen, valid_gen
    gc.collect()
    test = {}
    if params["test_data"]:
        test = model.evaluate(RankDataLoader(model.feature_map, stage="test", **params))
    with open("config.csv", "a") as file:
        file.write(f"{expid},[val] {print_to_list(valid)},[test] {print_to_list(test)}\n")
    return {"valid": valid, "test": test, "ray": sys.modules["ray"].is_initialized()}


def predict(expid):
    model, params = open_model(expid, options["weights"])
    model.load_weights(model.checkpoint)
    return {"predicted": model.predict(RankDataLoader(model.feature_map, stage="test", **params)).tolist()}


if __name__ == "__main__":
    results = {expid: train(expid) | (predict(expid) if options.get("weights") else {}) for expid in options["expids"]}
    with open(options["out"], "w") as file:
        json.dump(results, file)
