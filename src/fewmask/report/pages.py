"""What the pages and plots are rendered by.

Every name comes from a user's folder, so everything is escaped where it is put in: the environment escapes all
templates, and no filter marks text as safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fewmask._version import __version__
from fewmask.report.tables import colour
from fewmask.report.text import UNMEASURED, count, listing, shortened


@cache
def environment() -> Environment:
    """Return the templates of this package."""
    made = Environment(
        loader=PackageLoader("fewmask.report", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.globals |= {"version": __version__, "unmeasured": UNMEASURED}
    made.filters |= {"count": count, "listing": listing, "class_colour": colour, "shortened": shortened}
    return made


def render(template: str, context: Mapping[str, Any]) -> bytes:
    """Return a template filled in, as UTF-8.

    A name that is not UTF-8 on disk reaches Python as lone surrogates, which no file can hold: they become ``?``.
    """
    return environment().get_template(template).render(context).encode("utf-8", "replace")
