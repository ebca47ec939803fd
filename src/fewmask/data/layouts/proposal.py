"""What ``images`` and ``masks`` in data.yaml could be, for a folder that no layout reads."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fewmask.data.decode import read_header
from fewmask.data.files import image_files
from fewmask.data.layouts.names import IMAGE_FOLDERS
from fewmask.data.layouts.sources import LOSSLESS
from fewmask.data.layouts.tools import MASK_FOLDERS
from fewmask.data.layouts.wildcards import meeting
from fewmask.errors import DataError

_PHOTOGRAPH = (*IMAGE_FOLDERS, "photo", "frame", "picture", "original", "jpegimages")
_OF_MASKS = re.compile(r"mask|label|segm|semantic|annot|truth|(^|[_-])(gt|lab|y)([_-]|$)")
_OTHER = re.compile(r"instance|panoptic|overlay|visual|human|colou?r|depth")
_LOOKED_AT = 8  # files of a place
_ALIKE = 0.5  # share of the masks that an image must be found for, and of the pictures that must be either

Key = tuple[tuple[str, ...], str]
"""Folders and name of a file, without what images and masks have instead of each other."""


@dataclass(frozen=True)
class _Place:
    """A glob, and the files in it.

    Attributes:
        glob: as data.yaml has it.
        files: by what they have in common with their counterparts.
        named: what tells them from these: a folder, or a part of their names; in lower case.
        below: folders in that folder, in lower case.
    """

    glob: str
    files: Mapping[Key, Path]
    named: str
    below: Collection[str] = ()


Ways = Iterator[tuple[_Place, _Place, int]]
"""Images, masks, and how many meet."""


def proposed(root: Path) -> tuple[str, str] | None:
    """Return globs of images and of masks that meet by name in most files of a folder; None = nothing is evident.

    Folders of images and of masks anywhere, with the same names or with beginnings and ends of their own; or files of
    one folder that differ in their extension, or in what stands before or behind the name.
    """
    pictures = {p.relative_to(root): p for paths in image_files(root, ".", []).values() for p in paths}
    for ways in (_folders, _inside, _called_alike, _extensions, _affixes_in_folder):
        if (best := _best(ways(pictures), len(pictures))) is not None:
            return best
    return None


def _best(ways: Ways, pictures: int) -> tuple[str, str] | None:
    """Return the globs of those under which the most meet, if they hold enough and may be images and masks."""
    best: tuple[tuple[int, bool, bool, bool], tuple[str, str]] | None = None
    for images, masks, met in ways:
        whole = len(images.files) + len(masks.files) > _ALIKE * pictures
        if met < _ALIKE * len(masks.files) or not whole or not _are_masks(masks) or _no_images(images):
            continue
        rank = (met, _OTHER.search(masks.named) is None, images.named in _PHOTOGRAPH, _one_channel(masks))
        if best is None or rank > best[0]:
            best = (rank, (images.glob, masks.glob))
    return None if best is None else best[1]


def _folders(pictures: Mapping[Path, Path]) -> Ways:
    """Yield places that differ in one folder of their paths."""
    found: dict[tuple[int, str], dict[Key, Path]] = defaultdict(dict)
    below: dict[tuple[int, str], set[str]] = defaultdict(set)
    for relative, path in pictures.items():
        *folders, _ = relative.parts
        for k, folder in enumerate(folders):
            below[k, folder].update(name.lower() for name in folders[k + 1 :])
            found[k, folder][(*folders[:k], *folders[k + 1 :]), relative.stem] = path
    for k, one, other in _pairs(found, len(pictures)):
        images, masks, mine, its = found[k, one], found[k, other], _glob(k, one), _glob(k, other)
        met = len(images.keys() & masks.keys())
        if not met and (
            stars := meeting(*(["/".join((*key[0], key[1])) for key in files] for files in (images, masks)))
        ):
            deep = "**/" if k == 0 and any(len(folders) > 0 for folders, _ in (*images, *masks)) else ""
            mine, its = (f"{glob}/{deep}{star}.*" for glob, star in zip((mine, its), stars, strict=True))
            met = len(masks)
        if met:
            yield _Place(mine, images, one.lower(), below[k, one]), _Place(its, masks, other.lower()), met


def _inside(pictures: Mapping[Path, Path]) -> Ways:
    """Yield images, and masks in a folder below theirs: X.jpg with masks/X.png."""
    all_of = {(relative.parts[:-1], relative.stem): path for relative, path in pictures.items()}
    below: dict[str, dict[Key, Path]] = defaultdict(dict)
    for relative, path in pictures.items():
        if not relative.parts[:-1]:
            continue
        *folders, last = relative.parts[:-1]
        if (tuple(folders), relative.stem) in all_of:
            below[last][tuple(folders), relative.stem] = path
    for name, masks in below.items():
        images = {key: path for key, path in all_of.items() if name not in key[0]}
        ends = {path.suffix for path in images.values()}
        end = ends.pop() if len(ends) == 1 else ".*"
        yield _Place(f"**/*{end}", images, ""), _Place(f"**/{name}/*", masks, name.lower()), len(masks)


def _pairs(found: Mapping[tuple[int, str], Mapping[Key, Path]], pictures: int) -> list[tuple[int, str, str]]:
    """Return two folders at one depth that together hold enough of the pictures; there may be thousands of folders."""
    out: dict[tuple[int, str, str], None] = {}
    for (k, one), files in found.items():
        if 2 * len(files) <= _ALIKE * pictures:
            continue  # of two that hold so much, one holds half of it
        for (j, other), others in found.items():
            if j == k and other != one and len(files) + len(others) > _ALIKE * pictures:
                out |= {(k, one, other): None, (k, other, one): None}
    return list(out)


def _glob(k: int, folder: str) -> str:
    return folder if k == 0 else f"**/{folder}/**"


def _called_alike(pictures: Mapping[Path, Path]) -> Ways:
    """Yield the files that each of many folders has: CASE/image.png and CASE/mask.png."""
    called: dict[str, dict[Key, Path]] = defaultdict(dict)
    for relative, path in pictures.items():
        called[relative.name][relative.parts[:-1], ""] = path
    many = len({relative.parent for relative in pictures})
    often = {name: files for name, files in called.items() if len(files) > 1 and 2 * len(files) >= many}
    for one, images in often.items():
        for other, masks in often.items():
            if one != other:
                mine, its = (_Place(f"**/{n}", f, Path(n).stem.lower()) for n, f in ((one, images), (other, masks)))
                yield mine, its, len(images.keys() & masks.keys())


def _extensions(pictures: Mapping[Path, Path]) -> Ways:
    """Yield files of one folder that differ in their extension: X.jpg and X.png."""
    found: dict[str, dict[Key, Path]] = defaultdict(dict)
    for relative, path in pictures.items():
        found[relative.suffix][relative.parts[:-1], relative.stem] = path
    star = "**/*" if any(len(relative.parts) > 1 for relative in pictures) else "*"
    for one, images in found.items():
        for other, masks in found.items():
            if one != other and _one_channel(_Place("", masks, "")):
                mine, its = (_Place(f"{star}{e}", f, "") for e, f in ((one, images), (other, masks)))
                yield mine, its, len(images.keys() & masks.keys())


def _affixes_in_folder(pictures: Mapping[Path, Path]) -> Ways:
    """Yield files of one folder of which some have more in their names: X.png with X_hand.png or label_X.png."""
    by_folder: dict[tuple[str, ...], dict[str, Path]] = defaultdict(dict)
    for relative, path in pictures.items():
        by_folder[relative.parts[:-1]][relative.stem] = path
    more: dict[tuple[str, str, str], dict[Key, Path]] = defaultdict(dict)
    for folder, files in by_folder.items():
        for name, path in files.items():
            for n, c in enumerate(name):
                if c in "_-. " and (n and name[:n] in files or name[n + 1 :] in files):
                    behind = n > 0 and name[:n] in files
                    before, after = ("", name[n:]) if behind else (name[: n + 1], "")
                    more[before, after, path.suffix][folder, name[:n] if behind else name[n + 1 :]] = path
    star = "**/" if any(by_folder.keys() - {()}) else ""
    most = sorted(more, key=lambda affix: (-len(more[affix]), affix))[:_LOOKED_AT]
    for before, after, extension in most:
        masks = more[before, after, extension]
        theirs = set(masks.values())
        rest = {(f, n): p for f, files in by_folder.items() for n, p in files.items() if p not in theirs}
        ends = {path.suffix for path in rest.values()}
        images = _Place(f"{star}*{ends.pop() if len(ends) == 1 else '.*'}", rest, "")
        yield images, _Place(f"{star}{before}*{after}{extension}", masks, before + after), len(masks)


def _no_images(place: _Place) -> bool:
    """Return whether files of a folder are something else than photographs, by its name or by what they look like."""
    if not place.named or place.named in _PHOTOGRAPH:
        return False
    called = any(_OTHER.search(name) or _OF_MASKS.search(name) for name in (place.named, *place.below))
    return called or all(p.suffix.lower() in LOSSLESS for p in place.files.values()) and _one_channel(place)


def _are_masks(place: _Place) -> bool:
    """Return whether files may be masks: of a lossless format, and called so or of one channel."""
    if not all(path.suffix.lower() in LOSSLESS for path in place.files.values()):
        return False
    return place.named in MASK_FOLDERS or _OF_MASKS.search(place.named) is not None or _one_channel(place)


def _one_channel(place: _Place) -> bool:
    """Return whether files have one channel, as some of them show."""
    paths = list(place.files.values())
    return all(_is_of_one(path) for path in paths[:: max(1, len(paths) // _LOOKED_AT)])


def _is_of_one(path: Path) -> bool:
    try:
        mode = read_header(path).mode
    except DataError:
        return False
    return mode in ("L", "P", "1") or mode.startswith("I")
