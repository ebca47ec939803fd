"""Split lists: text files that name images, as the published repositories write them and as we do.

What a line may be:

=================================================== ============= ========================================
line                                                dialect       written by
=================================================== ============= ========================================
``JPEGImages/a.jpg SegmentationClass/a.png``        space pairs   UniMatch, ST++, DARS, AllSpark
``/images/train/a.png<TAB>/segmentation/train/…``   tab pairs     CPS (Cityscapes)
``leftImg8bit/train/jena/jena_…_leftImg8bit.png``   paths         U2PL (Cityscapes)
``2007_000032``                                     names         U2PL, CPS, PixelSSL (VOC); fewmask
=================================================== ============= ========================================

Line ends may be those of Windows, leading slashes are allowed, empty lines are skipped, and so is a line
that is ``#`` or starts with ``#`` and a blank (a comment). Our own lists hold one item name a line, and
names may contain blanks: a line with a tab is ``image<TAB>mask``; a line with blanks is ``image mask``
only where both halves end like image files, or both have folders and name the same image; otherwise the
whole line is one name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from fewmask.data.index import Item
from fewmask.errors import ConfigError, DataError

_EXTENSION = re.compile(r"(?<=[^/])\.(jpe?g|png|bmp|tiff?|webp|gif|p[bgpn]m)$", re.IGNORECASE)
_CITYSCAPES_SUFFIX = re.compile(
    r"(?<=[^/])_(leftImg8bit|gt(Fine|Coarse)(_(labelTrainIds|labelIds|instanceIds|color))?)$"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LARGEST = 500_000_000  # some millions of names; /dev/zero has no end
_LONGEST_LINE = 2 * 4096  # two paths as long as Linux allows
_FAMILIES = {
    "VOC": re.compile(r"20(07|08|09|10|11|12)_[0-9]{6}"),
    "Cityscapes": re.compile(r"[a-z]+(-[a-z]+)*_[0-9]{6}_[0-9]{6}"),
}


@dataclass(frozen=True)
class Entry:
    """One line of a list.

    Attributes:
        id: the image in every dialect: ``2007_000032`` (VOC), ``jena_000078_000019`` (Cityscapes).
        image: the image as the line spells it.
        mask: the mask as the line spells it; None where the line names no mask.
        line_no: line number in the file, from 1.
    """

    id: str
    image: str
    mask: str | None
    line_no: int


@dataclass(frozen=True)
class SplitList:
    """A list file that was read.

    Attributes:
        path: the file.
        entries: in file order, repetitions kept (DARS repeats its labelled images).
        dialect: "space pairs", "tab pairs", "paths" or "names"; "mixed" where lines differ.
    """

    path: Path
    entries: tuple[Entry, ...]
    dialect: str


def stem_path(text: str) -> str:
    """Return a path with ``/``, without leading slashes, image extension and Cityscapes suffixes."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    return _CITYSCAPES_SUFFIX.sub("", _EXTENSION.sub("", "/".join(parts)))


def canonical_id(text: str) -> str:
    """Return the id of an image that is the same in every dialect: the last part of ``stem_path``."""
    return stem_path(text).rsplit("/", 1)[-1]


def family_of(name: str) -> str | None:
    """Return "VOC" or "Cityscapes" where the id is one that only this data set uses, else None."""
    return next((family for family, pattern in _FAMILIES.items() if pattern.fullmatch(name)), None)


def same_image(a: str, b: str) -> bool:
    """Return whether two spellings can mean one image: one published id, or one path ends the other."""
    stem_a, stem_b = stem_path(a), stem_path(b)
    name = canonical_id(a)
    if name == canonical_id(b) and family_of(name):
        return True
    return f"/{stem_a}".endswith(f"/{stem_b}") or f"/{stem_b}".endswith(f"/{stem_a}")


def read_list(path: Path) -> SplitList:
    """Read a split list in any of the dialects above.

    Args:
        path: the file; UTF-8 (names that are not are kept byte for byte).

    Raises:
        ConfigError: there is no such file.
        DataError: it cannot be read, is not text, names no image, or has a line that has no clear meaning.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise ConfigError("no such list file", where=path, todo="check the path") from None
    except OSError as error:
        raise DataError(f"cannot read the list: {error.strerror}", where=path, todo="name a text file") from error
    if len(raw) > _LARGEST:
        raise DataError(f"the list is larger than {_LARGEST} bytes", where=path, todo="name a text file")
    return parse_text(raw.decode("utf-8", "surrogateescape"), path)


def parse_text(text: str, path: object) -> SplitList:
    """Read a split list from its text.

    Args:
        text: the whole file.
        path: what errors name.

    Raises:
        DataError: as in ``read_list``.
    """
    text = text.removeprefix("\ufeff")
    if _CONTROL.search(text):
        raise DataError("not a text file", where=path, todo="a list is plain text with one image a line")
    entries, dialects = [], set()
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        line = line.strip(" ")
        if not line or line == "#" or line.startswith("# "):
            continue
        where = f"{path} line {number}"
        if len(line) > _LONGEST_LINE:
            raise DataError(f"a line of {len(line)} characters", where=where, todo="write one image a line")
        image, mask, dialect = _parse_line(line, where)
        entries.append(Entry(canonical_id(image), image, mask, number))
        dialects.add(dialect)
    if not entries:
        raise DataError("the list names no image", where=path, todo="give a list with at least one, or 'none'")
    return SplitList(Path(str(path)), tuple(entries), dialects.pop() if len(dialects) == 1 else "mixed")


def _parse_line(line: str, where: object) -> tuple[str, str | None, str]:
    """Return (image, mask or None, dialect) of one line without its line end."""
    if "\t" in line:
        fields = [field.strip() for field in line.split("\t") if field.strip()]
        if len(fields) != 2:
            raise DataError(f"{len(fields)} fields between tabs", where=where, todo="write image<TAB>mask")
        image, mask, dialect = fields[0], fields[1], "tab pairs"
    elif pair := _space_pair(line, where):
        image, mask, dialect = *pair, "space pairs"
    else:
        image, mask, dialect = line, None, "paths" if _EXTENSION.search(line) else "names"
    if not canonical_id(image) or canonical_id(image) == "..":
        raise DataError(f"{image!r} names no image", where=where, todo="remove the line")
    return image, mask, dialect


def _space_pair(line: str, where: object) -> tuple[str, str] | None:
    """Return (image, mask) where a blank of the line parts two files, else None."""
    cuts = [(line[: m.start()], line[m.end() :]) for m in re.finditer(" +", line)]
    files = [(a, b) for a, b in cuts if _EXTENSION.search(a) and _EXTENSION.search(b)]
    same = [(a, b) for a, b in cuts if "/" in a and "/" in b and canonical_id(a) == canonical_id(b)]
    pairs = [pair for pair in files if pair in same] or files or same
    if len(pairs) > 1:
        raise DataError("cannot tell image from mask", where=where, todo="separate them with a tab")
    return pairs[0] if pairs else None


class _Finder:
    """Looks up items by what a list may call them."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._by_name: dict[str, list[Item]] = defaultdict(list)
        self._by_file: dict[str, list[Item]] = defaultdict(list)
        self._by_id: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            self._by_name[item.name].append(item)
            self._by_file[item.image.name].append(item)
            self._by_id[canonical_id(item.name)].append(item)

    def find(self, image: str) -> list[Item]:
        """Return the items that ``image`` may mean: by name, else by the end of the path, else by id."""
        if image in self._by_name:
            return self._by_name[image]
        parts = tuple(part for part in image.replace("\\", "/").split("/") if part not in ("", "."))
        hits = [item for item in self._by_file.get(parts[-1], ()) if item.image.parts[-len(parts) :] == parts]
        # an id alone would take seq2/0001 for seq1/0001: folders must agree unless the id is a published one
        return hits or [i for i in self._by_id.get(canonical_id(image), ()) if same_image(i.name, image)]

    def nearest(self, name: str) -> str:
        """Return the third part of an unknown-name error."""
        near = get_close_matches(stem_path(name), self._by_name, n=1, cutoff=0.5)
        known = f"did you mean {near[0]!r}?" if near else f"names look like {min(self._by_name, default='')!r}"
        return known


def match(split: SplitList, items: Iterable[Item]) -> tuple[Item, ...]:
    """Find the item that each entry of a list names; one item an entry, in the order of the list.

    An entry is looked up by item name, then by the end of the image's path, then by canonical id. Only
    ``items`` are ever returned, so a list cannot point outside the data root.

    Raises:
        DataError: an entry is unknown or ambiguous, or two different entries end at one item.
    """
    items = tuple(items)
    finder = _Finder(items)
    found: list[Item] = []
    first: dict[str, Entry] = {}
    for entry in split.entries:
        where = f"{split.path} line {entry.line_no}"
        hits = finder.find(entry.image)
        if not hits:
            what = f"{entry.image!r} is none of the {len(items)} images it may name"
            raise DataError(what, where=where, todo=finder.nearest(entry.image))
        if len(hits) > 1:
            what = f"{entry.image!r} may be {hits[0].image} or {hits[1].image}"
            raise DataError(what, where=where, todo="write more of the image's path")
        other = first.setdefault(hits[0].name, entry)
        if not same_image(other.image, entry.image):
            what = f"{other.image!r} (line {other.line_no}) and {entry.image!r} both lead to {hits[0].name!r}"
            raise DataError(what, where=where, todo="write item names, as fewmask split does")
        found.append(hits[0])
    return tuple(found)
