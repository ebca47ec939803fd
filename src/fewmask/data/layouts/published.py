"""Published data sets as they are unpacked: PASCAL VOC, Cityscapes, ADE20K, CamVid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fewmask.data.colours import Colour
from fewmask.data.files import image_files
from fewmask.data.index import Item, MaskCode, Role
from fewmask.data.layouts.found import (
    DO,
    Found,
    colour_legend,
    colour_rows,
    id_legend,
    join,
    read_text,
    single,
    with_colours,
)
from fewmask.data.layouts.names import IMAGE_FOLDERS, under_images
from fewmask.data.layouts.tables import COLOUR_TABLE
from fewmask.data.lists import match, read_list
from fewmask.data.roles import role_folder, roles_by_folder
from fewmask.errors import DataError

VOC_CLASSES = tuple(
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike"
    " person pottedplant sheep sofa train tvmonitor".split()
)
CITYSCAPES_CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
CAMVID_CLASSES = tuple("sky building pole road pavement tree signsymbol fence car pedestrian bicyclist".split())
# ids of gtFine/*_labelIds.png in the order of the classes above; all others of 0..33 are ignored
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_VOC_IMAGE = re.compile(r"(19|20)[0-9]{2}_[0-9]{6}")
_VOC_LISTS: dict[Role, tuple[str, ...]] = {
    "train": ("trainaug.txt", "train_aug.txt", "train.txt"),
    "val": ("val.txt",),
}
_ADE_CLASSES = 150


def voc_root(root: Path) -> Path | None:
    """Return the folder of JPEGImages, or of what annotation tools export in its manner."""
    for voc in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        lists, masks = voc / "ImageSets" / "Segmentation", voc / "SegmentationClass"
        if ((voc / "JPEGImages").is_dir() and lists.is_dir()) or ((voc / "labelmap.txt").is_file() and masks.is_dir()):
            return voc
    return None


def voc(root: Path) -> Found:
    """Read PASCAL VOC, fine masks before those of SBD; images outside the lists are left out.

    With ``labelmap.txt`` it is an export of CVAT or Datumaro: its lines NAME:R,G,B:: are the classes and their colours,
    lists are called like the subsets of the project, and images lie in ``JPEGImages``, where the tool saves those that
    are annotated, in ``images``, ``photos`` or the like, or in the folder itself.
    """
    notes: list[str] = []
    labelmap = root / "labelmap.txt"
    images = _images_of_tools(root, notes) if labelmap.is_file() else image_files(root, "JPEGImages", notes)
    masks = {}
    for folder in ("SegmentationClassAug", "SegmentationClass"):  # the later, fine ones win
        if (root / folder).is_dir():
            masks |= image_files(root, folder, notes)
    items = join(images, under_images(masks, images) if labelmap.is_file() else masks, notes)
    if not labelmap.is_file():
        return Found("voc", _listed(root, items, notes), notes, _voc_names(root, items, notes))
    classes, code = colour_legend(_labelmap(labelmap), labelmap)
    return Found("voc with labelmap.txt", _subsets(root, items, notes), notes, classes, code)


def _voc_names(root: Path, items: Sequence[Item], notes: list[str]) -> tuple[str, ...]:
    """Return the names that labelme writes beside such folders; else those of PASCAL VOC, if the images are its own."""
    table = root / "class_names.txt"
    if table.is_file():
        names = [line.strip() for line in read_text(table).splitlines() if line.strip()]
        return tuple("background" if name == "_background_" else name for name in names if name != "__ignore__")
    if any(_VOC_IMAGE.fullmatch(item.name) for item in items):
        return VOC_CLASSES
    notes.append("the images are not those of PASCAL VOC, whose class names are not taken therefore")
    return ()


def _images_of_tools(root: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Return the images beside an export: a tool saves those that were annotated, the others lie where they were."""
    places = [p.name for p in sorted(root.iterdir()) if p.is_dir() and p.name.lower() in ("jpegimages", *IMAGE_FOLDERS)]
    places.sort(key=lambda name: name != "JPEGImages")
    out: dict[str, list[Path]] = {}
    for place in places or ["*.*"]:
        out = image_files(root, place, notes) | out
    if not out:
        raise DataError(
            "masks are here and no images", where=root,
            todo="put the images into JPEGImages, or export with the option to save images",
        )  # fmt: skip
    return out


def _subsets(root: Path, items: list[Item], notes: list[str]) -> dict[Role, list[Item]]:
    """Return the images by the lists of an export, which are called like a project's subsets, Train or Validation.

    What other lists hold that no role has yet are training images. So is what stands in no list and has no mask: it is
    what there is to learn from without.
    """
    roles: dict[Role, list[Item]] = {"train": [], "val": [], "test": []}
    listed: dict[str, Path] = {}
    paths = (root / "ImageSets" / "Segmentation").glob("*.txt")
    of_role: dict[Path, Role | None] = {path: role_folder(f"{path.stem}/x") for path in paths}
    for path in sorted(of_role, key=lambda path: (of_role[path] is None, path)):
        known = of_role[path]
        role: Role = known or "train"
        found = list({i.name: i for i in match(read_list(path), items)}.values())
        twice = [i.name for i in found if i.name in listed]
        if twice and known is not None:
            what = f"{twice[0]!r} is in {listed[twice[0]].name} too"
            raise DataError(what, where=path, todo="take it out of one of them")
        found = [i for i in found if i.name not in listed]
        listed |= {i.name: path for i in found}
        roles[role] += found
        if found or known is not None:
            notes.append(f"{role}: {len(found)} images of {path.name}")
    if not listed:
        return {"train": list(items), "val": [], "test": []}
    rest = [i for i in items if i.name not in listed]
    roles["train"] += [i for i in rest if i.mask is None]
    if masked := [i.name for i in rest if i.mask is not None]:
        notes.append(f"{len(masked)} masked images are in no list and are left out, first {masked[0]!r}")
    return roles


def _listed(root: Path, items: list[Item], notes: list[str]) -> dict[Role, list[Item]]:
    """Return the images of PASCAL VOC's lists."""
    lists = root / "ImageSets" / "Segmentation"
    roles: dict[Role, list[Item]] = {"train": [], "val": [], "test": []}
    for role, names in _VOC_LISTS.items():
        path = next((lists / n for n in names if (lists / n).is_file()), None)
        if path is None and role == "val":
            notes.append(f"there is no {names[-1]} in {lists.name}")
            continue
        if path is None:
            raise DataError(f"no list {names[-1]}", where=lists, todo="write the names of the training images into it")
        roles[role] = list({i.name: i for i in match(read_list(path), items)}.values())
        notes.append(f"{role}: {len(roles[role])} images of {path.name}")
    listed = {i.name for chosen in roles.values() for i in chosen}
    if len(items) > len(listed):
        notes.append(f"{len(items) - len(listed)} images are in neither list and are left out")
    return roles


def _labelmap(path: Path) -> list[tuple[str, Colour]]:
    """Return (name, colour) of CVAT's and Datumaro's label map: lines NAME:R,G,B:parts:actions, # begins a comment.

    Datumaro leaves colours that it has chosen itself away: they are those of PASCAL VOC.
    """
    rows: list[tuple[str, tuple[int, ...] | None]] = []
    for n, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"(.+?):(?:(\d{1,3}),(\d{1,3}),(\d{1,3})(?::.*)?|:.*)", line.strip(), re.ASCII)
        colour = tuple(map(int, found.groups()[1:])) if found is not None and found[2] else None
        if found is None or max(colour or (0,)) > 255:
            raise DataError(f"line {n} is no NAME:R,G,B::", where=path, todo="write for example crop:128,0,0::")
        rows.append((found[1], colour))
    return with_colours(rows, path)


def cityscapes(root: Path) -> Found:
    """Read Cityscapes; its test masks are dummies, so "test" stays empty.

    With ``label_colors.txt`` it is another data set that a tool wrote in its manner: ids count the lines of that file.
    """
    notes: list[str] = []
    images = image_files(root, "leftImg8bit/**/*_leftImg8bit.*", notes)
    code, masks = MaskCode(), image_files(root, "gtFine/**/*_gtFine_labelTrainIds.png", notes)
    full = image_files(root, "gtFine/**/*_gtFine_labelIds.png", notes)
    names, table = CITYSCAPES_CLASSES, root / COLOUR_TABLE
    if table.is_file():
        masks, (names, code) = full, id_legend([name for name, _ in colour_rows(table)], table)
    elif not masks:
        masks = full
        ignored = tuple(i for i in range(34) if i not in _CITYSCAPES_IDS)
        code = MaskCode(ignore=ignored, mapping=tuple((i, k) for k, i in enumerate(_CITYSCAPES_IDS)))
    elif lacking := sorted(n for n in full if n not in masks and not n.startswith("test/")):
        what = f"{len(lacking)} masks have labelIds, but no labelTrainIds, first {lacking[0]!r}"
        raise DataError(what, where=root, todo="make the missing ones with cityscapesscripts, or remove the rest")
    roles: dict[Role, list[Item]] = {"train": [], "val": [], "test": []}
    scored: tuple[Role, ...] = ("train", "val", "test") if table.is_file() else ("train", "val")
    for name, paths in sorted(images.items()):
        role = role_folder(name)
        if role is not None and role in scored:
            mask = single(masks[name], "masks") if name in masks else None
            roles[role].append(Item(name, single(paths, "images"), mask))
    rest = len(images) - sum(map(len, roles.values()))
    if not any(i.mask for items in roles.values() for i in items):
        raise DataError(
            "no images with masks …_labelTrainIds.png or …_labelIds.png in leftImg8bit and gtFine", where=root,
            todo="unpack both here; if your masks end otherwise, write data.yaml with images: and masks: as globs",
        )  # fmt: skip
    if rest:
        why = "" if table.is_file() else " (test masks are not public)"
        notes.append(f"{rest} images outside {' and '.join(scored)} are left out{why}")
    return Found("cityscapes", roles, notes, names, code)


def ade20k(root: Path) -> Found:
    """Read ADE20K as SceneParse150: ids 1 to 150 are the classes, 0 does not count."""
    notes: list[str] = []
    images, masks = (image_files(root, place, notes) for place in ("images", "annotations"))
    roles, more = roles_by_folder(join(images, masks, notes), root)
    table = next((root / n for n in ("objectInfo150.txt", "objectInfo150.csv") if (root / n).is_file()), None)
    names = tuple(f"class {i}" for i in range(1, _ADE_CLASSES + 1))
    if table is not None:
        rows = [line.split("\t" if "\t" in line else ",") for line in read_text(table).splitlines()[1:] if line.strip()]
        names = tuple(row[-1].split(";")[0].split(",")[0].strip() for row in rows)
        names = tuple(n if names.index(n) == k else f"{n} ({k + 1})" for k, n in enumerate(names))
    if len(names) != _ADE_CLASSES:
        raise DataError(f"names {len(names)} classes, not {_ADE_CLASSES}", where=table, todo="take the published file")
    code = MaskCode(ignore=(0,), mapping=tuple((k + 1, k) for k in range(_ADE_CLASSES)))
    return Found("ade20k", roles, notes + more, names, code)


def is_ade20k(root: Path) -> bool:
    """Return whether a folder has ADE20K's parts, and its files: others arrange theirs alike, with other ids."""
    images, annotated = root / "images" / "training", root / "annotations" / "training"
    return annotated.is_dir() and images.is_dir() and next(images.glob("ADE_train_*"), None) is not None


def camvid(root: Path) -> Found:
    """Read CamVid as its authors publish it: all frames, masks FRAME_L.png in the 32 colours of label_colors.txt."""
    notes: list[str] = []
    table = root / COLOUR_TABLE
    classes, code = colour_legend(colour_rows(table), table)
    raw, labelled = _camvid_folders(root)
    if raw is None or labelled is None:
        raise DataError("no folder of frames and one of masks FRAME_L.png", where=root, todo=DO)
    items = join(image_files(root, raw, notes), image_files(root, f"{labelled}/*_L.*", notes), notes)
    return Found("camvid", {"train": items, "val": [], "test": []}, notes, classes, code)


def _camvid_folders(root: Path) -> tuple[str | None, str | None]:
    names = sorted(p.name for p in root.iterdir() if p.is_dir())
    raw = next((n for n in names if "StillsRaw" in n), None)
    return raw, next((n for n in names if n.startswith("LabeledApproved")), None)


def is_camvid(root: Path) -> bool:
    """Return whether a folder has the parts of CamVid as its authors publish it."""
    return (root / COLOUR_TABLE).is_file() and None not in _camvid_folders(root)
