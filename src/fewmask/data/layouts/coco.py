"""COCO JSON, as annotation tools export it too: objects become classes, what none of them covers is background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewmask.batch import IGNORE
from fewmask.data.datayaml import check_names
from fewmask.data.files import image_files
from fewmask.data.index import Item, Role
from fewmask.data.layouts.drawn import BACKGROUND, Drawing, Shape, draw
from fewmask.data.layouts.found import VOID, Found, begins, read_json, single
from fewmask.data.layouts.names import ROLE_IN_NAME, Names
from fewmask.data.roles import role_folder, roles_by_folder
from fewmask.errors import DataError

_PLACES = ("*.json", "annotations/*.json", "*/_annotations.coco.json")
_NOTHING = (BACKGROUND, "_background_")  # as labelme calls it
_KEYS = ("images", "annotations", "categories")


def coco(root: Path) -> Found | None:
    """Read every annotation file: its images by the ends of their paths, its name (or folder) is their role.

    Returns:
        None where there is no such file.

    Raises:
        DataError: a file contradicts another one or itself, or names images that are not here, or are not clear.
        ConfigError: pycocotools is not installed.
    """
    trees = _trees(root)
    if not trees:
        return None
    classes, kinds = _classes(trees)
    notes: list[str] = []
    every = image_files(root, ".", [])  # the files beside them are no mistake
    names = Names(every, root)
    masks: dict[str, Path] = {}
    role_of: dict[str, Role] = {}
    lost: list[str] = []
    for path, tree in trees.items():
        drawings, missing = _drawings(path, tree, kinds, names)
        lost += missing
        twice = sorted({d.name for d in drawings} & masks.keys())
        if twice:
            raise DataError(f"{twice[0]!r} is annotated in two files", where=path, todo="take one of them away")
        masks |= draw(drawings, [path.read_bytes(), repr(sorted(kinds.items())).encode()], path)
        role = _role(path, root)
        role_of |= {d.name: role for d in drawings if role is not None}
    if not masks:
        what = f"none of {len(lost)} annotated images is here, such as {lost[0]!r}" if lost else "annotates no image"
        raise DataError(what, where=next(iter(trees)), todo="put the images beside the file")
    if lost:
        notes.append(f"{len(lost)} annotated images are not here, first {lost[0]!r}")
    items = [Item(name, single(paths, "images"), masks.get(name)) for name, paths in sorted(every.items())]
    roles, more = roles_by_folder(items, root) if not role_of else (_by_file(items, role_of, root), [])
    return Found("coco", roles, notes + more, classes)


def outlined(root: Path) -> dict[Path, list[str]]:
    """Return each annotation file with the names that it gives the images in which it outlines something."""
    out: dict[Path, list[str]] = {}
    for path, tree in _trees(root).items():
        try:
            ids = {a["image_id"] for a in tree["annotations"] if a.get("segmentation")}
            out[path] = [str(entry["file_name"]) for entry in tree["images"] if entry["id"] in ids]
        except (KeyError, TypeError, AttributeError):  # damaged, or another thing: it is read nowhere
            continue
    return out


def _trees(root: Path) -> dict[Path, dict[str, Any]]:
    """Return what each annotation file holds."""
    paths = sorted({path for place in _PLACES for path in root.glob(place) if path.is_file()})
    trees = {path: tree for path in paths if (tree := _tree(path)) is not None}
    trees = {path: tree for path, tree in trees.items() if all(isinstance(tree.get(key), list) for key in _KEYS)}
    # as COCO itself is unpacked, joints of persons lie beside the objects, with their outlines once more
    objects = {path: tree for path, tree in trees.items() if not _of_joints(tree)}
    return objects or trees


def _of_joints(tree: dict[str, Any]) -> bool:
    return any(isinstance(one, dict) and "keypoints" in one for one in tree["categories"])


def _tree(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None where there is another thing, which is another tool's business."""
    if begins(path) != "{":
        return None
    try:
        tree = read_json(path)
    except DataError:
        return None
    return tree if isinstance(tree, dict) else None


def _role(path: Path, root: Path) -> Role | None:
    """Return the role that a path spells: instances_val2017.json, valid/_annotations.coco.json, val2017/7.jpg."""
    for part in path.relative_to(root).parts[:-1]:
        # a folder is called so as a whole: field-test is no test set
        if (role := role_folder(f"{part.rstrip('0123456789')}/x")) is not None:
            return role
    found = ROLE_IN_NAME.search(path.stem)
    return role_folder(f"{found[1]}/x") if found else None


def _by_file(items: list[Item], role_of: dict[str, Role], root: Path) -> dict[Role, list[Item]]:
    """Return the images by role; those of no file are training images unless a folder of theirs spells another."""
    roles: dict[Role, list[Item]] = {"train": [], "val": [], "test": []}
    for item in items:
        roles[role_of.get(item.name) or _role(item.image.parent / "x", root) or "train"].append(item)
    return roles


def _classes(trees: dict[Path, dict[str, Any]]) -> tuple[tuple[str, ...], dict[int, int]]:
    """Return class names, background first, and category id to class index; all files must agree."""
    first, ids = None, dict[int, str]()
    for path, tree in trees.items():
        try:
            mine = {int(c["id"]): str(c["name"]) for c in tree["categories"]}
            parents = {str(c.get("supercategory")) for c in tree["categories"] if c.get("supercategory") != c["name"]}
            if any("segments_info" in a for a in tree["annotations"]):
                what, todo = "is COCO's panoptic format, which is not read", "export instances, or masks as PNG"
                raise DataError(what, where=path, todo=todo)
            used = {int(a["category_id"]) for a in tree["annotations"]}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"a category or annotation has no {error}", where=path, todo="export it again") from error
        # Roboflow's category 0 is the name of the project, over all others
        mine = {i: name for i, name in mine.items() if i in used or name not in parents}
        if unknown := sorted(used - mine.keys()):
            raise DataError(f"annotates category {unknown[0]}, which is not declared", where=path, todo="declare it")
        if first is not None and mine != ids:
            raise DataError(f"has other categories than {first}", where=path, todo="export all with the same ones")
        first, ids = path, mine
    names = [name for _, name in sorted(ids.items()) if name.lower() not in (*_NOTHING, *VOID)]
    try:
        classes = check_names([BACKGROUND, *names])
    except ValueError as error:
        raise DataError(f"categories: {error}", where=first, todo="rename them") from error
    special: dict[str, int] = {**dict.fromkeys(_NOTHING, 0), **dict.fromkeys(VOID, IGNORE)}
    return classes, {i: special[n.lower()] if n.lower() in special else classes.index(n) for i, n in ids.items()}


def _drawings(
    path: Path, tree: dict[str, Any], kinds: dict[int, int], names: Names
) -> tuple[list[Drawing], list[str]]:  # fmt: skip
    """Return what to draw, and the images that are not here."""
    drawings: dict[Any, Drawing] = {}
    missing, outside = [], set()
    try:
        for entry in tree["images"]:
            name = names.find(str(entry["file_name"]), path)
            if name is None:
                missing.append(str(entry["file_name"]))
                outside.add(entry["id"])
            else:
                drawings[entry["id"]] = Drawing(name, int(entry["height"]), int(entry["width"]))
        for n, a in enumerate(tree["annotations"]):
            if a["image_id"] in outside:
                continue
            shape = Shape(kinds[int(a["category_id"])], a.get("segmentation"), f"annotation {a.get('id', n)}")
            if not shape.outline:
                raise DataError(
                    f"{shape.label} of {drawings[a['image_id']].name!r} is a box without outline", where=path,
                    todo="boxes say not which pixels; export segmentations",
                )  # fmt: skip
            drawings[a["image_id"]].shapes.append(shape)
    except (KeyError, TypeError, ValueError) as error:
        what = f"an image or annotation lacks {error}, or names an image that is not listed"
        raise DataError(what, where=path, todo="export it again") from error
    if len({d.name for d in drawings.values()}) < len(drawings):
        raise DataError("lists an image twice", where=path, todo="export it again")
    return list(drawings.values()), missing
