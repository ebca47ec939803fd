"""What is remembered of files that were opened, by path, size and times of change, so that they are not read again.

The memory is one JSON file a data folder and mask code, replaced in one step; of two processes that write at once the
later one wins, and a file that is damaged, foreign or lost costs time only.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import PIL

from fewmask.data.files import cache_folder
from fewmask.data.index import Item, MaskCode

_VERSION = 3  # raise it when read_image, read_mask or the facts change
_UNSETTLED_NS = 2_000_000_000  # a file changed this recently may change again without new times


@dataclass(frozen=True)
class Facts:
    """What was found in one file.

    Attributes:
        height: pixels, as stored.
        width: pixels, as stored.
        encoding: format and kind, such as "PNG, palette index".
        orientation: EXIF orientation, 1-8.
        pixels: of masks: class index to number of pixels; 255 = ignore.
        content: of images that were compared: 32 hex digits of size and pixels, the same in every lossless format.
        likeness: of images that were decoded: ``duplicates.difference_hash``, 16 hex digits.
    """

    height: int
    width: int
    encoding: str
    orientation: int = 1
    pixels: dict[int, int] | None = None
    content: str = ""
    likeness: str = ""


class Memory:
    """Facts about files that have not changed since they were read.

    Attributes:
        lost: why what was learned could not be kept; "" = it was.
    """

    lost = ""

    def __init__(self, items: Sequence[Item], code: MaskCode, cache: Path | Literal[False] | None) -> None:
        self._file: Path | None = None
        self._old: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        self._fresh = False
        here = [os.path.abspath(i.image.parent) for i in items if isinstance(i.image, Path)]
        if cache is False or not here:
            return
        folder, place = cache or cache_folder(), os.path.commonpath(here)
        how = items[0].code
        declared = [how.bands] if how.bands else ["rgb"] if how.colours_only else []
        key = repr((_VERSION, PIL.__version__, place, code, *declared)).encode("utf-8", "surrogateescape")
        self._file = folder / f"scan-{hashlib.sha256(key).hexdigest()[:24]}.json"
        with suppress(OSError, ValueError, RecursionError):
            known = json.loads(self._file.read_bytes())
            self._old = known if isinstance(known, dict) else {}

    def get(self, kind: str, path: Path, read: Callable[[], Facts]) -> Facts:
        """Return the facts about ``path``: remembered ones, or those that ``read`` finds."""
        if self._file is None or not isinstance(path, Path):  # of files elsewhere the time of change is not asked for
            return read()
        try:
            stat = path.stat()
        except OSError:
            return read()  # it says what is wrong
        key, stamp = f"{kind} {os.path.abspath(path)}", [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        facts = _recall(self._old.get(key), stamp)
        if facts is None:
            facts = read()
            self._fresh = True
        if time.time_ns() - max(stamp[1:]) > _UNSETTLED_NS:
            self._new[key] = [*stamp, vars(facts)]
        return facts

    def save(self) -> None:
        """Write what was learned; a memory that cannot be written costs the next scan its time, and ``lost`` tells."""
        if self._file is None or not self._fresh:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._file.parent, prefix=".scan-", suffix=".tmp")
            try:
                with os.fdopen(handle, "w", encoding="ascii") as out:
                    json.dump(self._old | self._new, out)
                os.replace(name, self._file)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            self.lost = f"{self._file.parent} cannot be written ({error.strerror})"


def _recall(entry: Any, stamp: list[int]) -> Facts | None:
    """Return remembered facts if they are well-formed and of this very file, else None."""
    try:
        *old, raw = entry
        height, width, orientation = int(raw["height"]), int(raw["width"]), int(raw["orientation"])
        pixels = None if raw["pixels"] is None else {int(i): int(n) for i, n in raw["pixels"].items()}
        content, likeness = str(raw["content"]), str(raw["likeness"])
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    if old != stamp or (pixels is not None and sum(pixels.values()) != height * width):
        return None
    return Facts(height, width, str(raw["encoding"]), orientation, pixels, content, likeness)
