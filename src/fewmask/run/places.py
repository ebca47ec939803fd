"""How masks lie: which of the images of a call say where they lie, or how they are turned, and are not heard."""

from __future__ import annotations

from pathlib import Path

from fewmask.data.geo import installed, unread_place
from fewmask.data.images import georeference, image_header, loses_place
from fewmask.data.index import ImageCode
from fewmask.run.notes import Say


class Places:
    """Counts images whose masks lie otherwise than a viewer or a map would show them.

    Args:
        code: how the model reads images.
        count: of all images of the call.
    """

    def __init__(self, code: ImageCode, count: int) -> None:
        self._code, self._count = code, count
        self._turned = 0
        self._lost: list[Path] = []
        self._unheard: list[Path] = []

    def look(self, file: Path, paths: dict[str, Path]) -> None:
        """Look at an image that is predicted.

        Args:
            file: the image.
            paths: what is written of it.

        Raises:
            DataError: it cannot be read.
        """
        if not self._code.upright and "mask" in paths:
            self._turned += image_header(file, self._code).orientation > 1
        if "tiff" in paths and loses_place(file):
            self._lost.append(file)
        elif (beside := unread_place(file)) is not None and not georeference(file):
            self._unheard.append(beside)

    def tell(self, say: Say) -> None:
        """Say a sentence for each of what was found."""
        if self._turned:
            verb = "carries" if self._turned == 1 else "carry"
            say(
                f"WARNING: {self._turned} of {self._count} images {verb} an EXIF orientation, which this model "
                "ignores: their masks lie as the pixels are stored"
            )
        if self._lost or (self._unheard and not installed()):
            say("WARNING: these images lie on a map, their masks will not: pip install 'fewmask[geo]'")
        elif self._unheard:
            many = f", nor are {len(self._unheard) - 1} more" if len(self._unheard) > 1 else ""
            say(f"WARNING: {self._unheard[0]}, which may say where an image lies, is not read{many}: no .tif of it")
