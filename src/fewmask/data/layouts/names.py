"""Which image a file of annotations means, when it was written on another machine."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from fewmask.data.layouts.found import Files
from fewmask.data.roles import role_folder
from fewmask.errors import DataError

ROLE_IN_NAME = re.compile(
    r"(?:^|[_\-.])(train|training|val|valid|validation|test|testing)(?:\d*|$)(?=[_\-.]|$)", re.IGNORECASE
)
"""The role that the name of a file of annotations spells, as group 1."""

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "rgb", "raw", "photos", "frames", "img_dir")
"""What folders of images are called."""

_ANYWHERE = {*IMAGE_FOLDERS, "jpegimages", "pictures", "data", "default", "upload", "uploads", "files"}


class Names:
    """Finds images by the end of a path.

    Args:
        images: name of an image to its files.
        root: the data folder.
    """

    def __init__(self, images: Files, root: Path) -> None:
        self._root = root
        self._parts: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
        for name, paths in images.items():
            self._parts[paths[0].name][name] = paths[0].relative_to(root).parts

    def find(self, file: str, where: Path) -> str | None:
        """Return the image that a file name means, see ``closest``; of several the one in the file's own part.

        Args:
            file: what the annotations say.
            where: the file of annotations.

        Raises:
            DataError: it may be two.
        """
        parts = parts_of(file)
        hits = closest(parts, self._parts.get(parts[-1] if parts else "", {}))
        if len(hits) > 1:
            found = ROLE_IN_NAME.search(where.stem)
            own = where.parent.relative_to(self._root).as_posix()
            spelt = found[1].lower() if found else None
            near = [n for n in hits if (own != "." and n.startswith(f"{own}/")) or (spelt and spelt in n.lower())]
            hits = near if len(near) == 1 else hits
        if len(hits) > 1:
            raise DataError(f"{file!r} may be {hits[0]!r} or {hits[1]!r}", where=where, todo="write longer paths in it")
        return hits[0] if hits else None


def parts_of(path: str) -> tuple[str, ...]:
    """Return the parts of a path of any system that say where a file is."""
    return tuple(p for p in PurePosixPath(path.replace("\\", "/")).parts if p not in ("..", ".", "/"))


def closest(parts: Sequence[str], candidates: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the candidates that a path may mean: those that share the most of its end, unless their folders differ.

    ``/home/me/field1/7.jpg`` means ``images/field1/7.jpg``, and not ``images/field2/7.jpg``, even where the first is
    missing: cameras give the same names again. It may mean ``images/7.jpg``, where nobody kept the folders.

    Args:
        parts: of the path.
        candidates: name to the parts of files that are there.
    """
    shared = {name: _shared(parts, other) for name, other in candidates.items()}
    fit = {name: n for name, n in shared.items() if n and (n > 1 or not _differ(parts[:-1], candidates[name][:-1]))}
    return [name for name, n in fit.items() if n == max(fit.values())]


Ends = Mapping[str, Mapping[str, Sequence[str]]]
"""Last part of a name to the names that end so, each with its parts."""


def by_end(names: Iterable[str]) -> Ends:
    """Return names by their ends."""
    out: dict[str, dict[str, Sequence[str]]] = defaultdict(dict)
    for name in names:
        parts = name.split("/")
        out[parts[-1]][name] = parts
    return out


def under_images(masks: Files, images: Files) -> dict[str, list[Path]]:
    """Return masks under the names of the images that they mean, where a tool has kept no folders; see ``closest``.

    A mask that may be of two images, and one of none, keeps its name.
    """
    ends = by_end(images)
    out: dict[str, list[Path]] = {}
    for name, paths in masks.items():
        hits = [name] if name in images else closest(parts_of(name), ends.get(name.rpartition("/")[2], {}))
        called = hits[0] if len(hits) == 1 else name
        out[called] = [*out.get(called, []), *paths]
    return out


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many parts two paths have in common at their ends."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def _differ(a: Sequence[str], b: Sequence[str]) -> bool:
    """Return whether two folders say that they are different ones."""
    if not a or not b:
        return False
    mine, its = a[-1].lower(), b[-1].lower()
    roles = role_folder(f"{mine}/x"), role_folder(f"{its}/x")
    if None not in roles:
        return roles[0] != roles[1]
    return not any(part in _ANYWHERE or part.isdecimal() or role_folder(f"{part}/x") for part in (mine, its))
