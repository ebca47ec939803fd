"""Opening every file once before training: what cannot be read, does not fit, or holds ids that nobody declared.

Results are remembered by path, size and times of change, so that a second scan reads nothing: see ``facts.py``.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fewmask.batch import IGNORE, OPEN
from fewmask.data.bands import for_all, shown
from fewmask.data.duplicates import difference_hash
from fewmask.data.facts import Facts, Memory
from fewmask.data.findings import Finding
from fewmask.data.images import image_header, read_image, read_picture
from fewmask.data.index import Item, MaskCode
from fewmask.data.masks import decode_mask, read_mask
from fewmask.errors import DataError

_ENCODINGS = {"P": "palette index", "L": "grey index", "1": "1-bit index", "RGB": "colour", "RGBA": "colour"}
_IDS = 7  # undeclared ids of one mask that are named besides the first one


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
        empty_masks: names of the items whose mask holds, apart from ignored pixels, ``MaskCode.blank`` alone.
        problems: everything that is wrong, in the order of the items.
        contents: ``Facts.content`` of the images that look like another one of the same size, "" for the others, which
            are equal to none; length N.
        likenesses: ``Facts.likeness`` of them.
        aside: unlabelled items that are left out for what is wrong with them, which is no problem then: name to reason.
        open: pixels that nobody has labelled yet, int64 [N]; they count as ignored in ``counts``.
        lost: ``Memory.lost``.
        tagged: whether an image carries an EXIF orientation.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    masked: np.ndarray
    sizes: np.ndarray
    encodings: dict[str, int]
    empty_masks: tuple[str, ...]
    problems: tuple[Finding, ...]
    contents: tuple[str, ...] = ()
    likenesses: tuple[str, ...] = ()
    aside: dict[str, str] = field(default_factory=dict)
    open: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    lost: str = ""
    tagged: bool = False

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
    memory = Memory(items, code, cache)

    def look(item: Item) -> tuple[Facts | None, Facts | None, list[Finding]]:
        kind = "image" if images else "header"
        image, bad = _facts(memory, kind, item, item.image, lambda: _image_facts(item, images))
        if item.mask is None:
            return image, None, bad
        path = item.mask
        mask, worse = _facts(memory, "mask", item, path, lambda: _mask_facts(path, code))
        return image, mask, bad + worse

    def compare(item: Item) -> str:
        facts, _ = _facts(memory, "content", item, item.image, lambda: _content(item))
        return facts.content if facts else ""  # it has gone meanwhile: whoever reads it next says so

    pool = ThreadPoolExecutor(threads or os.cpu_count())
    try:
        found = []
        for one in pool.map(look, items):
            found.append(one)
            if len(found) % 50 == 0:
                tick(len(found), len(items))
        rows = _alike([image for image, _, _ in found])
        compared = dict(zip(rows, pool.map(compare, [items[row] for row in rows]), strict=True))
    finally:  # whoever is stopped again and again gets on
        pool.shutdown(cancel_futures=True)
        memory.save()
    nothing = {IGNORE} if code.unlabelled is None else {IGNORE, OPEN}
    if classes is None:
        seen = {i for _, mask, _ in found if mask for i in mask.pixels or {}} - nothing
        classes = max(seen, default=0) + 1
    problems: list[Finding] = []
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
    masks, blank = [mask for _, mask, _ in found if mask], {code.blank}
    return Scan(
        names=tuple(i.name for i in items),
        counts=counts,
        masked=np.array([mask is not None for _, mask, _ in found], dtype=bool),
        sizes=sizes,
        encodings=dict(Counter(mask.encoding for mask in masks).most_common()),
        empty_masks=tuple(
            i.name for i, (_, m, _) in zip(items, found, strict=True) if m and {*(m.pixels or ())} - {IGNORE} == blank
        ),
        problems=(*_two_readings(items, masks, code), *_declared_at_once(problems)),
        contents=tuple(compared.get(row, "") for row in range(len(items))),
        likenesses=tuple(image.likeness if image else "" for image, _, _ in found),
        open=unfinished,
        lost=memory.lost,
        tagged=any(image.orientation > 1 for image, _, _ in found if image),
    )


def _declared_at_once(problems: Sequence[Finding]) -> list[Finding]:
    """Return the findings; what to declare of images alike is the same for all of them."""
    remedies = for_all([one.todo for one in problems])
    return [replace(one, todo=todo) for one, todo in zip(problems, remedies, strict=True)]


def _facts(
    memory: Memory, kind: str, item: Item, path: Path, read: Callable[[], Facts]
) -> tuple[Facts | None, list[Finding]]:
    try:
        return memory.get(kind, path, read), []
    except DataError as e:
        return None, [Finding.of(e, item.name)]


def _image_facts(item: Item, decode: bool) -> Facts:
    if not decode:
        header = image_header(item.image, item.code)
        return Facts(header.height, header.width, f"{header.format}, {header.mode}", header.orientation)
    if item.code.bands:
        header = image_header(item.image, item.code)
        picture = Image.fromarray(shown(_as_stored(item), item.code.bands))
    else:
        header, picture = read_picture(item.image, replace(item.code, upright=False))
    likeness = f"{int(difference_hash(picture.convert('L'))):016x}"
    return Facts(header.height, header.width, f"{header.format}, {header.mode}", header.orientation, likeness=likeness)


def _as_stored(item: Item) -> np.ndarray:
    return read_image(item.image, replace(item.code, upright=False))


def _alike(images: Sequence[Facts | None]) -> list[int]:
    """Return the rows of decoded images that share size and likeness with another: equal ones are among them."""
    rows: dict[tuple[int, int, str], list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        if image is not None and image.likeness:  # TIFF files are turned when they are read: height may be width
            short, long = sorted((image.height, image.width))
            rows[short, long, image.likeness].append(row)
    return sorted(row for same in rows.values() if len(same) > 1 for row in same)


def _content(item: Item) -> Facts:
    pixels = np.ascontiguousarray(_as_stored(item))
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.data)
    return Facts(pixels.shape[0], pixels.shape[1], "", content=digest.hexdigest()[:32])


def _mask_facts(path: Path, code: MaskCode) -> Facts:
    header, mask = decode_mask(path, code, unlabelled=OPEN)
    pixels = Image.fromarray(mask).histogram()  # a bincount would first make eight bytes of each pixel
    kind = _ENCODINGS.get(header.mode, f"{header.bits}-bit index")
    held = {i: n for i, n in enumerate(pixels) if n}
    return Facts(mask.shape[0], mask.shape[1], f"{header.format}, {kind}", 1, held)


def _ids_problem(item: Item, mask: Facts, classes: int, code: MaskCode, nothing: set[int]) -> list[Finding]:
    """Return a problem if the mask holds classes from ``classes`` on; it is read again to say where."""
    bad = {i: n for i, n in sorted((mask.pixels or {}).items()) if i >= classes and i not in nothing}
    if not bad:
        return []
    assert item.mask is not None, "there are facts about it"
    first, *others = bad
    y, x = map(int, np.unravel_index(int((read_mask(item.mask, code) == first).argmax()), (mask.height, mask.width)))
    what = f"mask holds undeclared class id {first} ({bad[first]} pixels, first at x={x} y={y})"
    what += "".join(f", {i} ({bad[i]} pixels)" for i in others[:_IDS]) + (", ..." if len(others) > _IDS else "")
    ids = ", ".join(str(i) for i in [*bad][: _IDS + 1]) + (", ..." if len(others) > _IDS else "")
    todo = f"{classes} classes are declared, ids 0 to {classes - 1}; name it in classes, or write ignore: "
    todo += f"[{ids}] in data.yaml"
    todo += f"; if ids count from 1, write classes: {{1: ..., {classes}: ...}}" if [*bad] == [classes] else ""
    where = str(item.mask)
    return [Finding("undeclared_id", what, where, todo, item.name, first, (x, y))]


def _size_problem(item: Item, image: Facts, mask: Facts, exif: str | None) -> list[Finding]:
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
        sizes = f"{seen[1]}x{seen[0]} {mask.width}x{mask.height}"
        return [Finding("size_mismatch", what, str(item.image), todo, item.name, sizes)]
    if image.orientation == 1 or other != drawn or exif is not None:
        return []  # a mask that fits the stored pixels only was drawn on them
    what = f"EXIF orientation {image.orientation} may or may not apply to the mask: both readings fit its size"
    todo = "write in data.yaml: exif: ignore if masks were drawn on the stored pixels, exif: apply if on turned ones"
    return [Finding("orientation", what, str(item.image), todo, item.name, image.orientation)]


def _seen_size(item: Item, image: Facts, turned: bool | None = None) -> tuple[int, int]:
    """Return (height, width) of an item's image, turned where its data say so, or as ``turned`` says."""
    turned = (item.code.upright if turned is None else turned) and image.orientation >= 5
    return (image.width, image.height) if turned else (image.height, image.width)


def _two_readings(items: Sequence[Item], masks: Sequence[Facts], code: MaskCode) -> list[Finding]:
    """Return a problem if all masks are 0/255, unless it is declared what 255 means."""
    held = {i for mask in masks for i in mask.pixels or {}}
    if code.mapping or code.colours or IGNORE in code.ignore or IGNORE not in held or held - {0, IGNORE}:
        return []
    what = f"all {len(masks)} masks hold only the values 0 and 255, which has two readings"
    todo = "if 255 is a class, write in data.yaml: classes: {0: background, 255: object}; "
    todo += "if it means void, write: ignore: 255"
    return [Finding("two_readings", what, next(str(i.mask) for i in items if i.mask), todo, value=IGNORE)]
