"""What would be done anew in every test, though what comes of it is known, is done once in a process.

Two thirds of a small training are matplotlib's, which draws curves like those before, and half of the rest is spent on
parsing the configurations of the repository; a third of a small export is torch's, which lists its operators again; and
every httpx client reads the machine's certificates, though none is asked. FuxiCTR's YAML is read in C, in a twentieth
of the time.
"""

import functools
import pickle
import sys

import numpy as np
import yaml

from qin_zoo.config import safe_yaml

_PICTURES: dict[tuple, bytes] = {}


def patch() -> None:
    """For the libraries that are imported by now."""
    safe_yaml.parse_yaml = _parse_yaml
    yaml.FullLoader = getattr(yaml, "CFullLoader", yaml.FullLoader)
    figures = sys.modules.get("matplotlib.figure")
    if figures and figures.Figure.savefig is not _savefig:
        _savefig.original = figures.Figure.savefig
        figures.Figure.savefig = _savefig
    transports = sys.modules.get("httpx._transports.default")
    if transports and not hasattr(transports.create_ssl_context, "cache_info"):
        transports.create_ssl_context = functools.cache(transports.create_ssl_context)
    exporter = sys.modules.get("torch.onnx._internal.exporter._registration")
    if exporter and not hasattr(exporter.ONNXRegistry.from_torchlib, "cache_info"):
        exporter.ONNXRegistry.from_torchlib = staticmethod(functools.cache(exporter.ONNXRegistry.from_torchlib))


_parse = safe_yaml.parse_yaml


@functools.lru_cache(300)
def _pickled(text: str, where: str) -> bytes:
    return pickle.dumps(_parse(text, where))


def _parse_yaml(text: str, where: str) -> safe_yaml.Document:
    return pickle.loads(_pickled(text, where)) if len(text) < 100_000 else _parse(text, where)


def _savefig(figure, file, **options):
    """A PNG of a figure is rendered unless one of its kind was; the earlier one is written in its place."""
    if options.get("format") != "png":
        return _savefig.original(figure, file, **options)
    kind = (*_kind(figure), *sorted(map(repr, options.items())))
    if kind in _PICTURES:
        file.write_bytes(_PICTURES[kind])
        return None
    _savefig.original(figure, file, **options)
    _PICTURES[kind] = file.read_bytes()
    return None


def _kind(figure) -> tuple:
    """Which parts are to be rendered, in what state; not how many there are, nor what words and numbers they show."""
    others = frozenset(type(artist).__name__ for artist in figure.get_children())
    return frozenset(map(_axes, figure.axes)), others, *_signs([figure.get_suptitle()])


def _axes(axes) -> tuple:
    legend = axes.get_legend()
    texts = [axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), *(text.get_text() for text in axes.texts)]
    texts += [text.get_text() for text in legend.get_texts()] if legend else []
    for axis in (axes.xaxis, axes.yaxis):
        texts += getattr(axis.get_major_formatter(), "seq", [])  # the names of ticks
    parts = frozenset(map(_part, axes.get_children()))
    return axes.get_xscale(), axes.get_yscale(), parts, *_signs(texts)


def _signs(texts) -> tuple[bool, bool]:
    """Whether there is what mathematics begins with, and what a font may not have."""
    text = "".join(map(str, texts))
    return "$" in text, not text.isascii()


def _part(artist) -> tuple:
    name = type(artist).__name__
    if name == "Line2D":
        y = np.ma.filled(np.ma.asarray(artist.get_ydata(orig=False), float), np.nan)
        return name, artist.get_marker(), min(len(y), 2), bool(np.isfinite(y).all())
    return (name,)
