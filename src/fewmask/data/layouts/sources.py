"""Two kinds of annotation of the same images: outlines in a JSON file, and masks. Which one counts is never guessed."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePosixPath

from fewmask.data.files import hidden, image_files
from fewmask.data.index import Item
from fewmask.data.layouts import coco, labelstudio
from fewmask.data.layouts.found import Found, ending
from fewmask.data.layouts.names import Names
from fewmask.data.layouts.tools import MASK_FOLDERS
from fewmask.errors import DataError

KEYS = {"yolo polygons": "yolo", "label studio": "labelstudio", "datumaro": "datumaro", "coco": "coco"}
"""Layouts whose masks are drawn from shapes, and what ``layout`` in data.yaml calls them."""
NO_MASKS = ("segmentationobject", "segmentationclassaug")  # instances, and what VOC's reader takes itself
LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")


def settle(root: Path, found: Found, layout: str | None, chosen: bool) -> None:
    """Stop where the images that a layout reads have annotations of another kind; where it was chosen, a note tells.

    Args:
        root: the data folder.
        found: what was read; of masks that lie among its images none stays.
        layout: what ``layout`` in data.yaml would be for it; None = only the keys images and masks can ask for it.
        chosen: the owner has declared it, or made the folders that are the default.

    Raises:
        DataError: nobody has chosen, and there are two.
    """
    items = [item for role in found.roles.values() for item in role]
    others = _outlines(root, items, found.layout)
    if found.layout in KEYS and (masks := _masks(root, items)):
        first = min(masks)
        others.append((f"masks such as {first.relative_to(root).as_posix()!r}", len(masks), _as_masks(root, first)))
        for role, own in found.roles.items():
            found.roles[role] = [item for item in own if item.image not in masks]
    for what, count, asks in others:
        if chosen:
            here = "the masks in folders are" if layout == "folders" else "what data.yaml names is"
            choice = f" (data.yaml chooses: {asks})" if layout == "folders" else ""
            found.notes.append(f"{here} read; {count} images have annotations in {what} too, which are not{choice}")
            continue
        mine = f"layout: {layout}" if layout is not None else "images: and masks: with the folders"
        raise DataError(
            f"{count} images are annotated twice: the folder can be read as {found.layout!r}, or by {what}",
            where=root, todo=f"write in data.yaml: {mine}, or {asks}; or take one of them away",
        )  # fmt: skip


def is_of_masks(name: str) -> bool:
    """Return whether a file's folders say that it is a mask."""
    folders = [part.lower() for part in name.split("/")[:-1]]
    return any(hidden(f) or f in MASK_FOLDERS or "segmentation" in f or f.endswith("annot") for f in folders)


def drawn_for(names: Collection[str], images: Collection[str]) -> list[str]:
    """Return which files are masks of images, by what they and their folders are called.

    Args:
        names: of the files, without extension.
        images: names of the images.
    """
    last = {name.rpartition("/")[2] for name in images}
    out = []
    for name in names:
        folder, _, own = name.rpartition("/")
        bare = own.removesuffix(ending(own))
        lies = is_of_masks(name) and not any(part.lower() in NO_MASKS for part in folder.split("/"))
        if (lies and last & {own, bare}) or (bare != own and (f"{folder}/{bare}" if folder else bare) in images):
            out.append(name)
    return out


def _masks(root: Path, items: Collection[Item]) -> set[Path]:
    """Return the mask files of images whose masks are drawn from shapes."""
    every = {
        name: paths[0] for name, paths in image_files(root, ".", []).items() if paths[0].suffix.lower() in LOSSLESS
    }
    pictures = {item.image.relative_to(root).with_suffix("").as_posix() for item in items}
    pictures = {name for name in pictures if not is_of_masks(name)}
    return {every[name] for name in drawn_for(every, pictures)}


def _as_masks(root: Path, mask: Path) -> str:
    """Return what in data.yaml asks for masks: the layout of folders, or the places of such a file and its images."""
    if (root / "images").is_dir() and (root / "masks") in mask.parents:
        return "layout: folders"
    place = PurePosixPath(mask.relative_to(root).as_posix())
    end = ending(place.stem)
    if not is_of_masks(place.as_posix()):
        return f"layout: beside (masks X{end}{place.suffix} beside X)"
    return f"masks: {(place.parent / f'*{end}{place.suffix}').as_posix()!r} and images: with the place of the images"


def _outlines(root: Path, items: Collection[Item], layout: str) -> list[tuple[str, int, str]]:
    """Return (file, how many of the images it outlines, what in data.yaml asks for it) of files that are not read."""
    names = {
        item.image.relative_to(root).with_suffix("").as_posix(): [item.image] for item in items if _below(item, root)
    }
    kinds = {"coco": coco.outlined, "labelstudio": labelstudio.outlined}
    found: list[tuple[str, int, str]] = []
    for key, files_of in kinds.items():
        if KEYS.get(layout) == key:
            continue
        for path, files in files_of(root).items():
            finder, hits = Names(names, root), set[str]()
            for file in files:
                with suppress(DataError):  # may be two of them
                    hits |= {
                        hit
                        for name in (file, file.rpartition("/")[2].partition("-")[2])
                        if (hit := finder.find(name, path))
                    }
            if hits:
                found.append((repr(path.relative_to(root).as_posix()), len(hits), f"layout: {key}"))
    return found


def _below(item: Item, root: Path) -> bool:
    return isinstance(item.image, Path) and item.image.is_relative_to(root)
