"""Experiments of the models in foreign_models.py, on both layouts."""

from conftest import REPOSITORY

from qin_zoo.experiment.prepare import prepare

PLUGIN = REPOSITORY / "tests" / "foreign_models.py"
DATASETS = {"FieldsNet": "tiny_seq", "WideOnly": "tiny_seq"}


def foreign(model: str, data, folder, **overrides):
    """A prepared experiment whose results go to a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = DATASETS.get(model, "sample")
    (folder / "model_config.yaml").write_text(
        f"{model}_{dataset}: {{model: {model}, dataset_id: {dataset}, epochs: 1, batch_size: 127, verbose: 0}}\n"
    )
    if not (folder / "dataset_config").exists():
        (folder / "dataset_config").symlink_to(REPOSITORY / "dataset_configs")
    overrides = {"model_root": str(folder), "learning_rate": 0.01, **overrides}
    return prepare(f"{model}_{dataset}", folder, data=data, overrides=overrides, plugins=[PLUGIN])
