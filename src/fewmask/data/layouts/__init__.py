"""Folders as people have them, read into a ``DataIndex``; no image or mask is opened here.

=========== ==========================================================================================
layout      files
=========== ==========================================================================================
folders     ``images/…`` and ``masks/…`` with the same stems (or ``X_mask``), or folders of like names; first
            folder = role; or inside each role: ``train/images``, ``train/masks``
index file  ``images: index.jsonl`` in data.yaml
data.yaml   the folders or globs that ``images`` and ``masks`` name there; Ultralytics' file is understood
voc         ``JPEGImages``, ``SegmentationClass`` (and ``SegmentationClassAug``), ``ImageSets``; with
            ``labelmap.txt`` as CVAT and Datumaro export it
cityscapes  ``leftImg8bit/{train,val}/CITY``, ``gtFine/…_labelTrainIds.png`` or ``…_labelIds.png``
ade20k      ``images/training``, ``annotations/training``, ids 1 to 150
camvid      ``701_StillsRaw_full``, ``LabeledApproved_full``, ``label_colors.txt``; SegNet's copy: beside
nnunet      ``imagesTr/CASE_0000.png``, ``labelsTr/CASE.png``, ``dataset.json``
roboflow    ``train/X.jpg``, ``train/X_mask.png``, ``train/_classes.csv``
yolo        Ultralytics' ``data.yaml``, ``images/train/X.jpg``, ``labels/train/X.txt`` with polygons
datumaro    ``images/train/X.jpg``, ``annotations/train.json`` with ``dm_format_version``
huggingface ``train/metadata.jsonl`` with ``file_name`` and ``annotation_file_name`` (or mask, label)
coco        ``annotations/*.json``, ``*.json`` or ``train/_annotations.coco.json`` with images anywhere
labelstudio ``*.json``: a project's export with brushes or polygons, images anywhere
beside      ``X.jpg`` and ``X_mask.png``, or ``train`` and ``train_labels`` (``trainannot``, …)
parts       folders that each have one of these layouts, with the same classes: the exports of several tasks
=========== ==========================================================================================

An image without a mask is unlabelled. ``classes.txt`` names the classes, one a line. Hidden files
are not looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from fewmask.batch import IGNORE
from fewmask.data.datayaml import FILE_NAME, DataYaml
from fewmask.data.declared import load_data_yaml
from fewmask.data.findings import Finding, Remark
from fewmask.data.groups import propose_groups, read_groups
from fewmask.data.index import ROLES, DataIndex, ImageCode, Item, Role
from fewmask.data.layouts.aside import add_unlabelled, tell_of_lists, tell_of_unused
from fewmask.data.layouts.choice import read_layout, signs_of
from fewmask.data.layouts.found import Found, image_files, join
from fewmask.data.layouts.legend import legend
from fewmask.data.roles import draw_val, roles_by_folder, roles_by_pattern, roles_by_place
from fewmask.data.scan import Scan
from fewmask.errors import ConfigError, DataError

__all__ = [
    "MASKLESS",
    "propose_groups",
    "read_folder",
    "read_unlabelled",
    "with_classes",
    "with_val",
    "without_empty_masks",
]

VAL_FRACTION = 0.2
"""Share of the labelled images that is drawn for "val" where there is none."""
MASKLESS = "put the masks where the layout wants them, under the names of their images: see docs/data.md"
_SMOOTH = 8  # so many ids that nobody named may be classes


def read_folder(
    root: Path,
    *,
    val_fraction: float | None = VAL_FRACTION,
    split_seed: int = 0,
    groups: str | None = None,
    declared: DataYaml | None = None,
    unmasked: bool = False,
) -> DataIndex:
    """Read the data set in ``root``, which may be read-only.

    Without validation images, some are drawn from the labelled ones; a note says so. ``classes`` of the result
    is empty where nothing names them: see ``with_classes``.

    Args:
        root: the folder.
        val_fraction: share of the labelled images to draw for "val" where there is none, 0 <= fraction < 1; None: the
            roles stay as they are declared.
        split_seed: which ones.
        groups: as ``groups`` in data.yaml, which it overrides.
        declared: what counts in place of the folder's data.yaml; None reads the folder's own, if it has one.
        unmasked: keep "val" and "test" images without a mask: it may come in. Nothing can be measured on them.

    Raises:
        DataError: no such folder, no known layout, no images or masks, contradictory files.
        ConfigError: a wrong data.yaml or group rule; a fraction or seed out of range.
    """
    root = Path(root)
    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction is {val_fraction}", todo="it must be at least 0 and below 1")
    if not 0 <= split_seed < 2**64:
        raise ConfigError(f"split seed {split_seed} is out of range", todo="use 0 to 2**64 - 1")
    if not root.is_dir():
        what, todo = ("data folder is a file", "name the folder; unpack an archive") if root.exists() else (
            "data folder does not exist", "check the path"
        )  # fmt: skip
        raise DataError(what, where=root, todo=todo)
    declared = declared or load_data_yaml(root) or DataYaml()
    found = read_layout(root, declared)
    if declared.aside is not None and (root / FILE_NAME).is_file() and declared.aside != (root / FILE_NAME).resolve():
        found.notes.append(f"{declared.aside} is read in place of the folder's own {FILE_NAME}")
    if declared.images is None and declared.masks is None:
        add_unlabelled(root, found)
        tell_of_unused(root, found)
    if declared.roles is None and not declared.places:
        tell_of_lists(root, found)
    else:
        everything = sorted((i for items in found.roles.values() for i in items), key=_name)
        if declared.roles is not None:
            found.roles, notes = roles_by_pattern(everything, declared.roles, root, declared.aside)
        else:
            found.roles, notes = roles_by_place(everything, declared.places, root, declared.aside)
        found.notes += notes
    classes, code = legend(root, declared, found)
    _put_in_groups(found, root, declared, groups)
    if not unmasked:
        _only_masked(found)
    images = declared.image_code()
    items, notes = _sorted(found, images), tuple(found.notes)
    index = DataIndex(
        root, found.layout, classes, items, code, notes, images, exif=declared.exif, empty_masks=declared.empty_masks
    )
    return index if index.items["val"] or val_fraction is None else with_val(index, val_fraction, split_seed)


def with_val(
    index: DataIndex, fraction: float, split_seed: int, together: Sequence[Sequence[str]] = (),
    kept: Collection[str] = (),
) -> DataIndex:  # fmt: skip
    """Return a data set without validation images with some of its labelled ones drawn for that; a note says so.

    Args:
        index: the data set.
        fraction: see ``read_folder``.
        split_seed: which ones.
        together: names of images that show the same, in sets: they go to one side.
        kept: names of the validation images of an earlier run, which are taken again.
    """
    train, val, note = draw_val(index.items["train"], fraction, split_seed, together, kept)
    items: dict[Role, tuple[Item, ...]] = {**index.items, "train": tuple(train), "val": tuple(val)}
    return replace(index, items=items, notes=(*index.notes, note), drawn=bool(val))


def read_unlabelled(root: Path, declared: DataYaml | None = None) -> DataIndex | None:
    """Return a folder with ``images`` and no mask yet, which masks can be taken into; None = it is another kind.

    ``classes`` of the result is empty where neither data.yaml nor classes.txt names them.

    Args:
        root: the folder.
        declared: as in ``read_folder``.

    Raises:
        DataError: two images of one name, contradictory files.
        ConfigError: a wrong data.yaml.
    """
    declared, notes = declared or load_data_yaml(root) or DataYaml(), list[str]()
    if declared.images or declared.masks or not (root / "images").is_dir():
        return None
    images = image_files(root, "images", notes)
    if not images or signs_of(root, declared):
        return None
    if (root / "masks").is_dir() and image_files(root, "masks", []):
        return None
    roles, _ = roles_by_folder(join(images, {}, notes), root)
    found = Found("folders", roles, notes)
    classes, code = legend(root, declared, found)
    images = declared.image_code()
    items = _sorted(found, images)
    return DataIndex(
        root, found.layout, classes, items, code, tuple(notes), images, exif=declared.exif,
        empty_masks=declared.empty_masks,
    )  # fmt: skip


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
        if not any(item.mask for items in index.items.values() for item in items):
            raise DataError("no image has a mask", where=where, todo=MASKLESS)
        raise DataError("the masks hold no class at all", where=where, todo="label some pixels of them")
    if found[-1] + 1 > 2 * len(found):
        ids = ", ".join(f"{i}: ..." for i in found[:8]) + (", ..." if len(found) > 8 else "")
        what = f"nothing names the classes, and masks hold {len(found)} ids from {found[0]} to {found[-1]}"
        todo = f"write in data.yaml: classes: {{{ids}}} with their names"
        void = 0 if index.code.ignore else int(scan.counts[:, -1].sum())
        if void:
            what += f", and {IGNORE}, which may be a class or void"
            todo += f", and {IGNORE}: ... among them if it is a class"
        pixels = sorted([*map(int, scan.class_pixels), void])
        if len(found) > _SMOOTH and (share := sum(pixels[-2:]) / sum(pixels)) > 0.8:
            what += f"; two of them have {share:.0%} of the pixels, as in a mask whose edges were smoothed"
            todo = f"export the masks again without smoothing (anti-aliasing, resampling); if all are classes, {todo}"
        raise DataError(what, where=where, todo=todo)
    classes = tuple(f"class {i}" for i in range(found[-1] + 1))
    note = f"nothing names the classes: {len(classes)} are named after the ids found in the masks"
    return replace(index, classes=classes, notes=(*index.notes, note))


def without_empty_masks(index: DataIndex, scan: Scan, unmasked: bool = False) -> DataIndex:
    """Return the index with blank masks taken for "not annotated": ``empty_masks: unlabelled``.

    Such images have no mask then; those in "val" and "test" are left out.

    Args:
        index: the data set.
        scan: of all its masks.
        unmasked: keep them, as in ``read_folder``.
    """
    empty = set(scan.empty_masks)
    items: dict[Role, tuple[Item, ...]] = {
        role: tuple(
            item.without_mask() if item.name in empty else item
            for item in index.items[role]
            if item.name not in empty or role == "train" or unmasked
        )
        for role in ROLES
    }
    note = f"{len(empty)} masks hold class {index.code.blank} only: taken for not annotated, as data.yaml says"
    return replace(index, items=items, notes=(*index.notes, note))


def _put_in_groups(found: Found, root: Path, declared: DataYaml, asked: str | None) -> None:
    rule = declared.groups if asked is None else asked
    if rule is None:
        return
    images = {i.name: i.image for items in found.roles.values() for i in items}
    groups, notes = read_groups(images, rule, root, asked=asked is not None, aside=declared.aside)
    found.notes += notes
    for role, items in found.roles.items():
        found.roles[role] = [replace(i, group=groups.get(i.name, "")) for i in items]


def _only_masked(found: Found) -> None:
    """Leave out "val" and "test" images without a mask: nothing can be measured on them."""
    for role in ROLES[1:]:
        kept = [i for i in found.roles[role] if i.mask is not None]
        lost = len(found.roles[role]) - len(kept)
        if lost:
            todo = "draw its mask, or put it below train: there it is unlabelled"
            each = [
                Finding("image_without_mask", f"the {role} image has no mask", str(i.image), todo, i.name)
                for i in found.roles[role] if i.mask is None
            ]  # fmt: skip
            found.notes.append(Remark(f"{lost} {role} images have no mask and are left out", each))
        found.roles[role] = kept


def _sorted(found: Found, images: ImageCode) -> dict[Role, tuple[Item, ...]]:
    return {role: tuple(replace(i, code=images) for i in sorted(found.roles[role], key=_name)) for role in ROLES}


def _name(item: Item) -> str:
    return item.name
