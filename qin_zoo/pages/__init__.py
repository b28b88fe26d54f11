"""Pages that ask for nothing from elsewhere, in one style for light, dark, wide and narrow; plots in its colours."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from qin_zoo.files import replace_text


def write_page(file: Path, package: str, template: str, **values: object) -> None:
    """Writes a page.

    Args:
        file: the HTML file.
        package: where the template lies.
        template: its name; it extends ``base.html.j2``.
        values: for the template; what is not ``Markup`` is escaped.

    Raises:
        QinZooError: it cannot be written.
    """
    from jinja2 import DictLoader, Environment

    places = ((__name__, "base.html.j2"), (package, template))
    sources = {name: resources.files(place).joinpath(name).read_text(encoding="utf-8") for place, name in places}
    text = Environment(autoescape=True, loader=DictLoader(sources)).get_template(template).render(**values)
    replace_text(Path(file), text)
