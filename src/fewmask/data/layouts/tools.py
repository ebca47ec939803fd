"""What annotation tools and training libraries write: Roboflow, nnU-Net, and masks beside their images."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Mapping, Sequence
from io import StringIO
from pathlib import Path

from fewmask.data.datayaml import check_names
from fewmask.data.decode import EXTENSIONS
from fewmask.data.files import hidden, image_files, pictures_among
from fewmask.data.index import Item, MaskCode
from fewmask.data.layouts.found import (
    DO,
    ENDINGS,
    OF_IMAGES,
    VOID,
    Files,
    Found,
    colour_legend,
    ending,
    join,
    read_text,
    with_image_names,
)
from fewmask.data.layouts.names import IMAGE_FOLDERS
from fewmask.data.layouts.published import CAMVID_CLASSES
from fewmask.data.layouts.tables import class_rows
from fewmask.data.roles import role_folder, roles_by_folder
from fewmask.errors import DataError

MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annotation", "gt", "groundtruth", "ground_truth",
                 "segmentation", "segmentations", "targets", "ann_dir")  # fmt: skip
_COMPANION = ("annot", *ENDINGS)
_IMAGE_COMPANION = ("", "_images", "-images", "_image", "_imgs", "_img")
UNLABELLED = ("unlabelled", "unlabeled")
# frames of CamVid are recognised by the videos they come from
_CAMVID_VIDEO = re.compile(r"(?:^|/)(0001TP|0006R0|0016E5|Seq05VD)_")


# --- Roboflow -------------------------------------------------------------------------------------------------------


def is_roboflow(root: Path) -> bool:
    """Return whether a folder is Roboflow's export "Semantic Segmentation Masks"."""
    return bool(_class_csvs(root))


def roboflow(root: Path) -> Found:
    """Read train, valid and test, each with ``_classes.csv`` (pixel value, class) and X_mask.png beside X.jpg."""
    tables = {path: _pixel_values(path) for path in _class_csvs(root)}
    first, ids = next(iter(tables.items()))
    for path, other in tables.items():
        if other != ids:
            raise DataError(f"names other classes than {first}", where=path, todo="export all parts with the same ones")
    found = beside(root)
    if found is None:
        raise DataError("no masks X_mask.png beside the images", where=root, todo=DO)
    names = tuple(dict.fromkeys(name for name in ids.values() if name.lower() not in VOID))
    plain = list(ids) == list(range(len(names)))
    void = tuple(i for i, name in ids.items() if name.lower() in VOID and i != 255)
    mapping = tuple((i, names.index(name)) for i, name in ids.items() if name in names)
    found.layout, found.classes = "roboflow", check_names(names)
    found.code = MaskCode(ignore=void, mapping=None if plain and not void else mapping)
    return found


def _class_csvs(root: Path) -> list[Path]:
    return sorted(path for path in [root / "_classes.csv", *root.glob("*/_classes.csv")] if path.is_file())


def _pixel_values(path: Path) -> dict[int, str]:
    rows = list(csv.reader(StringIO(read_text(path)), skipinitialspace=True))
    try:
        ids = {int(row[0]): row[1].strip() for row in rows[1:] if row}
    except (ValueError, IndexError) as error:
        raise DataError("is no table of pixel value and class", where=path, todo="export it again") from error
    if not ids:
        raise DataError("names no class", where=path, todo="export it again")
    return ids


# --- nnU-Net --------------------------------------------------------------------------------------------------------


def is_nnunet(root: Path) -> bool:
    """Return whether a folder is a data set of nnU-Net."""
    return (root / "dataset.json").is_file() and (root / "imagesTr").is_dir() and (root / "labelsTr").is_dir()


def nnunet(root: Path) -> Found:
    """Read nnU-Net's 2-D data: imagesTr/CASE_0000.png and labelsTr/CASE.png; imagesTs with labelsTs is "test"."""
    path = root / "dataset.json"
    try:
        labels = json.loads(read_text(path))["labels"]
        turned = all(str(key).isdecimal() for key in labels)  # as of nnU-Net 1 and the Decathlon: {"0": "background"}
        ids = {int(i): str(name) for i, name in (labels.items() if turned else ((i, n) for n, i in labels.items()))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = "has no labels that are one number each (regions are not read)"
        raise DataError(what, where=path, todo='write {"labels": {"background": 0, "crop": 1}}') from error
    notes: list[str] = []
    items: dict[str, list[Item]] = {}
    for part in ("Tr", "Ts"):
        images = image_files(root, f"images{part}", notes) if (root / f"images{part}").is_dir() else {}
        masks = image_files(root, f"labels{part}", notes) if (root / f"labels{part}").is_dir() else {}
        more = sorted(name for name in images if not name.endswith("_0000"))
        if more and len(more) < len(images):
            raise DataError(
                f"{len(more)} files are further channels of an image, first {more[0]!r}, which are not read",
                where=root / f"images{part}",
                todo="put the channels of each image into one file, CASE_0000.tif: docs/data.md (nnU-Net) has a script",
            )  # fmt: skip
        cases = {name.removesuffix("_0000"): paths for name, paths in images.items()}
        items[part] = join(cases, masks, notes)
    names = check_names([name for _, name in sorted(ids.items()) if name != "ignore"])
    ignore = tuple(i for i, name in ids.items() if name == "ignore" and i != 255)
    mapping = tuple((i, names.index(name)) for i, name in sorted(ids.items()) if name != "ignore")
    plain = [i for i, _ in mapping] == list(range(len(names)))
    code = MaskCode(ignore=ignore, mapping=None if plain else mapping)
    masked = [item for item in items["Ts"] if item.mask is not None]
    bare = [item for item in items["Ts"] if item.mask is None]
    if bare:
        notes.append(f"{len(bare)} images of imagesTs have no labels: unlabelled training images")
    return Found("nnunet", {"train": items["Tr"] + bare, "val": [], "test": masked}, notes, names, code)


# --- masks beside their images --------------------------------------------------------------------------------------


def beside(root: Path) -> Found | None:
    """Read X.jpg with X_mask.png in one folder, or folders such as train with train_labels; class_dict.csv is RGB.

    Returns:
        None where no mask lies beside its image.
    """
    notes, passed = list[str](), list[str]()
    every, companions = image_files(root, ".", passed), _companions(root)
    notes += pictures_among(passed)  # the tables beside them are no mistake
    if companions:
        images, masks = dict[str, list[Path]](), dict[str, list[Path]]()
        for role, image, _ in companions:
            images |= {f"{role}/{n.partition('/')[2]}": p for n, p in every.items() if n.partition("/")[0] == image}
        for role, _, mask in companions:
            for name, paths in every.items():
                top, _, rest = name.partition("/")
                if top == mask:
                    masks[_same(f"{role}/{rest}", images)] = paths
    else:
        suffix = _suffix(every, root)
        if suffix is None:
            return None
        masks = {n.removesuffix(suffix): paths for n, paths in every.items() if n.endswith(suffix)}
        images = {n: paths for n, paths in every.items() if not n.endswith(suffix)}
        images = {re.sub("_(sat|image|img)$", "", n) if n not in masks else n: paths for n, paths in images.items()}
    items = join(images, masks, notes)
    roles, more = roles_by_folder(items, root)
    found = Found("beside", roles, notes + more)
    if (told := class_rows(root)) is not None:
        table, rows = told
        found.classes, found.code = colour_legend(rows, table)
    elif companions and all(mask.endswith("annot") for *_, mask in companions):
        if all(_CAMVID_VIDEO.search(item.name) for item in items):
            found.layout, found.classes, found.code = "camvid (SegNet)", CAMVID_CLASSES, MaskCode(ignore=(11,))
    return found


def _companions(root: Path) -> list[tuple[str, str, str]]:
    """Return (role, folder of images, folder of masks) of each role that has both, the role as they spell it."""
    names = {p.name for p in root.iterdir() if p.is_dir() and not hidden(p.name)}
    return [
        (name.removesuffix(of_images), name, name.removesuffix(of_images) + end)
        for name in sorted(names) for of_images in _IMAGE_COMPANION for end in _COMPANION
        if name.endswith(of_images) and name.removesuffix(of_images) + end in names
        and role_folder(f"{name.removesuffix(of_images)}/x") is not None
    ]  # fmt: skip


def _same(name: str, images: Collection[str]) -> str:
    """Return the image that a mask of another ending belongs to: FRAME_L.png is the mask of FRAME.png."""
    return name if name in images else name.removesuffix("_L" if name.endswith("_L") else ending(name))


def _rank(end: str) -> int:
    return ENDINGS.index(end.lower())


def _suffix(names: Collection[str], root: Path) -> str | None:
    """Return what the names of masks end in that lie beside their images.

    Raises:
        DataError: there is a second ending, of masks or of other pictures made of the images with masks.
    """
    found = dict[str, set[str]]()
    for end in sorted({ending(name) for name in names} - {""}, key=lambda end: (_rank(end), end)):
        stems = {name.removesuffix(end) for name in names if name.endswith(end)}
        if any(stem + other in names for stem in stems for other in OF_IMAGES):
            found[end] = stems
    if not found:
        return None
    end, stems = next(iter(found.items()))
    others = found.keys() - {end} or _made_of(stems & set(names), end, names)
    if others:
        other, stem = min(others), min(stems)
        raise DataError(
            f"beside {stem}{end} lies {stem}{other}, and so with the others: masks, images, or neither", where=root,
            todo=f'take away what is neither, or write in data.yaml images: and masks: with globs of your files, such '
            f'as masks: "**/*{end}.png" or "**/*{other}.png"; what is in no glob is not read',
        )  # fmt: skip
    return end


def _made_of(stems: Collection[str], end: str, names: Collection[str]) -> set[str]:
    """Return endings, besides that of masks, which the names of images have that each image with a mask has, too."""
    if len(stems) < 2:
        return set()
    first = min(stems)
    more = {name[len(first) :] for name in names if name.startswith(f"{first}_") or name.startswith(f"{first}-")}
    return {other for other in more - {end} if all(stem + other in names for stem in stems)}


# --- folders of other names -----------------------------------------------------------------------------------------


def other_folders(root: Path) -> tuple[str, str] | None:
    """Return the folders of images and masks where they are called otherwise; None where that is not clear."""
    names = {p.name.lower(): p.name for p in root.iterdir() if p.is_dir() and not hidden(p.name)}
    images = [names[n] for n in IMAGE_FOLDERS if n in names]
    masks = [names[n] for n in MASK_FOLDERS if n in names and _holds_images(root / names[n])]
    return (images[0], masks[0]) if len(images) == 1 and len(masks) == 1 else None


def _holds_images(folder: Path) -> bool:
    return bool(image_files(folder, ".", []))


# --- folders of images and masks inside each role -------------------------------------------------------------------


def in_role_folders(root: Path) -> dict[str, tuple[str, str | None]]:
    """Return role folder to its folders of images and of masks: train/images with train/masks, and the like.

    Returns:
        Folders of ``root`` without one of images are not there; none is, unless one of them has masks.

    Raises:
        DataError: one of them has two folders of images, or of masks.
    """
    out: dict[str, tuple[str, str | None]] = {}
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not hidden(p.name)):
        if role_folder(f"{folder.name}/x") is None and folder.name not in UNLABELLED:
            continue
        inside = {p.name.lower(): p.name for p in folder.iterdir() if p.is_dir() and not hidden(p.name)}
        images, masks = (
            [inside[n] for n in names if n in inside and _holds_images(folder / inside[n])]
            for names in (IMAGE_FOLDERS, MASK_FOLDERS)
        )
        if images:
            _check_no_other_masks(folder, images, masks)
            out[folder.name] = (images[0], masks[0] if masks else None)
        if images and len(images) + len(masks) > 2:
            kind, two = ("images", images) if len(images) > 1 else ("masks", masks)
            raise DataError(
                f"{two[0]!r} and {two[1]!r} may both be the {kind}", where=folder,
                todo=f'write data.yaml with {kind}: "*/{two[0]}/*" (or of {two[1]!r}) and, in the same way, the key '
                f'{"masks" if kind == "images" else "images"}',
            )  # fmt: skip
    if not any(masks for _, masks in out.values()):
        return {}
    _check_no_other_role(root, out)
    return out


def _check_no_other_masks(role: Path, images: Sequence[str], masks: Sequence[str]) -> None:
    """Refuse images of val or test whose masks may lie beside them in a folder of another name."""
    if masks or role_folder(f"{role.name}/x") not in ("val", "test"):
        return
    others = [p for p in sorted(role.iterdir()) if p.is_dir() and p.name not in images and not hidden(p.name)]
    if may := [p.name for p in others if any(file.suffix.lower() in EXTENSIONS for file in p.iterdir())]:
        raise DataError(
            f"{' or '.join(map(repr, may))} may hold the masks of {images[0]!r}", where=role,
            todo="call the one that does masks; take the others away",
        )  # fmt: skip


def _check_no_other_role(root: Path, found: Mapping[str, tuple[str, str | None]]) -> None:
    """Refuse a folder of images and masks beside those of roles that is called like none."""
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name not in found and not hidden(p.name)):
        inside = {p.name.lower() for p in folder.iterdir() if p.is_dir()}
        images, masks = (inside.intersection(names) for names in (IMAGE_FOLDERS, MASK_FOLDERS))
        if images and masks:
            first, (one, two) = next((name, places) for name, places in found.items() if places[1])
            raise DataError(
                f"{folder.name!r} holds images and masks as {first!r} does, and is called like no role", where=root,
                todo=f'put them below train, val or test, or write data.yaml with images: "*/{one}/*", '
                f'masks: "*/{two}/*" and roles: (globs of names FOLDER/X)',
            )  # fmt: skip


def inside_roles(root: Path, places: Mapping[str, tuple[str, str | None]]) -> Found:
    """Read what ``in_role_folders`` found; an image is called ROLE/X.

    Raises:
        DataError: two images or masks of one name, or no mask that belongs to an image.
    """
    notes: list[str] = []
    images, masks = dict[str, list[Path]](), dict[str, list[Path]]()
    for role, (of_images, of_masks) in places.items():
        mine = image_files(root, f"{role}/{of_images}", notes)
        drawn: Files = {} if of_masks is None else image_files(root, f"{role}/{of_masks}", notes)
        drawn = with_image_names(mine, drawn, root / role, notes)
        images |= {f"{role}/{name}": paths for name, paths in mine.items()}
        masks |= {f"{role}/{name}": list(paths) for name, paths in drawn.items()}
    items = join(images, masks, notes)
    if all(item.mask is None for item in items):
        what = f"none of {len(items)} images has a mask of its name (image {items[0].name!r}, mask {min(masks)!r})"
        raise DataError("; ".join([what, *notes]), where=root, todo=DO)
    roles, more = roles_by_folder(items, root)
    return Found("folders", roles, [*dict.fromkeys(notes), *more])
