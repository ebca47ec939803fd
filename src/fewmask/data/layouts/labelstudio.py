"""Label Studio's JSON export: brushes and polygons become classes, what none of them covers is background."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fewmask.batch import IGNORE
from fewmask.data.datayaml import check_names
from fewmask.data.files import image_files
from fewmask.data.index import Item
from fewmask.data.layouts.brush import Brush, brush_stream
from fewmask.data.layouts.drawn import BACKGROUND, Drawing, Shape, draw
from fewmask.data.layouts.found import VOID, Found, begins, read_json, single
from fewmask.data.layouts.names import Names
from fewmask.data.roles import roles_by_folder
from fewmask.errors import DataError

_OUTLINES = {"brushlabels": "rle", "polygonlabels": "points"}
_SILENT = {"choices", "textarea", "rating", "number", "taxonomy", "datetime", "ranker", "pairwise"}
"""Kinds of results that say nothing of pixels."""


def label_studio(root: Path) -> Found | None:
    """Read the JSON export of a project, with the images anywhere below the folder.

    Returns:
        None where there is no such file.

    Raises:
        DataError: a task has two annotations, or an outline that is none, or no image of it is here.
        ConfigError: pycocotools is not installed, which draws polygons.
    """
    exports = {path: tasks for path in sorted(root.glob("*.json")) if (tasks := _tasks(path)) is not None}
    if not exports:
        return None
    images = image_files(root, ".", [])
    names, lost, annotated = Names(images, root), list[str](), dict[str, list[tuple[Path, Any]]]()
    empty, guessed = 0, 0
    for path, tasks in exports.items():
        for task in tasks:
            result = _result(task, path)
            if not result:
                empty += bool(task["annotations"])
                guessed += not task["annotations"] and bool(task.get("predictions"))
                continue
            file = _image_of(task, path)
            bare = file.rpartition("/")[2].partition("-")[2]  # uploads get a number before, and their names are quoted
            spelt = dict.fromkeys((file, bare, unquote(file), unquote(bare)))
            name = next((hit for one in spelt if (hit := names.find(one, path)) is not None), None)
            if name is None:
                lost.append(file)
            else:
                annotated.setdefault(name, []).append((path, result))
    path = next(iter(exports))
    if not annotated and not lost and guessed:
        what = f"holds {guessed} predictions, and nobody has submitted an annotation"
        raise DataError(what, where=path, todo="submit the tasks in Label Studio, and export again")
    if not annotated:
        what = f"none of {len(lost)} annotated images is here, such as {lost[0]!r}" if lost else "annotates no image"
        raise DataError(what, where=path, todo="put the images beside the file")
    if twice := [name for name, found in annotated.items() if len(found) > 1]:
        raise DataError(f"{twice[0]!r} is annotated in two tasks", where=path, todo="take one of them away")
    labels = sorted({str(one) for found in annotated.values() for r in found[0][1] for one in _labels(r)})
    try:
        classes = check_names([BACKGROUND, *(n for n in labels if n.lower() not in (BACKGROUND, *VOID))])
    except ValueError as error:
        raise DataError(f"labels: {error}", where=path, todo="rename them") from error
    drawings = [_drawing(name, found[0][1], classes, path) for name, found in sorted(annotated.items())]
    masks = draw(drawings, [file.read_bytes() for file in exports], path)
    items = [Item(name, single(paths, "images"), masks.get(name)) for name, paths in sorted(images.items())]
    roles, notes = roles_by_folder(items, root)
    if lost:
        notes.append(f"{len(lost)} annotated images are not here, first {lost[0]!r}")
    if empty:
        notes.append(f"{empty} tasks were submitted with an empty result: read as not annotated")
    return Found("label studio", roles, notes, classes)


def outlined(root: Path) -> dict[Path, list[str]]:
    """Return each export with the names that it gives the images in which something is outlined."""
    out: dict[Path, list[str]] = {}
    for path in sorted(root.glob("*.json")):
        with suppress(DataError, KeyError, TypeError, AttributeError):  # damaged, or another thing: it is read nowhere
            drawn = [t for t in _tasks(path) or [] if any(r["type"] in _OUTLINES for r in _result(t, path))]
            if drawn:
                out[path] = [_image_of(task, path) for task in drawn]
    return out


def _tasks(path: Path) -> list[Any] | None:
    """Return the tasks of an export; None where the file is another thing."""
    if begins(path) != "[":
        return None
    try:
        tree = read_json(path)
    except DataError:
        return None
    tasks = tree if isinstance(tree, list) else []
    return tasks if tasks and all(isinstance(t, dict) and "data" in t and "annotations" in t for t in tasks) else None


def _image_of(task: Any, path: Path) -> str:
    """Return the path that a task gives its image, without what a server put before it."""
    found = [v for v in task["data"].values() if isinstance(v, str)] if isinstance(task["data"], dict) else []
    if not found:
        raise DataError(f"task {task.get('id')} names no image", where=path, todo="export it again")
    place = str(task["data"].get("image", found[0]))
    stored, upload = place.partition("?d=")[2], place.partition("/data/upload/")[2]
    # of local storage, which quotes paths; of uploads, below the number of the project
    return unquote(stored) if stored else upload.partition("/")[2] or upload or place


def _result(task: Any, path: Path) -> Sequence[Any]:
    """Return what one annotator drew; of several the one that is marked as ground truth."""
    try:
        done = [a for a in task["annotations"] if not a.get("was_cancelled") and a["result"]]
        marked = [a for a in done if a.get("ground_truth")]
        done = marked if len(marked) == 1 else done
        if len(done) > 1:
            raise DataError(
                f"task {task.get('id')} has {len(done)} annotations", where=path,
                todo="mark one of them as ground truth in Label Studio, or delete the others",
            )  # fmt: skip
        return [r for r in done[0]["result"] if "value" in r and r.get("type") not in _SILENT] if done else []
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"an annotation lacks {error}", where=path, todo="export it again as JSON") from error


def _labels(result: Any) -> list[Any]:
    value = result["value"]
    return next((value[kind] for kind in _OUTLINES if isinstance(value, dict) and kind in value), [])


def _drawing(name: str, results: Sequence[Any], classes: Sequence[str], path: Path) -> Drawing:
    """Return what to draw of one image."""
    try:
        height, width = int(results[0]["original_height"]), int(results[0]["original_width"])
        out = Drawing(name, height, width)
        for n, one in enumerate(results, start=1):
            labels, value, label = _labels(one), one["value"], f"result {one.get('id', n)}"
            if not labels:
                raise DataError(
                    f"{label} of {name!r} is of type {one.get('type')!r}, which says not which pixels", where=path,
                    todo="draw brushes or polygons",
                )  # fmt: skip
            if len(labels) > 1:
                what = f"{label} of {name!r} has {len(labels)} labels, such as {labels[0]!r}"
                raise DataError(what, where=path, todo="leave one for each")
            if one.get("image_rotation"):
                raise DataError(f"{name!r} was turned in Label Studio", where=path, todo="turn the image file instead")
            if "rle" in value:
                outline: Any = Brush(brush_stream(value["rle"]), height, width)
            else:
                outline = [[v * side / 100 for x, y in value["points"] for v, side in ((x, width), (y, height))]]
            kind = str(labels[0])
            known = IGNORE if kind.lower() in VOID else 0 if kind.lower() == BACKGROUND else classes.index(kind)
            out.shapes.append(Shape(known, outline, label))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"an outline of {name!r} cannot be read: {error}"
        raise DataError(what, where=path, todo="export it again as JSON") from error
    return out
