"""Encoders: what turns a batch of inputs into vectors, found by name.

``tfidf-svd[:DIM]`` needs no download; ``sentence-transformers:NAME_OR_PATH`` and ``clip:MODEL[@PRETRAINED]`` need
their libraries; ``efficientnet-lite0`` is a small network for images whose weights are a package;
``precomputed:FILE[:COLUMN]`` takes vectors from a file. Installed packages add others through the
entry-point group ``qin_zoo.encoders``: a name, and a function (argument, modality) -> :class:`Encoder`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from qin_zoo.embed.items import Inputs, TextInputs
from qin_zoo.embed.libraries import checksum, expect_modality, open_image, optional
from qin_zoo.embed.precomputed import Precomputed
from qin_zoo.errors import DataError, first_line, suggest

ENTRY_POINT_GROUP = "qin_zoo.encoders"
DEFAULT = "tfidf-svd"


class Encoder(Protocol):
    """Encodes inputs of one modality.

    Attributes:
        name: what it was asked for by, arguments included; vectors of different names are never mixed.
        version: of the library, and of the model where it has one.
        modality: ``text``, ``image`` (paths of files) or ``vector`` (item ids).
        dim: D, known once it is fitted.
    """

    name: str
    version: str
    modality: str
    dim: int

    def fit(self, inputs: Inputs) -> None:
        """Learns from all inputs; the same inputs give the same encoder, so that encoding can be resumed."""

    def encode(self, batch: Sequence[Any]) -> np.ndarray:
        """Vectors (B, D) float32 of B inputs."""


@runtime_checkable
class Keeping(Encoder, Protocol):
    """An encoder that learns from its inputs, and can be made again from what it has learned."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What it has learned, in arrays of whatever shape."""

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes the place of :meth:`fit`; the arrays are those of :meth:`arrays`, in their shapes."""


class TfidfSvd:
    """TF-IDF of words and pairs of words, reduced by a truncated SVD, each vector of length 1.

    Fitted on at most ``fit_items`` texts at even distances and ``features`` words, so memory stays bounded. The size
    is smaller than asked for where the texts have fewer words.

    Args:
        argument: the size; default 256.
    """

    modality = "text"
    fit_items = 200_000
    features = 50_000

    def __init__(self, argument: str = "", modality: str = "text") -> None:
        import sklearn

        expect_modality("tfidf-svd", modality, "text")
        if argument and not (argument.isascii() and argument.isdigit() and int(argument) > 0):
            raise DataError(f"Encoder tfidf-svd: expected a size, as in tfidf-svd:128, found '{argument}'.")
        self.dim = int(argument or 256)
        self.name = f"tfidf-svd:{self.dim}"
        self.version = f"scikit-learn {sklearn.__version__}"

    def fit(self, inputs: TextInputs) -> None:
        """Learns words, their weights and directions; DataError where the texts have too few words."""
        from sklearn.decomposition import TruncatedSVD

        self._words = _vectorizer(max_features=self.features)
        try:
            table = self._words.fit_transform(inputs.sample(self.fit_items))
        except ValueError as error:
            raise DataError(f"Encoder tfidf-svd: the texts hold no words ({first_line(error)}).") from error
        self.dim = min(self.dim, min(table.shape) - 1)
        if self.dim < 1:
            raise DataError(
                f"Encoder tfidf-svd: expected at least two texts of two different words, found {table.shape[0]} "
                f"texts of {table.shape[1]}. Encode another column."
            )
        self._svd = TruncatedSVD(self.dim, random_state=0).fit(table)

    def arrays(self) -> dict[str, np.ndarray]:
        """``words`` (W,), ``idf`` (W,), ``components`` (D, W)."""
        words = self._words.get_feature_names_out().astype(str)
        return {"words": words, "idf": self._words.idf_, "components": self._svd.components_}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        from sklearn.decomposition import TruncatedSVD

        self._words = _vectorizer(vocabulary={word: n for n, word in enumerate(arrays["words"].tolist())})
        self._words.idf_ = arrays["idf"]
        self.dim = len(arrays["components"])
        self._svd = TruncatedSVD(self.dim)
        self._svd.components_ = arrays["components"]

    def encode(self, batch: Sequence[str]) -> np.ndarray:
        from sklearn.preprocessing import normalize

        return normalize(self._svd.transform(self._words.transform(batch)))


def _vectorizer(**options: Any):
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        token_pattern=r"(?u)\b\w+\b",  # one-letter words, too: they are words in some languages
        dtype=np.float32,
        **options,
    )


class SentenceTransformers:
    """A text model of the sentence-transformers library.

    Args:
        argument: the model's name or folder. Weights are read from safetensors only, never from pickles.
    """

    modality = "text"
    texts_at_once = 32

    def __init__(self, argument: str = "", modality: str = "text") -> None:
        expect_modality("sentence-transformers", modality, "text")
        if not argument:
            raise DataError(
                "Encoder sentence-transformers: expected a model, as in "
                "sentence-transformers:sentence-transformers/all-MiniLM-L6-v2, found none."
            )
        library = optional("sentence_transformers", "sentence-transformers")
        try:
            self._model = library.SentenceTransformer(argument, model_kwargs={"use_safetensors": True})
        except Exception as error:  # the library's own kinds: no network, no such model, no safetensors
            raise DataError(
                f"Encoder sentence-transformers: the model '{argument}' cannot be loaded ({first_line(error)}). Give a "
                "model's name, which is fetched once, or the folder of one, with weights as safetensors."
            ) from error
        self.name = f"sentence-transformers:{argument}"
        self.version = f"sentence-transformers {library.__version__}, weights {checksum(self._model)}"
        size = getattr(self._model, "get_embedding_dimension", None) or self._model.get_sentence_embedding_dimension
        self.dim = int(size())

    def fit(self, inputs: Inputs) -> None:
        """Nothing to learn."""

    def encode(self, batch: Sequence[str]) -> np.ndarray:
        # The library sorts the texts by length, so a CPU spends less on padding if it takes few at once.
        at_once = self.texts_at_once if self._model.device.type == "cpu" else len(batch)
        vectors = self._model.encode(list(batch), batch_size=at_once, show_progress_bar=False, convert_to_numpy=True)
        return vectors.astype(np.float32)


class Clip:
    """A CLIP model of the open_clip library, for images or texts; each vector of length 1.

    Args:
        argument: ``MODEL@PRETRAINED`` (``RN50@openai``; PRETRAINED a tag or a file of weights), or ``MODEL`` where
            the name says both (``hf-hub:…``, ``local-dir:…``).
    """

    def __init__(self, argument: str = "", modality: str = "image") -> None:
        expect_modality("clip", modality, "image", "text")
        model, _, pretrained = argument.partition("@")
        if not model or not (pretrained or ":" in model):  # a bare name would mean random weights
            raise DataError(f"Encoder clip: expected a model and its weights, such as RN50@openai, found '{argument}'.")
        library = optional("open_clip", "open_clip_torch")
        import torch

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._model, _, self._prepare = library.create_model_and_transforms(
                model, pretrained=pretrained or None, device=self._device
            )
            self._tokenize = library.get_tokenizer(model)
        except Exception as error:  # no network, no such model, a damaged file
            raise DataError(
                f"Encoder clip: the model '{argument}' cannot be loaded ({first_line(error)}). Models and weights: "
                "open_clip.list_pretrained()."
            ) from error
        self._model.eval()
        self.modality = modality
        self.name = f"clip:{argument}"
        self.version = f"open_clip {library.__version__}, weights {checksum(self._model)}"
        with torch.inference_mode():
            self.dim = int(self._model.encode_text(self._tokenize(["a"]).to(self._device)).shape[1])

    def fit(self, inputs: Inputs) -> None:
        """Nothing to learn."""

    def encode(self, batch: Sequence[Any]) -> np.ndarray:
        with self._torch.inference_mode():
            if self.modality == "text":
                vectors = self._model.encode_text(self._tokenize(list(batch)).to(self._device))
            else:
                images = self._torch.stack([self._prepare(open_image(path)) for path in batch])
                vectors = self._model.encode_image(images.to(self._device))
            return self._torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()


def _efficientnet(argument: str, modality: str) -> Encoder:
    from qin_zoo.embed.efficientnet import EfficientNetLite0  # imports torch

    return EfficientNetLite0(argument, modality)


_BUILT_IN: dict[str, Callable[[str, str], Encoder]] = {
    "tfidf-svd": TfidfSvd,
    "sentence-transformers": SentenceTransformers,
    "clip": Clip,
    "efficientnet-lite0": _efficientnet,
    "precomputed": Precomputed,
}


def list_encoders() -> list[str]:
    """Names of the encoders, those of installed packages included."""
    return sorted({*_BUILT_IN, *(point.name for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))})


def make_encoder(spec: str = DEFAULT, modality: str = "text") -> Encoder:
    """The encoder ``NAME`` or ``NAME:ARGUMENT`` for ``text`` or ``image`` inputs.

    Raises:
        DataError: no such encoder, a library it needs is missing, or an argument it cannot take.
    """
    name, _, argument = spec.partition(":")
    if name in _BUILT_IN:
        return _BUILT_IN[name](argument, modality)
    points = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
    if name not in points:
        names = list_encoders()
        raise DataError(f"Unknown encoder '{name}'.{suggest(name, names)} Encoders: {', '.join(names)}.")
    try:
        factory = points[name].load()
    except Exception as error:  # another package's mistake
        raise DataError(f"Encoder '{name}' ({points[name].value}) cannot be imported: {first_line(error)}.") from error
    return factory(argument, modality)
