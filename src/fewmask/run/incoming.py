"""Masks that come from elsewhere: a folder, an archive or a file of a labelling tool, matched with a data folder."""

from __future__ import annotations

import lzma
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fewmask.data.datayaml import DataYaml
from fewmask.data.declared import load_data_yaml
from fewmask.data.decode import EXTENSIONS, MAX_PIXELS
from fewmask.data.files import hidden, image_files, place_below
from fewmask.data.index import ROLES, DataIndex, Item, Role
from fewmask.data.layouts import read_folder, with_classes
from fewmask.data.layouts.found import ending, single
from fewmask.data.layouts.names import by_end
from fewmask.data.layouts.published import voc_root
from fewmask.data.layouts.tables import CLASS_TABLES, COLOUR_TABLE
from fewmask.data.layouts.tools import MASK_FOLDERS, in_role_folders
from fewmask.data.layouts.unread import export_of
from fewmask.data.roles import role_folder
from fewmask.data.scan import scan
from fewmask.data.writers.annotated import UNLABELLED
from fewmask.errors import DataError
from fewmask.run.matching import OPEN_CLASS, by_name, masked, meant
from fewmask.run.recolour import as_ids

_LARGEST = 50 * 2**30  # bytes that an archive may unpack to
_FILES = 1_000_000


def open_folder(
    root: Path, remember: bool = True, declared: DataYaml | None = None, scratch: Path | None = None
) -> DataIndex:  # fmt: skip
    """Return a data set whose masks have all been looked at, nothing drawn for val, images without a mask in any role.

    Args:
        root: the folder.
        remember: what is found, for the next command; not of a folder that is gone by then.
        declared: as in ``read_folder``.
        scratch: an empty folder for masks that an editor has saved again, which are taken for what they show then; see
            ``recolour.as_ids``.

    Raises:
        DataError: it cannot be read, or a mask is not what it should be.
    """
    index = read_folder(root, val_fraction=None, declared=declared, unmasked=True)
    index = index if scratch is None else as_ids(index, scratch)
    cache = None if remember else False
    counts = scan(masked(index), len(index.classes) or None, index.code, cache=cache, exif=index.exif)
    counts.raise_first()
    return with_classes(index, counts)


def open_source(source: Path, index: DataIndex, scratch: Path, declared: DataYaml | None = None) -> DataIndex:
    """Read what a tool gave back; images that it lacks are those of the data folder.

    Args:
        source: a folder, a zip archive or a JSON file, in any layout that is read; or masks alone, PNGs named as the
            images. Which role an image has there is no matter. Where the source does not say whether an EXIF
            orientation counts, and what the ids of its masks are called, the data folder does.
        index: the data folder.
        scratch: an empty folder, kept as long as the result is used.
        declared: what counts in place of the data folder's data.yaml; None reads its own.

    Raises:
        DataError: it cannot be read, or is no such thing.
    """
    if not source.exists():
        raise DataError("no such folder or archive", where=source, todo="check the path")
    ours = declared or load_data_yaml(index.root) or DataYaml()
    partial = index.code.unlabelled is not None
    masks, inside, own = scratch / "masks", scratch / "source", source.is_dir() and _has_images(source)
    if own and not (partial and _with_open_label(source)):
        return open_folder(source, declared=load_data_yaml(source) or DataYaml(exif=ours.exif), scratch=masks)
    if source.is_dir():
        shutil.copytree(source, inside, copy_function=_link if own else shutil.copyfile)
    elif zipfile.is_zipfile(source):
        _unpack(source, inside)
    elif source.suffix.lower() == ".json":
        inside.mkdir(parents=True)
        shutil.copyfile(source, inside / source.name)
    else:
        raise DataError("is no folder, zip archive or JSON", where=source, todo="give what the tool has exported")
    try:
        top, strays = _below_lone_folder(inside), dict[str, str]()
        if partial:
            _rename_open_label(top)
        if not _has_images(top):
            _refuse_unread(top, source)
            _refuse_several(top, source)
            strays = _prepare(top, index)
        told = load_data_yaml(top) or _legend_for(top, index.root, ours)
        return _as_called(open_folder(top, remember=False, declared=told, scratch=masks), strays)
    except DataError as error:  # the user knows nothing of the scratch folder
        what, where, todo = (_as_given(text, inside, source) for text in (error.what, error.where, error.todo))
        if what.startswith(("no masks folder", "no images folder", "data folder is empty", "holds the archive")):
            raise DataError("is read as no export of masks", where=source, todo=_EXPORT) from error
        raise DataError(what, where=where, todo=todo) from error


def _as_given(text: str, inside: Path, source: Path) -> str:
    """Return a text that names what the user has given, and not its copy: a file stands there under its own name."""
    for place in [inside / source.name, inside] if source.is_file() else [inside]:
        text = text.replace(str(place), str(source))
    return text


def remarks(found: DataIndex) -> list[str]:
    """Return what was decided while masks were read that came in; of images and other files nobody asks there."""
    return [
        str(note) for note in found.notes
        if not any(one.kind in ("image_without_mask", "other_file") for one in getattr(note, "findings", ()))
    ]  # fmt: skip


_EXPORT = (
    'export "Segmentation mask 1.1" or COCO from CVAT, JSON from Label Studio, or PNGs in a folder masks, named as the '
    "images"
)
_LISTS = "ImageSets/Segmentation"


def _has_images(folder: Path) -> bool:
    """Return whether an export has images of its own; that of several tasks has them in each."""
    parts = [p for p in folder.iterdir() if p.is_dir() and not hidden(p.name)]
    return _holds_images(folder) or (len(parts) > 1 and all(map(_holds_images, parts)))


def _holds_images(folder: Path) -> bool:
    known = ("images", "JPEGImages", "leftImg8bit", "imagesTr")
    return any((folder / name).is_dir() for name in known) or bool(in_role_folders(folder))


def _refuse_several(top: Path, source: Path) -> None:
    """Refuse the exports of several tasks without images: each is read with the images that it is of.

    Raises:
        DataError: they are such.
    """
    tasks = [p.name for p in sorted(top.iterdir()) if p.is_dir() and (voc_root(p) or any(p.glob("annotations/*.json")))]
    if len(tasks) > 1:
        todo = f"take one after the other: fewmask labels import {source / tasks[0]} DIR"
        raise DataError(f"holds the exports of {len(tasks)} tasks, {', '.join(tasks[:5])}", where=source, todo=todo)


def _below_lone_folder(folder: Path) -> Path:
    """Return the folder that holds the export: zipping a folder puts it below one more."""
    while True:
        inside = [p for p in folder.iterdir() if not hidden(p.name)]
        if len(inside) != 1 or not inside[0].is_dir() or _is_of_masks(inside[0]):
            return folder
        folder = inside[0]


def _is_of_masks(folder: Path) -> bool:
    """Return whether a folder holds masks: it is called so, or there are pictures in it."""
    called = folder.name.lower() in MASK_FOLDERS or folder.name.startswith("SegmentationClass")
    return called or any(p.suffix.lower() in EXTENSIONS for p in folder.iterdir() if p.is_file())


def _refuse_unread(top: Path, source: Path) -> None:
    """Name the export that is wanted, where another kind of a known tool was given.

    Raises:
        DataError: it was.
    """
    if (known := export_of(top, beside_images=False)) is not None:
        raise DataError(f"holds {known[0]}", where=source, todo=known[1])


def _prepare(top: Path, index: DataIndex) -> dict[str, str]:
    """Put images beside masks, or beside annotations, that came without.

    Returns:
        Where masks of no image of ours had to be called otherwise: their new names to the old ones.
    """
    for path in (top / _LISTS).glob("*.txt"):  # roles are the data folder's, and an image may be gone from it
        path.unlink()
    loose = [p for p in top.iterdir() if p.is_file() and p.suffix.lower() in EXTENSIONS]
    lone = [p for p in top.iterdir() if p.is_dir() and not hidden(p.name)]
    if not any(folder.name.lower() in MASK_FOLDERS for folder in lone):
        loose += [p for p in lone if role_folder(f"{p.name}/x") and image_files(top, p.name, [])]
    if loose:
        (top / "masks").mkdir(exist_ok=True)
        for path in loose:
            path.rename(top / "masks" / path.name)
    elif len(lone) == 1 and _is_of_masks(lone[0]) and lone[0].name.lower() not in MASK_FOLDERS:
        if not lone[0].name.startswith("Segmentation"):
            lone[0].rename(top / "masks")
    strays = dict[str, str]()
    for item in by_name(index).values():
        _link(item.image, place_below(top / "images", f"{item.name}{item.image.suffix}"))
    for folder in top.iterdir():
        if folder.is_dir() and folder.name != "images" and _is_of_masks(folder):
            strays |= _with_images(top, folder, index)
    return strays


def _with_images(top: Path, folder: Path, index: DataIndex) -> dict[str, str]:
    """Call the masks of a folder as our images, where a tool keeps no folders; one of no image stands for one.

    Returns:
        See ``_prepare``.
    """
    ours, strays = by_name(index), dict[str, str]()
    ends = by_end(ours)
    in_roles, keeps = any(map(role_folder, ours)), folder.name.startswith("Segmentation")
    for name, files in image_files(top, folder.name, []).items():
        bare = name.removesuffix(ending(name))
        if name in ours or bare in ours:
            continue
        mask, hits = single(files, "masks"), meant(bare, ends)
        clear = len(hits) == 1
        if keeps:  # lists there name them as they are
            image, called = (ours[hits[0]].image, bare) if clear else (mask, name)
        else:
            # beside folders train, val and test no mask may lie outside these
            called = hits[0] if clear else f"train/{name}" if in_roles and not role_folder(name) else name
            target = folder / f"{called}{mask.suffix}"
            if target != mask and any(p.stem == target.stem for p in target.parent.glob("*")):
                raise DataError(f"two masks are of image {called!r}", where=mask, todo="take one of them away")
            target.parent.mkdir(parents=True, exist_ok=True)
            image, mask = (ours[called].image if clear else target), mask.rename(target)
            strays |= {} if clear else {called: name}
        _link(image, top / "images" / f"{called}{image.suffix}")
    return strays


def _as_called(index: DataIndex, names: Mapping[str, str]) -> DataIndex:
    """Return a data set in which items are called otherwise."""
    items: dict[Role, tuple[Item, ...]] = {
        role: tuple(replace(item, name=names.get(item.name, item.name)) for item in index.items[role]) for role in ROLES
    }
    return replace(index, items=items)


_OPEN_LABEL = UNLABELLED.encode()
_LABELMAP = re.compile(rb"(?m)^%b(?=:)" % _OPEN_LABEL)


def _with_open_label(folder: Path) -> list[Path]:
    """Return the files that give a label to pixels that nobody has labelled."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.name == "labelmap.txt" or p.suffix.lower() == ".json"):
        text = path.read_bytes() if path.is_file() else b""
        if _LABELMAP.search(text) if path.name == "labelmap.txt" else b'"%b"' % _OPEN_LABEL in text:
            found.append(path)
    return found


def _rename_open_label(folder: Path) -> None:
    """Keep that label apart from void, for a data folder that has an id for such pixels."""
    for path in _with_open_label(folder):
        text, called = path.read_bytes(), OPEN_CLASS.encode()
        path.unlink()  # it may be a link
        text = _LABELMAP.sub(called, text) if path.name == "labelmap.txt" else text.replace(
            b'"%b"' % _OPEN_LABEL, b'"%b"' % called
        )  # fmt: skip
        path.write_bytes(text)


def _link(file: str | Path, place: str | Path) -> None:
    """Make a file appear at another place, too; nothing where something is there."""
    file, place = Path(file), Path(place)
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(file.resolve())
    except OSError:  # Windows, without the right to make links
        shutil.copyfile(file, place)


def _legend_for(top: Path, root: Path, ours: DataYaml) -> DataYaml:
    """Return what the data folder says of masks that name their classes nowhere."""
    named = ("classes.txt", "labelmap.txt", COLOUR_TABLE, *CLASS_TABLES, "dataset.json")
    if any((top / name).is_file() for name in named) or any(top.rglob("*.json")) or any(top.rglob("_classes.csv")):
        return DataYaml(exif=ours.exif)
    if (root / "classes.txt").is_file():
        shutil.copyfile(root / "classes.txt", top / "classes.txt")
    same = ("exif", "classes", "ignore", "unlabelled_id", "colours")
    return DataYaml.model_construct(**{key: getattr(ours, key) for key in same})


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip archive, if it stays in the folder and is of a size that masks have."""
    try:
        _unpack_all(archive, folder)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
        # the last two: a way of packing that nobody here knows, or a password
        raise DataError(
            f"cannot be unpacked: {error}", where=archive, todo="export it again, as a plain zip"
        ) from error


def _unpack_all(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        entries = [entry for entry in file.infolist() if not entry.is_dir()]
        if len(entries) > _FILES or sum(entry.file_size for entry in entries) > _LARGEST:
            raise DataError("the archive is larger than masks are", where=archive, todo="unpack it and give the folder")
        for entry in entries:
            target = (folder / entry.filename).resolve()
            if not target.is_relative_to(folder.resolve()):
                what = f"{entry.filename[:200]!r} leads out of the archive"
                raise DataError(what, where=archive, todo="do not use it")
            if entry.file_size > 4 * MAX_PIXELS:
                what = f"{entry.filename[:200]!r} is larger than any mask"
                raise DataError(what, where=archive, todo="unpack it and give the folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open(entry) as stream, target.open("wb") as out:
                shutil.copyfileobj(stream, out)
