"""Folders as people have them, read into a ``DataIndex``; no image or mask is opened here.

=========== ==========================================================================================
layout      files
=========== ==========================================================================================
folders     ``images/…`` and ``masks/…`` with the same stems; first folder train, val or test = role
data.yaml   the folders or globs that ``images`` and ``masks`` name there
voc         ``JPEGImages``, ``SegmentationClass`` (and ``SegmentationClassAug``), ``ImageSets``
cityscapes  ``leftImg8bit/{train,val}/CITY``, ``gtFine/…_labelTrainIds.png`` or ``…_labelIds.png``
=========== ==========================================================================================

An image without a mask is unlabelled. ``classes.txt`` names the classes, one a line. Hidden files
are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from unicodedata import normalize

from fewmask.data.datayaml import FILE_NAME, DataYaml, check_names, load_data_yaml
from fewmask.data.files import hidden, image_files
from fewmask.data.index import ROLES, DataIndex, Item, MaskCode, Role
from fewmask.data.lists import match, read_list
from fewmask.data.roles import draw_val, propose_groups, read_groups, role_folder, roles_by_folder, roles_by_pattern
from fewmask.data.scan import Scan
from fewmask.errors import ConfigError, DataError

__all__ = ["propose_groups", "read_folder", "with_classes", "without_empty_masks"]

VOC_CLASSES = tuple(
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike"
    " person pottedplant sheep sofa train tvmonitor".split()
)
CITYSCAPES_CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
# ids of gtFine/*_labelIds.png in the order of the classes above; all others of 0..33 are ignored
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_VOC_LISTS: dict[Role, tuple[str, ...]] = {
    "train": ("trainaug.txt", "train_aug.txt", "train.txt"),
    "val": ("val.txt",),
}
_DO = "see the layouts in the documentation, or write data.yaml with images: and masks:"


@dataclass
class _Found:
    """What a layout reader returns: images, before groups and the drawing of "val"."""

    layout: str
    roles: dict[Role, list[Item]]
    notes: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    code: MaskCode = field(default_factory=MaskCode)


def read_folder(
    root: Path,
    *,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    groups: str | None = None,
    declared: DataYaml | None = None,
) -> DataIndex:
    """Read the data set in ``root``, which may be read-only.

    Without validation images, some are drawn from the labelled ones; a note says so. ``classes`` of the result
    is empty where nothing names them: see ``with_classes``.

    Args:
        root: the folder.
        val_fraction: share of the labelled images to draw for "val" where there is none, 0 <= fraction < 1.
        split_seed: which ones.
        groups: as ``groups`` in data.yaml, which it overrides.
        declared: what data.yaml would say, for a folder that has none; None reads the folder's own.

    Raises:
        DataError: no such folder, no known layout, no images or masks, contradictory files.
        ConfigError: a wrong data.yaml or group rule; a fraction or seed out of range.
    """
    root = Path(root)
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction is {val_fraction}", todo="it must be at least 0 and below 1")
    if not 0 <= split_seed < 2**64:
        raise ConfigError(f"split seed {split_seed} is out of range", todo="use 0 to 2**64 - 1")
    if not root.is_dir():
        what = "data folder is a file" if root.exists() else "data folder does not exist"
        raise DataError(what, where=root)
    declared = declared or load_data_yaml(root) or DataYaml()
    found = _read_layout(root, declared)
    if declared.roles is not None:
        everything = sorted((i for items in found.roles.values() for i in items), key=_name)
        found.roles, notes = roles_by_pattern(everything, declared.roles, root)
        found.notes += notes
    classes, code = _legend(root, declared, found)
    _put_in_groups(found, declared.groups if groups is None else groups, root, asked=groups is not None)
    _only_masked(found)
    if not found.roles["val"]:
        found.roles["train"], found.roles["val"], note = draw_val(found.roles["train"], val_fraction, split_seed)
        found.notes.append(note)
    items: dict[Role, tuple[Item, ...]] = {role: tuple(sorted(found.roles[role], key=_name)) for role in ROLES}
    return DataIndex(root, found.layout, classes, items, code, tuple(found.notes))


def with_classes(index: DataIndex, scan: Scan) -> DataIndex:
    """Return the index with class names: its own, or "class 0", "class 1", … up to the highest id found.

    Args:
        index: what ``read_folder`` returned.
        scan: a scan of all masks that may be opened, made with ``classes=None``.

    Raises:
        DataError: no mask holds any class, or ids have wide gaps, as greys and palette mistakes do.
    """
    if index.classes:
        return index
    found = [int(i) for i in scan.class_pixels.nonzero()[0]]
    where = index.root
    if not found:
        raise DataError("the masks hold no class at all", where=where, todo="see fewmask check")
    if found[-1] + 1 > 2 * len(found):
        ids = ", ".join(f"{i}: ..." for i in found[:8]) + (", ..." if len(found) > 8 else "")
        what = f"nothing names the classes, and masks hold {len(found)} ids from {found[0]} to {found[-1]}"
        raise DataError(what, where=where, todo=f"write in data.yaml: classes: {{{ids}}} with their names")
    classes = tuple(f"class {i}" for i in range(found[-1] + 1))
    note = f"nothing names the classes: {len(classes)} are named after the ids found in the masks"
    return replace(index, classes=classes, notes=(*index.notes, note))


def without_empty_masks(index: DataIndex, scan: Scan) -> DataIndex:
    """Return the index with masks of class 0 only taken for "not annotated": ``empty_masks: unlabelled``.

    Training images lose such masks and become unlabelled; "val" and "test" images are left out.
    """
    empty = set(scan.empty_masks)
    items: dict[Role, tuple[Item, ...]] = {
        role: tuple(i for i in index.items[role] if i.name not in empty) for role in ROLES
    }
    items["train"] = tuple(i.without_mask() if i.name in empty else i for i in index.items["train"])
    note = f"{len(empty)} masks hold class 0 only: taken for not annotated, as data.yaml says"
    return replace(index, items=items, notes=(*index.notes, note))


def _read_layout(root: Path, declared: DataYaml) -> _Found:
    if declared.images is not None or declared.masks is not None:
        return _pairs("data.yaml", root, declared.images or "images", declared.masks or "masks")
    for voc in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (voc / "JPEGImages").is_dir() and (voc / "ImageSets" / "Segmentation").is_dir():
            return _voc(voc)
    if (root / "leftImg8bit").is_dir():
        return _cityscapes(root)
    if not (root / "images").is_dir():
        seen = sorted(p.name for p in root.iterdir() if not hidden(p.name))
        what = f"no images folder; there is {', '.join(seen[:5])}" if seen else "data folder is empty"
        raise DataError(what, where=root, todo=_DO)
    if not (root / "masks").is_dir():
        todo = "put masks into masks/, with the same names as their images"
        raise DataError("no masks folder beside images", where=root, todo=todo)
    return _pairs("folders", root, "images", "masks")


def _pairs(layout: str, root: Path, image_place: str, mask_place: str) -> _Found:
    """Read images and masks that belong together by name."""
    notes: list[str] = []
    masks = image_files(root, mask_place, notes)
    mask_files = {p for paths in masks.values() for p in paths}
    images = image_files(root, image_place, notes, without=mask_files)
    if not images:
        raise DataError("; ".join([f"no images in {image_place!r}", *notes]), where=root, todo=_DO)
    nfc = {normalize("NFC", name): name for name in masks}
    items, used = [], set()
    for name in sorted(images):
        key = name if name in masks else nfc.get(normalize("NFC", name), name)
        used.add(key)
        mask = _single(masks[key], "masks") if key in masks else None
        items.append(Item(name, _single(images[name], "images"), mask))
    if all(i.mask is None for i in items):
        what = f"none of {len(items)} images has a mask of its name in {mask_place!r}"
        what += f" (image {items[0].name!r}, mask {min(masks)!r})" if masks else ", where no mask lies"
        raise DataError("; ".join([what, *notes]), where=root, todo=_DO)
    spare = sorted(set(masks) - used)
    if spare:
        notes.append(f"{len(spare)} masks have no image and are left out, first {spare[0]!r}")
    roles, more = roles_by_folder(items, root)
    return _Found(layout, roles, notes + more)


def _voc(root: Path) -> _Found:
    """Read PASCAL VOC: fine masks before those of SBD; images outside the lists are left out."""
    notes: list[str] = []
    images = image_files(root, "JPEGImages", notes)
    masks = {}
    for place in ("SegmentationClassAug", "SegmentationClass"):  # the later, fine ones win
        if (root / place).is_dir():
            masks |= image_files(root, place, notes)
    items = [
        Item(name, _single(paths, "images"), _single(masks[name], "masks") if name in masks else None)
        for name, paths in sorted(images.items())
    ]
    lists = root / "ImageSets" / "Segmentation"
    roles: dict[Role, list[Item]] = {"train": [], "val": [], "test": []}
    for role, names in _VOC_LISTS.items():
        path = next((lists / n for n in names if (lists / n).is_file()), None)
        if path is None:
            raise DataError(f"no list {names[-1]}", where=lists)
        roles[role] = list({i.name: i for i in match(read_list(path), items)}.values())
        notes.append(f"{role}: {len(roles[role])} images of {path.name}")
    listed = {i.name for chosen in roles.values() for i in chosen}
    if len(items) > len(listed):
        notes.append(f"{len(items) - len(listed)} images are in neither list and are left out")
    return _Found("voc", roles, notes, VOC_CLASSES)


def _cityscapes(root: Path) -> _Found:
    """Read Cityscapes; its test masks are dummies, so "test" stays empty."""
    notes: list[str] = []
    images = image_files(root, "leftImg8bit/**/*_leftImg8bit.*", notes)
    code, masks = MaskCode(), image_files(root, "gtFine/**/*_gtFine_labelTrainIds.png", notes)
    full = image_files(root, "gtFine/**/*_gtFine_labelIds.png", notes)
    if not masks:
        masks = full
        ignored = tuple(i for i in range(34) if i not in _CITYSCAPES_IDS)
        code = MaskCode(ignore=ignored, mapping=tuple((i, k) for k, i in enumerate(_CITYSCAPES_IDS)))
    elif lacking := sorted(n for n in full if n not in masks and not n.startswith("test/")):
        what = f"{len(lacking)} masks have labelIds, but no labelTrainIds, first {lacking[0]!r}"
        raise DataError(what, where=root, todo="make the missing ones with cityscapesscripts, or remove the rest")
    roles: dict[Role, list[Item]] = {"train": [], "val": [], "test": []}
    for name, paths in sorted(images.items()):
        role = role_folder(name)
        if role in ("train", "val"):
            mask = _single(masks[name], "masks") if name in masks else None
            roles[role].append(Item(name, _single(paths, "images"), mask))
    rest = len(images) - sum(map(len, roles.values()))
    if not any(i.mask for items in roles.values() for i in items):
        raise DataError("no images with masks in leftImg8bit and gtFine", where=root, todo="unpack both here")
    if rest:
        notes.append(f"{rest} images outside train and val are left out (test masks are not public)")
    return _Found("cityscapes", roles, notes, CITYSCAPES_CLASSES, code)


def _legend(root: Path, declared: DataYaml, found: _Found) -> tuple[tuple[str, ...], MaskCode]:
    """Return class names and mask code from data.yaml, classes.txt or the layout, in this order."""
    where, path = root / FILE_NAME, root / "classes.txt"
    names = _read_classes(path) if path.is_file() else ()
    if names and declared.classes is not None and names != declared.legend((), where)[0]:
        what = "data.yaml and classes.txt name different classes"
        raise ConfigError(what, where=root, todo="remove one of the two lists")
    if found.code == MaskCode() or declared.classes is not None:
        return declared.legend(names or found.classes, where)
    if declared.ignore or declared.colours or len(names) not in (0, len(found.classes)):
        what = f"the {found.layout} layout has its own ids; other classes need a full list"
        raise ConfigError(what, where=root, todo="write classes: {id: name} in data.yaml")
    return names or found.classes, found.code


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text("utf-8-sig").rstrip().splitlines()
        return check_names([line.strip() for line in lines])
    except (OSError, ValueError) as e:
        raise DataError(f"cannot be read as one class name a line: {e}", where=path) from e


def _put_in_groups(found: _Found, rule: str | None, root: Path, asked: bool) -> None:
    if rule is None:
        return
    names = [i.name for items in found.roles.values() for i in items]
    groups, notes = read_groups(names, rule, root, asked=asked)
    found.notes += notes
    for role, items in found.roles.items():
        found.roles[role] = [replace(i, group=groups.get(i.name, "")) for i in items]


def _only_masked(found: _Found) -> None:
    """Leave out "val" and "test" images without a mask: nothing can be measured on them."""
    for role in ROLES[1:]:
        kept = [i for i in found.roles[role] if i.mask is not None]
        lost = len(found.roles[role]) - len(kept)
        if lost:
            found.notes.append(f"{lost} {role} images have no mask and are left out")
        found.roles[role] = kept


def _name(item: Item) -> str:
    return item.name


def _single(paths: list[Path], kind: str) -> Path:
    if len(paths) > 1:
        raise DataError(f"two {kind} of one name: {paths[0].name} and {paths[1].name}", where=paths[0].parent)
    return paths[0]
