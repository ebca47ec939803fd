"""What the reader of a layout returns, and what they share: images and masks that belong together by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from fewmask.data.files import image_files
from fewmask.data.index import NO_ID, Item, MaskCode, Role
from fewmask.data.roles import roles_by_folder
from fewmask.errors import DataError

DO = "see the layouts in the documentation, or write data.yaml with images: and masks:"
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


def pairs(layout: str, root: Path, image_place: str, mask_place: str) -> Found:
    """Read images and masks of two folders or globs."""
    notes: list[str] = []
    masks = image_files(root, mask_place, notes)
    mask_files = {p for paths in masks.values() for p in paths}
    images = image_files(root, image_place, notes, without=mask_files)
    if not images:
        raise DataError("; ".join([f"no images in {image_place!r}", *notes]), where=root, todo=DO)
    items = join(images, masks, notes)
    if all(i.mask is None for i in items):
        what = f"none of {len(items)} images has a mask of its name in {mask_place!r}"
        what += f" (image {items[0].name!r}, mask {min(masks)!r})" if masks else ", where no mask lies"
        raise DataError("; ".join([what, *notes]), where=root, todo=DO)
    roles, more = roles_by_folder(items, root)
    return Found(layout, roles, notes + more)


def join(images: Files, masks: Files, notes: list[str]) -> list[Item]:
    """Return an item an image, in the order of names, with the mask of its name; a note tells of spare masks."""
    nfc = {normalize("NFC", name): name for name in masks}
    items, used = [], set()
    for name in sorted(images):
        key = name if name in masks else nfc.get(normalize("NFC", name), name)
        used.add(key)
        mask = single(masks[key], "masks") if key in masks else None
        items.append(Item(name, single(images[name], "images"), mask))
    spare = sorted(set(masks) - used)
    if spare:
        notes.append(f"{len(spare)} masks have no image and are left out, first {spare[0]!r}")
    return items


def single(paths: list[Path], kind: str) -> Path:
    """Return the only file of a name.

    Raises:
        DataError: there are two.
    """
    if len(paths) > 1:
        raise DataError(f"two {kind} of one name: {paths[0].name} and {paths[1].name}", where=paths[0].parent)
    return paths[0]


def colour_legend(rows: list[tuple[str, tuple[int, int, int]]], where: Path) -> tuple[tuple[str, ...], MaskCode]:
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


def read_text(path: Path, most: int = 1_000_000) -> str:
    """Return a small text file.

    Raises:
        DataError: it cannot be read, is no UTF-8, or is larger than ``most`` bytes.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
        if len(raw) > most:
            raise DataError(f"is larger than {most} bytes", where=path, todo="is it the right file?")
        return raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text: {error}", where=path, todo="save it as UTF-8") from error
