"""What all pages share: the templates beside this file, one look, and escaping."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

_FOLDER = Path(__file__).parent


def render(template: str, **values: object) -> str:
    """The page of a template of this folder. Every value is escaped, save those that are Markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(style=own("page.css"), **values)


def own(name: str) -> Markup:
    """A style sheet or a script of this folder, to stand in a page as it is."""
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


def plain(text: str) -> str:
    """Text from outside, on one line and without what a terminal would obey or a font cannot draw."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))
