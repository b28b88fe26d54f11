"""What the numbers of a dataset stand for: the words of its source, where an import or an encoding kept them."""

from __future__ import annotations

from collections.abc import Callable

from qin_zoo.data.dataset import Dataset
from qin_zoo.data.fitted import FittedEncoder
from qin_zoo.files import read_json

VOCABULARIES = "vocabularies.json"  # of an import: column -> words; word i has the code i + 1


def words_of(dataset: Dataset) -> Callable[[str, int], str | None]:
    """A function that says what a feature's number was in the source; None where that is not known.

    Args:
        dataset: imported, or encoded of raw files.
    """
    features = dataset.feature_map.features
    if dataset.encoder_file is not None:
        vocabularies = FittedEncoder.read(dataset.encoder_file).vocabularies

        def encoded(name: str, number: int) -> str | None:
            owner = features.get(name, {}).get("share_embedding") or name
            return vocabularies[owner].word(number) if owner in vocabularies else None

        return encoded
    try:
        kept = read_json(dataset.folder / VOCABULARIES)
    except (OSError, ValueError):
        kept = {}

    def imported(name: str, number: int) -> str | None:
        words = kept.get(name) if isinstance(kept, dict) else None
        known = isinstance(words, list) and 0 < number <= len(words)
        return str(words[number - 1]) if known else None

    return imported
