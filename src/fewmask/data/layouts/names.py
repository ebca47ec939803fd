"""Which image a file of annotations means, when it was written on another machine."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

from fewmask.data.layouts.found import Files
from fewmask.errors import DataError

ROLE_IN_NAME = re.compile(r"(?:^|[_\-.])(train|training|val|valid|validation|test|testing)(?:\d*|$)(?=[_\-.]|$)")
"""The role that the name of a file of annotations spells, as group 1."""


class Names:
    """Finds images by the end of a path.

    Args:
        images: name of an image to its files.
        root: the data folder.
    """

    def __init__(self, images: Files, root: Path) -> None:
        self._images, self._root = images, root
        self._by_file: dict[str, list[str]] = defaultdict(list)
        for name, paths in images.items():
            self._by_file[paths[0].name].append(name)

    def find(self, file: str, where: Path) -> str | None:
        """Return the image that a file name means: its path ends like it; of several the one in the file's own part.

        Args:
            file: what the annotations say.
            where: the file of annotations.

        Raises:
            DataError: it may be two.
        """
        parts = PurePosixPath(file.replace("\\", "/")).parts
        parts = tuple(p for p in parts if p not in ("..", ".", "/"))
        same = self._by_file.get(parts[-1] if parts else "", [])
        hits = [n for n in same if self._images[n][0].relative_to(self._root).parts[-len(parts) :] == parts] or same
        if len(hits) > 1:
            found = ROLE_IN_NAME.search(where.stem)
            own = where.parent.relative_to(self._root).as_posix()
            near = [n for n in hits if (own != "." and n.startswith(f"{own}/")) or (found and f"{found[1]}" in n)]
            hits = near if len(near) == 1 else hits
        if len(hits) > 1:
            raise DataError(f"{file!r} may be {hits[0]!r} or {hits[1]!r}", where=where, todo="write longer paths in it")
        return hits[0] if hits else None
