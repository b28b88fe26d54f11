"""What other libraries would compute anew in every test is computed once in a process: pictures and export tables.

Three fifths of a small training are matplotlib's, which draws curves like those before; a third of a small export is
torch's, which lists its operators again.
"""

import functools
import sys

import numpy as np

_PICTURES: dict[tuple, bytes] = {}


def patch() -> None:
    """For the libraries that are imported by now."""
    figures = sys.modules.get("matplotlib.figure")
    if figures and figures.Figure.savefig is not _savefig:
        _savefig.original = figures.Figure.savefig
        figures.Figure.savefig = _savefig
    exporter = sys.modules.get("torch.onnx._internal.exporter._registration")
    if exporter and not hasattr(exporter.ONNXRegistry, "made_once"):
        exporter.ONNXRegistry.from_torchlib = staticmethod(functools.cache(exporter.ONNXRegistry.from_torchlib))
        exporter.ONNXRegistry.made_once = True


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
    """All that decides how it is rendered but for the numbers and the title above, which is taken as it is."""
    return tuple(
        (
            axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale(), axes.get_yscale(),
            *(_part(artist) for artist in axes.get_children()),
        )
        for axes in figure.axes
    ) + tuple(type(artist).__name__ for artist in figure.get_children())  # fmt: skip


def _part(artist) -> tuple:
    name = type(artist).__name__
    if name == "Line2D":
        y = np.ma.filled(np.ma.asarray(artist.get_ydata(orig=False), float), np.nan)
        return name, artist.get_marker(), min(len(y), 2), bool(np.isfinite(y).all())
    return (name,)
