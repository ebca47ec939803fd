"""Polygons of Ultralytics' kind: a text file an image, a line an object, ``class x1 y1 x2 y2 …`` as shares of sides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fewmask.config import load_yaml
from fewmask.data.datayaml import FILE_NAME, DataYaml, check_names
from fewmask.data.declared import polygon_names
from fewmask.data.files import image_files
from fewmask.data.images import image_size
from fewmask.data.index import Item
from fewmask.data.layouts.drawn import BACKGROUND, Drawing, Shape, draw
from fewmask.data.layouts.found import Found, read_text, single
from fewmask.data.roles import roles_by_folder
from fewmask.errors import DataError

_IMAGES, _LABELS = "images", "labels"


def is_yolo(root: Path, declared: DataYaml) -> bool:
    """Return whether a folder has Ultralytics' data.yaml without folders of masks, or what takes its place is one."""
    return _names(root, declared) is not None


def yolo(root: Path, declared: DataYaml) -> Found:
    """Read images/train/X.jpg with labels/train/X.txt, or train/images with train/labels; no file = unlabelled.

    Args:
        root: the folder.
        declared: where it names no polygons, since another file takes the place of the folder's, that one does.

    Raises:
        DataError: a line is no outline, or of no class.
        ConfigError: pycocotools is not installed.
    """
    names, notes = _names(root, declared), list[str]()
    assert names is not None, "asked for where it fits"
    try:
        classes = check_names([BACKGROUND, *(name for _, name in sorted(names.items()))])
    except ValueError as error:
        raise DataError(f"names: {error}", where=declared.aside or root / FILE_NAME, todo="mend the file") from error
    kinds = {i: classes.index(name) for i, name in names.items()}
    images = image_files(root, f"**/{_IMAGES}/**", notes)
    texts = _texts(root)
    drawings, content = [], []
    for name, paths in sorted(images.items()):
        if name in texts:
            drawings.append(_drawing(name, single(paths, "images"), texts[name], kinds))
            content.append(texts[name].read_bytes())
    if not drawings:
        what = f"none of {len(images)} images has a text file of its name in {_LABELS}"
        raise DataError(what, where=root, todo="put X.txt of images/…/X.jpg into labels/…")
    masks = draw(drawings, content, root)
    items = [Item(name, single(paths, "images"), masks.get(name)) for name, paths in sorted(images.items())]
    roles, more = roles_by_folder(items, root)
    return Found("yolo polygons", roles, notes + more, classes)


def _names(root: Path, declared: DataYaml) -> Mapping[int, str] | None:
    if declared.polygons is not None or declared.aside is None:
        return declared.polygons
    try:
        return polygon_names(load_yaml(read_text(root / FILE_NAME)))
    except (ValueError, DataError):  # no file, or a broken one, which does not count
        return None


def _texts(root: Path) -> dict[str, Path]:
    """Return the text files below folders "labels" by the name of their image."""
    found = {}
    for path in sorted(root.rglob("*.txt")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        if _LABELS in parts[:-1]:
            parts.remove(_LABELS)
            found["/".join(parts)] = path
    return found


def _drawing(name: str, image: Path, text: Path, kinds: dict[int, int]) -> Drawing:
    height, width = image_size(image)
    out = Drawing(name, height, width)
    for n, line in enumerate(read_text(text, most=100_000_000).splitlines(), start=1):
        try:
            kind, *shares = (float(word) for word in line.split())
        except ValueError as error:
            if not line.strip():
                continue
            raise DataError("is no row of numbers", where=f"{text} line {n}", todo="mend it") from error
        if kind not in kinds:
            what = f"class {kind:g} is none of {len(kinds)} in data.yaml"
            raise DataError(what, where=f"{text} line {n}", todo="name it in data.yaml, or take the line out")
        if len(shares) < 6:
            raise DataError("is a box without outline", where=f"{text} line {n}", todo="export polygons")
        points = [share * (width if k % 2 == 0 else height) for k, share in enumerate(shares)]
        out.shapes.append(Shape(kinds[int(kind)], [points], f"line {n} of {text.name}"))
    return out
