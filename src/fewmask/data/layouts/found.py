"""What the reader of a layout returns, and what they share: images and masks that belong together by name."""

from __future__ import annotations

import os
import re
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any
from unicodedata import normalize

from fewmask.config import load_json
from fewmask.data.colours import Colour
from fewmask.data.decode import EXTENSIONS
from fewmask.data.files import image_files
from fewmask.data.findings import Finding, Remark
from fewmask.data.index import NO_ID, Item, MaskCode, Role
from fewmask.data.layouts.wildcards import meeting
from fewmask.data.palette import palette
from fewmask.data.roles import roles_by_folder
from fewmask.errors import DataError

DO = "see the layouts in docs/data.md, or write data.yaml with images: and masks: (globs, or an index file of pairs)"
_ANNOTATIONS = 4 * 2**30  # bytes of the largest file of annotations
ENDINGS = ("_mask", "-mask", "_masks", "-masks", "_label", "_labels", "-label", "-labels", "_lab", "_seg",
           "_segmentation", "_gt", "_annotation", "_anno")  # fmt: skip
"""What the name of a mask may have after that of its image, in whatever case."""
_LONGEST_FIRST = sorted(ENDINGS, key=len, reverse=True)
OF_IMAGES = ("", "_sat", "_image", "_img")
"""What the name of an image may have, where its mask's has such an ending."""
VOID = ("ignore", "ignored", "void", "unlabelled", "unlabeled")
"""Names, in lower case, of colours that do not count."""


@dataclass
class Found:
    """Images, before groups and the drawing of "val".

    Attributes:
        layout: its name.
        roles: per role the images.
        notes: sentences for the reader.
        classes: names, where the layout has them.
        code: how its masks spell them.
    """

    layout: str
    roles: dict[Role, list[Item]]
    notes: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    code: MaskCode = field(default_factory=MaskCode)


Files = Mapping[str, list[Path]]
"""Name of an image to its files; more than one is an error."""


def ending(name: str) -> str:
    """Return what the name of a mask has after that of its image, as it is spelled there; "" = nothing known."""
    low = name.lower()
    return next((name[-len(e) :] for e in _LONGEST_FIRST if low.endswith(e)), "")


def pairs(layout: str, root: Path, image_place: str, mask_place: str) -> Found:
    """Read images and masks of two folders or globs."""
    notes: list[str] = []
    masks = image_files(root, mask_place, notes)
    mask_files = {p for paths in masks.values() for p in paths}
    images = image_files(root, image_place, notes, without=mask_files)
    if not images:
        raise DataError("; ".join([f"no images in {image_place!r}", *notes]), where=root, todo=DO)
    items = join(images, with_image_names(images, masks, root / mask_place, notes), notes)
    if all(i.mask is None for i in items):
        what = f"none of {len(items)} images has a mask of its name in {mask_place!r}"
        what += f" (image {items[0].name!r}, mask {min(masks)!r})" if masks else ", where no mask lies"
        raise DataError("; ".join([what, *notes]), where=root, todo=_globs(image_place, mask_place, images, masks))
    roles, more = roles_by_folder(items, root)
    return Found(layout, roles, notes + more)


def _globs(image_place: str, mask_place: str, images: Files, masks: Files) -> str:
    """Return what to do where no image has a mask of its name: globs under which they meet, if there are such."""
    if "*" in image_place + mask_place or (stars := meeting(images, masks)) is None:
        return DO
    deep = "**/" if any("/" in name for name in (*images, *masks)) else ""
    mine, its = (f"{place}/{deep}{star}.*" for place, star in zip((image_place, mask_place), stars, strict=True))
    return f"if these are the images and their masks, write in data.yaml: images: {mine!r} and masks: {its!r}"


def with_image_names(images: Files, masks: Files, where: Path, notes: list[str]) -> Files:
    """Return masks under the names of their images: X_mask.png is the mask of X.jpg, and so is X.jpg.png.

    Args:
        images: by name.
        masks: by name.
        where: the folder of the masks.
        notes: gets a sentence where there is such an ending.

    Raises:
        DataError: there are several endings, or an image has two masks.
    """
    out, found = dict(masks), dict[str, str]()  # found: ending to the first mask that has it
    for name in sorted(masks):
        bare, dot, extension = name.rpartition(".")
        whole = dot and f".{extension.lower()}" in EXTENSIONS  # the name of the image's file
        if whole and bare in images and name not in images and bare not in masks:
            out[bare] = out.pop(name)
            continue
        end = ending(name)
        hit = next((n for o in OF_IMAGES if (n := name.removesuffix(end) + o) in images), None) if end else None
        if hit is None:
            continue
        found.setdefault(end, name)
        if hit in masks or name in images or len(found) > 1:
            others = [hit] if hit in masks else [n for n in found.values() if n != name]
            what = f"{name!r} and {others[0]!r} may both be masks" if others else f"{name!r} is an image and a mask"
            raise DataError(
                f"{what}: is {name!r} the mask of the image {hit!r}?", where=where,
                todo=f"take one of them away, or write data.yaml with masks: FOLDER/*{end}.png",
            )  # fmt: skip
        out[hit] = out.pop(name)
    notes += [f"masks are called like their images and {end}" for end in found]
    return out


def join(images: Files, masks: Files, notes: list[str]) -> list[Item]:
    """Return an item an image, in the order of names, with the mask of its name; a note tells of spare masks."""
    nfc = {normalize("NFC", name): name for name in masks}
    keys = {name: name if name in masks else nfc.get(normalize("NFC", name), name) for name in sorted(images)}
    used = set(keys.values())
    check_single(images, "images")
    check_single({key: masks[key] for key in used if key in masks}, "masks")
    items = [Item(name, images[name][0], masks[key][0] if key in masks else None) for name, key in keys.items()]
    spare = sorted(set(masks) - used)
    if spare:
        bare = [i.name for i in items if i.mask is None]
        each = [_spare(masks[name][0], name, bare) for name in spare]
        notes.append(Remark(f"{len(spare)} masks have no image and are left out, first {spare[0]!r}", each))
    return items


def _spare(mask: Path, name: str, bare: Sequence[str]) -> Finding:
    """Return the finding about a mask that no image has; with one of those without a mask if only its case differs."""
    alike = next((image for image in bare if image.casefold() == name.casefold()), None)
    if alike is None:
        todo = "name it as its image, or take it away"
        return Finding("mask_without_image", "the mask belongs to no image", str(mask), todo, name)
    what, todo = f"the mask is named as image {alike!r} in another case", "give both the same name: case counts"
    return Finding("mask_without_image", what, str(mask), f"{todo}, and the image has no mask now", name, alike)


def check_single(files: Files, kind: str) -> None:
    """Refuse names of two files or more.

    Raises:
        DataError: there are such; it names the first three, all of which are to be settled.
    """
    twice = [paths for _, paths in sorted(files.items()) if len(paths) > 1]
    if twice:
        place = Path(os.path.commonpath([path.parent for paths in twice for path in paths]))
        told = ", ".join(" and ".join(str(p.relative_to(place)) for p in paths) for paths in twice[:3])
        more = f", and {len(twice) - 3} more" if len(twice) > 3 else ""
        raise DataError(
            f"two {kind} of one name: {told}{more}", where=place,
            todo="rename or take away one of each: a mask belongs to the image of its name, whatever the endings",
        )  # fmt: skip


def single(paths: list[Path], kind: str) -> Path:
    """Return the only file of a name.

    Raises:
        DataError: there are two.
    """
    check_single({"": paths}, kind)
    return paths[0]


def colour_legend(rows: Sequence[tuple[str, Colour]], where: Path) -> tuple[tuple[str, ...], MaskCode]:
    """Return class names and the code of masks that spell them as colours; names of ``VOID`` do not count.

    Args:
        rows: (name, colour) in the order of the classes.
        where: the file that says so.

    Raises:
        DataError: no class, or one colour for two of them.
    """
    names = [name for name, _ in rows if name.lower() not in VOID]
    colours = {colour: NO_ID if name.lower() in VOID else names.index(name) for name, colour in rows}
    if not names or len(colours) < len(rows) or len(set(names)) < len(names):
        what = "one colour, or one class, stands there twice" if names else "names no class"
        raise DataError(what, where=where, todo="mend the file, or write classes and colours in data.yaml")
    return tuple(names), MaskCode(colours=tuple(colours.items()))


def id_legend(labels: Sequence[str], where: Path) -> tuple[tuple[str, ...], MaskCode]:
    """Return class names and the code of masks whose ids count a list; names of ``VOID`` do not count.

    Raises:
        DataError: no class, or one name twice.
    """
    names = [name for name in labels if name.lower() not in VOID]
    void = tuple(i for i, name in enumerate(labels) if name.lower() in VOID)
    if not names or len(set(names)) < len(names):
        what = "one class stands there twice" if names else "names no class"
        raise DataError(what, where=where, todo="mend the file, or write classes in data.yaml")
    return tuple(names), MaskCode(void, tuple((labels.index(name), k) for k, name in enumerate(names)))


def colour_rows(path: Path) -> list[tuple[str, Colour]]:
    """Return (name, colour) of every line "R G B NAME" of label_colors.txt.

    Where every line is a name alone, as Datumaro writes them, the colours are those of PASCAL VOC in this order.

    Raises:
        DataError: another line.
    """
    rows: list[tuple[str, tuple[int, ...] | None]] = []
    for n, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"\s*(?:(\d+)\s+(\d+)\s+(\d+)\s+)?(\S.*?)\s*", line, re.ASCII)
        colour = tuple(map(int, found.groups()[:3])) if found is not None and found[1] else None
        if found is None or max(colour or (0,)) > 255:
            raise DataError(f"line {n} is no R G B NAME", where=path, todo="write for example 128 0 0 crop")
        rows.append((found[4], colour))
    return with_colours(rows, path)


def with_colours(rows: Sequence[tuple[str, tuple[int, ...] | None]], where: Path) -> list[tuple[str, Colour]]:
    """Return rows with the colours of PASCAL VOC where none of them has one.

    Raises:
        DataError: some have one, some have none.
    """
    if lacking := [name for name, colour in rows if colour is None]:
        if len(lacking) < len(rows):
            raise DataError(f"{lacking[0]!r} has no colour, others have", where=where, todo="write R, G and B for it")
        rows = [(name, tuple(palette()[n].tolist())) for n, (name, _) in enumerate(rows)]
    return [(name, (colour[0], colour[1], colour[2])) for name, colour in rows if colour is not None]


def read_text(path: Path, most: int = 1_000_000) -> str:
    """Return a small text file.

    Raises:
        DataError: it cannot be read, is no UTF-8, or is larger than ``most`` bytes.
    """
    try:
        if not S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device never ends
            raise DataError("is no regular file", where=path, todo="replace or remove it")
        with path.open("rb") as file:
            raw = file.read(most + 1)
        if len(raw) > most:
            raise DataError(f"is larger than {most} bytes", where=path, todo="is it the right file?")
        return raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text: {error}", where=path, todo="save it as UTF-8") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file of annotations holds.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        return load_json(read_text(path, most=_ANNOTATIONS))
    except ValueError as error:
        raise DataError(f"is no JSON: {str(error)[:200]}", where=path, todo="export it again") from error


def begins(path: Path) -> str:
    """Return the first character of a text that is no blank, "" = none: what kind of JSON it holds, unparsed.

    Annotations may have hundreds of megabytes, and a list is none of COCO's, nor an object one of Label Studio's.
    """
    if not path.is_file():  # a pipe would be waited for
        return ""
    try:
        with path.open("rb") as file:
            return file.read(256).removeprefix(BOM_UTF8).lstrip()[:1].decode("ascii", "replace")
    except OSError:
        return ""
