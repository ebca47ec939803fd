"""Class names of a data set, and how its masks spell them."""

from __future__ import annotations

from pathlib import Path

from fewmask.data.datayaml import FILE_NAME, DataYaml, check_names
from fewmask.data.index import MaskCode
from fewmask.data.layouts.found import Found, read_text
from fewmask.errors import ConfigError, DataError


def legend(root: Path, declared: DataYaml, found: Found) -> tuple[tuple[str, ...], MaskCode]:
    """Return class names and mask code from data.yaml, classes.txt or the layout, in this order.

    Raises:
        ConfigError: two of them contradict each other.
        DataError: classes.txt cannot be read.
    """
    where, path = declared.aside or root / FILE_NAME, root / "classes.txt"
    names = _read_classes(path) if path.is_file() else ()
    if names and declared.classes is not None and names != declared.legend((), where)[0]:
        what = "data.yaml and classes.txt name different classes"
        raise ConfigError(what, where=root, todo="remove one of the two lists")
    if found.code == MaskCode() or declared.classes is not None:
        return declared.legend(names or found.classes, where)
    if declared.ignore or declared.colours or len(names) not in (0, len(found.classes)):
        what = f"the {found.layout} layout has its own ids; other classes need a full list"
        raise ConfigError(what, where=root, todo="write classes: {id: name} in data.yaml")
    return names or found.classes, found.code.plain()


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        lines = read_text(path).rstrip().splitlines()
        return check_names([line.strip() for line in lines])
    except (OSError, ValueError) as e:
        raise DataError(f"cannot be read as one class name a line: {e}", where=path) from e
