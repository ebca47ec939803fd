"""Which layout a folder has: told by files of its own, by the names of folders, or by what its owner declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fewmask.data.datayaml import FILE_NAME, DataYaml
from fewmask.data.files import hidden
from fewmask.data.layouts import (
    coco,
    datumaro,
    huggingface,
    labelstudio,
    listed,
    parts,
    published,
    sources,
    tables,
    tools,
    unread,
    yolo,
)
from fewmask.data.layouts.found import DO, Found, pairs
from fewmask.errors import ConfigError, DataError


@dataclass(frozen=True)
class _Layout:
    """A layout that is recognised by files of its own.

    Attributes:
        key: what ``layout`` in data.yaml calls it.
        name: for messages.
        fits: whether a folder has them.
        read: reads the folder.
    """

    key: str
    name: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], Found]


def _voc(root: Path) -> Found:
    place = published.voc_root(root)
    assert place is not None, "asked for where it fits"
    return published.voc(place)


_LAYOUTS = (
    _Layout("voc", "PASCAL VOC (or an export of CVAT)", lambda root: published.voc_root(root) is not None, _voc),
    _Layout("cityscapes", "Cityscapes", lambda root: (root / "leftImg8bit").is_dir(), published.cityscapes),
    _Layout("ade20k", "ADE20K", published.is_ade20k, published.ade20k),
    _Layout("camvid", "CamVid", published.is_camvid, published.camvid),
    _Layout("nnunet", "nnU-Net", tools.is_nnunet, tools.nnunet),
    _Layout("roboflow", "an export of Roboflow", tools.is_roboflow, tools.roboflow),
    _Layout("datumaro", "Datumaro's JSON", datumaro.is_datumaro, datumaro.datumaro),
    _Layout("huggingface", "an image folder of Hugging Face", huggingface.is_huggingface, huggingface.huggingface),
)


def _layouts(declared: DataYaml) -> list[_Layout]:
    """Return the layouts; of polygons the file that names the classes may lie elsewhere than the data."""
    name = "polygons of Ultralytics"
    return [*_LAYOUTS, _Layout("yolo", name, lambda r: yolo.is_yolo(r, declared), lambda r: yolo.yolo(r, declared))]


def signs_of(root: Path, declared: DataYaml) -> list[_Layout]:
    """Return the layouts whose own files a folder has."""
    return [layout for layout in _layouts(declared) if layout.fits(root)]


def read_layout(root: Path, declared: DataYaml) -> Found:
    """Read a folder as what it is declared to be, or looks like.

    Raises:
        DataError: it looks like nothing, or like two layouts, or its images have annotations of two kinds; see also the
            layouts.
        ConfigError: what is declared contradicts itself.
    """
    if (found := _alone(root, declared)) is not None:
        return found
    if (found := parts.read_parts(root, _alone)) is not None:
        if not found.classes:
            _name_classes(root, found, declared)
        return found
    unread.refuse(root)


def _alone(root: Path, declared: DataYaml) -> Found | None:
    """Read a folder that is no folder of such ones; None where it looks like nothing."""
    if declared.layout is not None and (declared.images is not None or declared.masks is not None):
        where = declared.aside or root / FILE_NAME
        raise ConfigError("layout, and images or masks, say the same twice", where=where, todo="leave one of them away")
    if declared.images is not None and declared.images.endswith(listed.SUFFIX):
        if declared.masks not in (None, declared.images):
            what = "images is an index file, which names the masks too, and masks is something else"
            raise ConfigError(what, where=declared.aside or root / FILE_NAME, todo="leave masks away")
        return listed.listed(root, declared.images, declared.aside)
    if declared.images is not None or declared.masks is not None:
        key, found = None, pairs("data.yaml", root, declared.images or "images", declared.masks or "masks")
    elif declared.layout is not None:
        key, found = declared.layout, _as(declared.layout, root, declared)
    elif (known := _recognised(root, declared)) is not None:
        key, found = known
    else:
        return None
    if key in ("folders", None):
        _name_classes(root, found, declared)
    plain = key == "folders" and _places(root) == _OURS  # made for this program
    sources.settle(root, found, key, chosen=plain or declared.layout is not None or key is None)
    return found


def _name_classes(root: Path, found: Found, declared: DataYaml) -> None:
    """Take the classes from a table beside folders of images and masks, unless the owner names them."""
    if not (declared.classes or declared.colours or declared.ignore or (root / "classes.txt").is_file()):
        tables.name_by_table(root, found)


def _as(key: str, root: Path, declared: DataYaml) -> Found:
    """Read a folder as the layout that its owner names.

    Raises:
        DataError: it is none.
    """
    readers: Mapping[str, Callable[[Path], Found | None]] = {
        "folders": _folders, "coco": coco.coco, "labelstudio": labelstudio.label_studio, "beside": tools.beside,
        **{layout.key: layout.read for layout in _layouts(declared) if layout.fits(root)},
    }  # fmt: skip
    found = readers[key](root) if key in readers else None
    if found is None:
        where = declared.aside or root / FILE_NAME
        raise DataError(f"{root} cannot be read as layout: {key}, whose files are not there", where=where, todo=DO)
    return found


def _folders(root: Path) -> Found | None:
    """Read folders of images and of masks, or such folders in each role; None where there are none."""
    if (places := _places(root)) is None:
        inside = tools.in_role_folders(root)
        return tools.inside_roles(root, inside) if inside else None
    found = pairs("folders", root, *places)
    found.notes += [] if places == _OURS else [f"images in {places[0]!r}, masks in {places[1]!r}"]
    return found


_OURS = ("images", "masks")


def _places(root: Path) -> tuple[str, str] | None:
    """Return the folders of images and of masks: ours where both are there, else those of other names."""
    return _OURS if all((root / place).is_dir() for place in _OURS) else tools.other_folders(root)


def _recognised(root: Path, declared: DataYaml) -> tuple[str, Found] | None:
    """Return what a folder looks like, and its content; None where it looks like nothing."""
    signs = signs_of(root, declared)
    if len(signs) > 1:
        raise DataError(
            f"the folder looks like {signs[0].name} and like {signs[1].name}", where=root,
            todo=f"write in data.yaml: layout: {signs[0].key}, or layout: {signs[1].key}",
        )  # fmt: skip
    if signs:
        return signs[0].key, signs[0].read(root)
    inside = tools.in_role_folders(root)
    places, found, key = _places(root), None, "coco"
    if places is None and (found := coco.coco(root)) is None:
        found, key = labelstudio.label_studio(root), "labelstudio"
    if inside and (places is not None or found is not None):
        role, (_, masks) = next((role, names) for role, names in inside.items() if names[1] is not None)
        other = f"in {places[1]!r}" if places is not None else f"those of {found.layout}" if found is not None else ""
        raise DataError(
            f"masks lie in '{role}/{masks}', and there are others, {other}", where=root,
            todo=f'write data.yaml with images: "*/{inside[role][0]}/*" and masks: "*/{masks}/*", or with the others',
        )  # fmt: skip
    if found is not None:
        return key, found
    if places is not None or inside:
        folders = _folders(root)
        assert folders is not None, "they are there"
        return "folders", folders
    if any(signs_of(folder, DataYaml()) for folder in root.iterdir() if folder.is_dir() and not hidden(folder.name)):
        return None  # masks beside their images in a folder that says more about them
    return ("beside", found) if (found := tools.beside(root)) is not None else None
