"""Masks that come from elsewhere: a folder, an archive or a file of a labelling tool, matched with a data folder."""

from __future__ import annotations

import lzma
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fewmask.batch import IGNORE
from fewmask.data.datayaml import DataYaml
from fewmask.data.declared import load_data_yaml
from fewmask.data.decode import EXTENSIONS, MAX_PIXELS
from fewmask.data.files import hidden, image_files, place_below
from fewmask.data.index import DataIndex, Item
from fewmask.data.layouts import read_folder, with_classes
from fewmask.data.layouts.found import ENDINGS
from fewmask.data.layouts.names import closest, parts_of
from fewmask.data.layouts.tools import MASK_FOLDERS, in_role_folders
from fewmask.data.layouts.unread import export_of
from fewmask.data.masks import read_mask
from fewmask.data.scan import scan
from fewmask.errors import DataError

_LARGEST = 50 * 2**30  # bytes that an archive may unpack to
_FILES = 1_000_000


def open_folder(root: Path, remember: bool = True, declared: DataYaml | None = None) -> DataIndex:
    """Return a data set whose masks have all been looked at, nothing drawn for val.

    Args:
        root: the folder.
        remember: what is found, for the next command; not of a folder that is gone by then.
        declared: as in ``read_folder``.

    Raises:
        DataError: it cannot be read, or a mask is not what it should be.
    """
    index = read_folder(root, val_fraction=0, declared=declared)
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
    if source.is_dir() and _has_images(source):
        return open_folder(source, declared=load_data_yaml(source) or DataYaml(exif=ours.exif))
    inside = scratch / "source"
    if source.is_dir():
        shutil.copytree(source, inside)
    elif zipfile.is_zipfile(source):
        _unpack(source, inside)
    elif source.suffix.lower() == ".json":
        inside.mkdir()
        shutil.copyfile(source, inside / source.name)
    else:
        raise DataError("is no folder, zip archive or JSON", where=source, todo="give what the tool has exported")
    try:
        top = _below_lone_folder(inside)
        if not _has_images(top):
            _refuse_unread(top, source)
            _prepare(top, index)
        return open_folder(top, remember=False, declared=load_data_yaml(top) or _legend_for(top, index.root, ours))
    except DataError as error:  # the user knows nothing of the scratch folder
        what, where = (text.replace(str(inside), str(source)) for text in (error.what, error.where))
        if what.startswith(("no masks folder", "no images folder", "data folder is empty", "holds the archive")):
            raise DataError("is read as no export of masks", where=source, todo=_EXPORT) from error
        raise DataError(what, where=where, todo=error.todo) from error


_EXPORT = (
    'export "Segmentation mask 1.1" or COCO from CVAT, JSON from Label Studio, or PNGs in a folder masks, named as the '
    "images"
)
_LISTS = "ImageSets/Segmentation"


def _has_images(folder: Path) -> bool:
    known = ("images", "JPEGImages", "leftImg8bit", "imagesTr")
    return any((folder / name).is_dir() for name in known) or bool(in_role_folders(folder))


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


def _prepare(top: Path, index: DataIndex) -> None:
    """Put images beside masks, or beside annotations, that came without."""
    for path in (top / _LISTS).glob("*.txt"):  # roles are the data folder's, and an image may be gone from it
        path.unlink()
    loose = [p for p in top.iterdir() if p.is_file() and p.suffix.lower() in EXTENSIONS]
    lone = [p for p in top.iterdir() if p.is_dir() and not hidden(p.name)]
    if loose:
        (top / "masks").mkdir(exist_ok=True)
        for path in loose:
            path.rename(top / "masks" / path.name)
    elif len(lone) == 1 and _is_of_masks(lone[0]) and lone[0].name.lower() not in MASK_FOLDERS:
        if not lone[0].name.startswith("Segmentation"):
            lone[0].rename(top / "masks")
    ours, ends = by_name(index), by_end(index)
    for item in ours.values():
        _link(item.image, place_below(top / "images", f"{item.name}{item.image.suffix}"))
    for folder in top.iterdir():
        if folder.is_dir() and folder.name != "images" and _is_of_masks(folder):
            for name, (mask, *_) in image_files(top, folder.name, []).items():
                bare = next((name.removesuffix(end) for end in ENDINGS if name.endswith(end)), name)
                if name in ours or bare in ours:
                    continue
                # a tool that keeps no folders: the image under the name of the mask; a mask of no image stands for one
                hits = meant(bare, ends)
                image = ours[hits[0]].image if len(hits) == 1 else mask
                _link(image, top / "images" / f"{bare if len(hits) == 1 else name}{image.suffix}")


def _link(file: Path, place: Path) -> None:
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(file.resolve())
    except OSError:  # Windows, without the right to make links
        shutil.copyfile(file, place)


def _legend_for(top: Path, root: Path, ours: DataYaml) -> DataYaml:
    """Return what the data folder says of masks that name their classes nowhere."""
    named = ("classes.txt", "labelmap.txt", "label_colors.txt", "dataset.json")
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


def masked(index: DataIndex) -> list[Item]:
    """Return the items with a mask, of every role, by name."""
    items = (item for found in index.items.values() for item in found if item.mask is not None)
    return sorted(items, key=lambda item: item.name)


def by_name(index: DataIndex) -> dict[str, Item]:
    """Return the items of every role by name."""
    return {item.name: item for found in index.items.values() for item in found}


class Translation:
    """Their masks in our classes; classes meet by name, whatever their case.

    Args:
        found: theirs.
        index: ours.
        source: what errors name.
    """

    def __init__(self, found: DataIndex, index: DataIndex, source: Path) -> None:
        self._found, self._index, self._source = found, index, source
        ours = {name.lower(): i for i, name in enumerate(index.classes)}
        self._table = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        self._unknown = np.zeros(IGNORE + 1, dtype=bool)
        for i, name in enumerate(found.classes):
            self._table[i] = ours.get(name.lower(), IGNORE)
            self._unknown[i] = name.lower() not in ours and name.lower() != "background"

    def read(self, item: Item) -> np.ndarray:
        """Return the mask of one of their items, our class indices uint8 [H, W].

        Raises:
            DataError: it holds a class that is none of ours.
        """
        assert item.mask is not None, "matched() gives masked items"
        mask = read_mask(item.mask, self._found.code)
        if self._unknown[mask].any():
            name = self._found.classes[int(mask[self._unknown[mask]][0])]
            raise DataError(
                f"class {name!r} is none of the data folder's ({', '.join(self._index.classes[:20])})",
                where=self._source, todo="rename it in the tool, or declare it in data.yaml",
            )  # fmt: skip
        return self._table[mask]


def matched(found: DataIndex, index: DataIndex) -> tuple[dict[str, Item], list[str]]:
    """Return their masked items by the name of our image, and the names of those that we do not have.

    Raises:
        DataError: two of them are of one image.
    """
    ours, ends = by_name(index), by_end(index)
    out, unknown = dict[str, Item](), list[str]()
    for item in masked(found):
        short = item.name.removeprefix("images/")
        hits: Sequence[str] = [short] if short in ours else meant(short, ends)
        if len(hits) != 1:
            unknown.append(item.name)
        elif hits[0] in out:
            raise DataError(f"two masks are of image {hits[0]!r}", where=found.root, todo="take one of them away")
        else:
            out[hits[0]] = item
    return out, unknown


Ends = Mapping[str, Mapping[str, Sequence[str]]]
"""Last part of a name to the names that end so, each with its parts."""


def by_end(index: DataIndex) -> Ends:
    """Return the images of every role by the ends of their names."""
    out: dict[str, dict[str, Sequence[str]]] = {}
    for name in by_name(index):
        parts = name.split("/")
        out.setdefault(parts[-1], {})[name] = parts
    return out


def meant(name: str, ends: Ends) -> list[str]:
    """Return those of our images that another name may mean: see ``names.closest``."""
    parts = parts_of(name)
    return closest(parts, ends.get(parts[-1] if parts else "", {}))
