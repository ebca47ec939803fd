"""Opening every file once before training: what cannot be read, does not fit, or holds ids that nobody declared.

Results are remembered by path, size and times of change, so that a second scan reads nothing. The memory is one JSON
file a data folder and mask code, replaced in one step; of two processes that write at once the later one wins, and a
file that is damaged, foreign or lost costs time only.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from PIL import Image

from fewmask.batch import IGNORE, OPEN
from fewmask.data.bands import shown
from fewmask.data.decode import read_header
from fewmask.data.duplicates import difference_hash
from fewmask.data.files import cache_folder
from fewmask.data.images import image_header, read_image
from fewmask.data.index import Item, MaskCode
from fewmask.data.masks import read_mask
from fewmask.errors import DataError

_VERSION = 2  # of the remembered facts: raise it when read_image, read_mask or the facts change
_UNSETTLED_NS = 2_000_000_000  # a file changed this recently may change again without new times
_ENCODINGS = {"P": "palette index", "L": "grey index", "1": "1-bit index", "RGB": "colour", "RGBA": "colour"}


@dataclass(frozen=True)
class Problem:
    """Something that must be settled before training.

    Attributes:
        what: what is wrong.
        where: the file.
        todo: what to do about it.
        name: the item, "" where it is about all of them.
    """

    what: str
    where: str
    todo: str = ""
    name: str = ""


@dataclass(frozen=True)
class Facts:
    """What was found in one file.

    Attributes:
        height: pixels, as stored.
        width: pixels, as stored.
        encoding: format and kind, such as "PNG, palette index".
        orientation: EXIF orientation, 1-8.
        pixels: of masks: class index to number of pixels; 255 = ignore.
        content: of images that were decoded: 32 hex digits of size and pixels, the same in every lossless format.
        likeness: of images that were decoded: ``duplicates.difference_hash``, 16 hex digits.
    """

    height: int
    width: int
    encoding: str
    orientation: int = 1
    pixels: dict[int, int] | None = None
    content: str = ""
    likeness: str = ""


@dataclass(frozen=True, eq=False)
class Scan:
    """What a scan found; rows are items, in the order they were given.

    Attributes:
        names: names of the items, length N.
        counts: pixels a class, int64 [N, K + 1]; the last column counts ignored pixels. Zeros without a mask.
        masked: whether the item has a mask that could be read, bool [N].
        sizes: (height, width) of the images, turned where the data say so, int64 [N, 2]; zeros where one could not be
            read.
        encodings: kind of mask file, such as "PNG, palette index", to number of masks.
        empty_masks: names of the items whose mask holds class 0 and, apart from ignored pixels, nothing else.
        problems: everything that is wrong, in the order of the items.
        contents: ``Facts.content`` of the images, "" where one was not decoded; length N.
        likenesses: ``Facts.likeness`` of them.
        aside: unlabelled items that are left out for what is wrong with them, which is no problem then: name to reason.
        open: pixels that nobody has labelled yet, int64 [N]; they count as ignored in ``counts``.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    masked: np.ndarray
    sizes: np.ndarray
    encodings: dict[str, int]
    empty_masks: tuple[str, ...]
    problems: tuple[Problem, ...]
    contents: tuple[str, ...] = ()
    likenesses: tuple[str, ...] = ()
    aside: dict[str, str] = field(default_factory=dict)
    open: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @cached_property
    def class_pixels(self) -> np.ndarray:
        """Labelled pixels a class, int64 [K]."""
        return self.counts[:, :-1].sum(axis=0)

    @cached_property
    def class_images(self) -> np.ndarray:
        """Images that hold each class, int64 [K]."""
        return (self.counts[:, :-1] > 0).sum(axis=0)

    def rows(self, items: Sequence[Item]) -> np.ndarray:
        """Return the rows of ``items``, int64; items that were not scanned have none."""
        return np.array([self._row[i.name] for i in items if i.name in self._row], dtype=np.int64)

    def open_of(self, item: Item) -> int:
        """Return how many pixels of a scanned item nobody has labelled yet."""
        return int(self.open[self._row[item.name]]) if len(self.open) else 0

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def raise_first(self) -> None:
        """Do nothing if all is well.

        Raises:
            DataError: the first problem, and how many more there are.
        """
        if not self.problems:
            return
        first, more = self.problems[0], len(self.problems) - 1
        rest = f"(and {more} more; fewmask check DIR lists them)" if more else ""
        raise DataError(first.what, where=first.where, todo=" ".join(t for t in (first.todo, rest) if t))


def scan(
    items: Sequence[Item],
    classes: int | None,
    code: MaskCode,
    *,
    images: bool = True,
    threads: int | None = None,
    cache: Path | Literal[False] | None = None,
    exif: Literal["ignore", "apply"] | None = None,
    tick: Callable[[int, int], object] = lambda done, of: None,
) -> Scan:
    """Decode every image and every mask that ``items`` name, and compare what they hold with what is declared.

    Args:
        items: what to open. Items without a path to a mask cost their image only.
        classes: number of classes K; None: as many as the masks hold.
        code: how masks spell ids.
        images: decode images fully; otherwise only their headers are read.
        threads: files read at once; None: one a processor.
        cache: folder of the memory; None: ``$XDG_CACHE_HOME/fewmask``; False: none.
        exif: what data.yaml says: an orientation tag then raises no question.
        tick: is told how many of how many items are done, now and then.

    Returns:
        The findings. Nothing is raised for bad files: see ``Scan.problems`` and ``Scan.raise_first``.
    """
    memory = _Memory(items, code, cache)

    def look(item: Item) -> tuple[Facts | None, Facts | None, list[Problem]]:
        kind = "image" if images else "header"
        image, bad = _facts(memory, kind, item, item.image, lambda: _image_facts(item, images))
        if item.mask is None:
            return image, None, bad
        path = item.mask
        mask, worse = _facts(memory, "mask", item, path, lambda: _mask_facts(path, code))
        return image, mask, bad + worse

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        found = []
        for one in pool.map(look, items):
            found.append(one)
            if len(found) % 50 == 0:
                tick(len(found), len(items))
    memory.save()
    nothing = {IGNORE} if code.unlabelled is None else {IGNORE, OPEN}
    if classes is None:
        seen = {i for _, mask, _ in found if mask for i in mask.pixels or {}} - nothing
        classes = max(seen, default=0) + 1
    problems: list[Problem] = []
    counts = np.zeros((len(items), classes + 1), np.int64)
    sizes = np.zeros((len(items), 2), np.int64)
    unfinished = np.zeros(len(items), np.int64)
    for row, (item, (image, mask, bad)) in enumerate(zip(items, found, strict=True)):
        problems += bad
        sizes[row] = _seen_size(item, image) if image else (0, 0)
        for i, pixels in ((mask.pixels if mask else None) or {}).items():
            if i < classes or i in nothing:
                counts[row, min(i, classes)] += pixels
            if i == OPEN and i in nothing:
                unfinished[row] = pixels
        if mask:
            problems += _ids_problem(item, mask, classes, code, nothing)
        if image and mask:
            problems += _size_problem(item, image, mask, exif)
    masks = [mask for _, mask, _ in found if mask]
    rows = zip(items, found, strict=True)
    return Scan(
        names=tuple(i.name for i in items),
        counts=counts,
        masked=np.array([mask is not None for _, mask, _ in found], dtype=bool),
        sizes=sizes,
        encodings=dict(Counter(mask.encoding for mask in masks).most_common()),
        empty_masks=tuple(i.name for i, (_, m, _) in rows if m and set(m.pixels or ()) - {IGNORE} == {0}),
        problems=(*_two_readings(items, masks, code), *problems),
        contents=tuple(image.content if image else "" for image, _, _ in found),
        likenesses=tuple(image.likeness if image else "" for image, _, _ in found),
        open=unfinished,
    )


def _facts(
    memory: _Memory, kind: str, item: Item, path: Path, read: Callable[[], Facts]
) -> tuple[Facts | None, list[Problem]]:
    try:
        return memory.get(kind, path, read), []
    except DataError as e:
        return None, [Problem(e.what, e.where, e.todo, item.name)]


def _image_facts(item: Item, decode: bool) -> Facts:
    header = image_header(item.image, item.code)
    content = likeness = ""
    if decode:
        pixels = read_image(item.image, replace(item.code, upright=False))
        content = hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()
        likeness = f"{int(difference_hash(Image.fromarray(shown(pixels, item.code.bands)).convert('L'))):016x}"
    kind = f"{header.format}, {header.mode}"
    return Facts(header.height, header.width, kind, header.orientation, None, content, likeness)


def _mask_facts(path: Path, code: MaskCode) -> Facts:
    header = read_header(path)
    mask = read_mask(path, code, unlabelled=OPEN)
    pixels = np.bincount(mask.ravel(), minlength=256)
    kind = _ENCODINGS.get(header.mode, f"{header.bits}-bit index")
    held = {int(i): int(pixels[i]) for i in pixels.nonzero()[0]}
    return Facts(mask.shape[0], mask.shape[1], f"{header.format}, {kind}", 1, held)


def _ids_problem(item: Item, mask: Facts, classes: int, code: MaskCode, nothing: set[int]) -> list[Problem]:
    """Return a problem if the mask holds classes from ``classes`` on; it is read again to say where."""
    bad = [i for i in mask.pixels or {} if i >= classes and i not in nothing]
    if not bad:
        return []
    assert item.mask is not None, "there are facts about it"
    first = min(bad)
    y, x = np.unravel_index(int((read_mask(item.mask, code) == first).argmax()), (mask.height, mask.width))
    what = f"mask holds undeclared class id {first} ({(mask.pixels or {})[first]} pixels, first at x={x} y={y})"
    todo = f"{classes} classes are declared, ids 0 to {classes - 1}; name it in classes, or write ignore: [{first}]"
    return [Problem(what, str(item.mask), f"{todo} in data.yaml", item.name)]


def _size_problem(item: Item, image: Facts, mask: Facts, exif: str | None) -> list[Problem]:
    """Return a problem if image and mask differ in size, or if the orientation leaves two readings."""
    seen, drawn = _seen_size(item, image), (mask.height, mask.width)
    other = _seen_size(item, image, turned=not item.code.upright)
    if seen != drawn:
        what = f"image is {seen[1]}x{seen[0]}, its mask {mask.width}x{mask.height}"
        if other == drawn and item.code.upright:
            what += f": the mask belongs to the image as it is stored, without its EXIF orientation {image.orientation}"
            todo = "take the orientation out of the image's file: data.yaml says exif: apply"
        elif other == drawn:
            what += f": the mask belongs to the image as its EXIF orientation {image.orientation} turns it"
            todo = "write exif: apply in data.yaml, or save the image upright, without orientation tag"
        else:
            todo = "give both the same size"
        return [Problem(what, str(item.image), todo, item.name)]
    if image.orientation == 1 or other != drawn or exif is not None:
        return []  # a mask that fits the stored pixels only was drawn on them
    what = f"EXIF orientation {image.orientation} may or may not apply to the mask: both readings fit its size"
    todo = "write in data.yaml: exif: ignore if masks were drawn on the stored pixels, exif: apply if on turned ones"
    return [Problem(what, str(item.image), todo, item.name)]


def _seen_size(item: Item, image: Facts, turned: bool | None = None) -> tuple[int, int]:
    """Return (height, width) of an item's image, turned where its data say so, or as ``turned`` says."""
    turned = (item.code.upright if turned is None else turned) and image.orientation >= 5
    return (image.width, image.height) if turned else (image.height, image.width)


def _two_readings(items: Sequence[Item], masks: Sequence[Facts], code: MaskCode) -> list[Problem]:
    """Return a problem if all masks are 0/255, unless it is declared what 255 means."""
    held = {i for mask in masks for i in mask.pixels or {}}
    if code.mapping or code.colours or IGNORE in code.ignore or IGNORE not in held or held - {0, IGNORE}:
        return []
    what = f"all {len(masks)} masks hold only the values 0 and 255, which has two readings"
    todo = "if 255 is a class, write in data.yaml: classes: {0: background, 255: object}; "
    todo += "if it means void, write: ignore: 255"
    return [Problem(what, next(str(i.mask) for i in items if i.mask), todo)]


class _Memory:
    """Facts about files that have not changed since they were read."""

    def __init__(self, items: Sequence[Item], code: MaskCode, cache: Path | Literal[False] | None) -> None:
        self._file: Path | None = None
        self._old: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        self._fresh = False
        if cache is False or not items:
            return
        folder = cache or cache_folder()
        place = os.path.commonpath([os.path.abspath(i.image.parent) for i in items])
        bands = [items[0].code.bands] if items[0].code.bands else []
        key = repr((_VERSION, PIL.__version__, place, code, *bands)).encode("utf-8", "surrogateescape")
        self._file = folder / f"scan-{hashlib.sha256(key).hexdigest()[:24]}.json"
        with suppress(OSError, ValueError, RecursionError):
            known = json.loads(self._file.read_bytes())
            self._old = known if isinstance(known, dict) else {}

    def get(self, kind: str, path: Path, read: Callable[[], Facts]) -> Facts:
        """Return the facts about ``path``: remembered ones, or those that ``read`` finds."""
        if self._file is None:
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
            self._new[key] = [*stamp, asdict(facts)]
        return facts

    def save(self) -> None:
        """Write what was learned; a memory that cannot be written is no memory."""
        if self._file is None or not self._fresh:
            return
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._file.parent, prefix=".scan-", suffix=".tmp")
            try:
                with os.fdopen(handle, "w", encoding="ascii") as out:
                    json.dump(self._old | self._new, out)
                os.replace(name, self._file)
            except BaseException:
                os.unlink(name)
                raise


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
