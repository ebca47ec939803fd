"""Data sets that rasterio, pycocotools, Label Studio's converter and Datumaro wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datumaro as dm
import numpy as np
import rasterio
from datumaro.components.media import Image as Media
from label_studio_sdk.converter import brush
from pictures import CLASSES, COLOURS, Fixture, classes_txt, mask, picture, save
from pycocotools import mask as rle
from rasterio.transform import from_origin

# --- rasterio -------------------------------------------------------------------------------------------------------


def geotiff(root: Path) -> Fixture:
    """Three bands and a mask of one, both with a georeference, tiled and deflated."""
    truth = {}
    options = {"driver": "GTiff", "crs": "EPSG:32633", "transform": from_origin(4e5, 5.5e6, 0.5, 0.5)}
    for n, name in enumerate(("t1", "t2", "t3")):
        (root / "images").mkdir(exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        pixels = picture(n, 48, 64)
        with rasterio.open(root / "images" / f"{name}.tif", "w", height=48, width=64, count=3, dtype="uint8",
                           compress="deflate", tiled=True, blockxsize=16, blockysize=16,
                           **options) as file:  # fmt: skip
            file.write(pixels.transpose(2, 0, 1))
        truth[name] = mask(n, 48, 64)
        with rasterio.open(root / "masks" / f"{name}.tif", "w", height=48, width=64, count=1, dtype="uint8",
                           compress="lzw", nodata=255, **options) as file:  # fmt: skip
            file.write(truth[name], 1)
    return Fixture(classes_txt(root), truth)


# --- pycocotools ----------------------------------------------------------------------------------------------------


def _coco(root: Path, shape: Callable[[np.ndarray], list[dict]], iscrowd: int) -> Fixture:
    """Objects of two classes on background, as instances."""
    truth, kinds = {}, ["crop", "weed"]
    content = {"images": [], "annotations": [], "categories": [{"id": n + 1, "name": k} for n, k in enumerate(kinds)]}
    for n, name in enumerate(("a1", "a2", "a3", "u1")):
        save(root / "images" / f"{name}.jpg", picture(n))
        if name == "u1":
            continue
        content["images"].append({"id": n, "file_name": f"{name}.jpg", "height": 24, "width": 32})
        truth[name] = np.zeros((24, 32), np.uint8)
        for kind, (top, left, bottom, right) in [
            (1, (2, 3 + n, 12, 15)),
            (2, (14, 8, 22, 30 - n)),
            (1, (1, 20, 9, 29)),
        ]:
            area = np.zeros((24, 32), np.uint8)
            area[top:bottom, left:right] = 1
            for one in shape(area):
                runs = one["segmentation"]
                if isinstance(runs, list):
                    runs = rle.merge(rle.frPyObjects(runs, 24, 32))
                elif isinstance(runs["counts"], list):
                    runs = rle.frPyObjects(runs, 24, 32)
                truth[name][rle.decode(runs).astype(bool)] = kind
                content["annotations"].append({
                    "id": len(content["annotations"]) + 1, "image_id": n, "category_id": kind, "iscrowd": iscrowd,
                    "area": int(area.sum()), "bbox": [left, top, right - left, bottom - top], **one,
                })  # fmt: skip
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_default.json").write_text(json.dumps(content))
    return Fixture(["background", *kinds], truth)


def coco_polygons(root: Path) -> Fixture:
    def shape(area: np.ndarray) -> list[dict]:
        rows, columns = np.nonzero(area)
        top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        points = [left, top, right, top, right, bottom, (left + right) / 2, bottom - 2, left, bottom]
        return [{"segmentation": [[float(v) for v in points]]}]

    return _coco(root, shape, 0)


def coco_rle(root: Path) -> Fixture:
    def shape(area: np.ndarray) -> list[dict]:
        runs = rle.encode(np.asfortranarray(area))
        return [{"segmentation": {"size": runs["size"], "counts": runs["counts"].decode()}}]

    return _coco(root, shape, 0)


def coco_uncompressed(root: Path) -> Fixture:
    def shape(area: np.ndarray) -> list[dict]:
        flat = area.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
        return [{"segmentation": {"size": [24, 32], "counts": counts if flat[0] == 0 else [0, *counts]}}]

    return _coco(root, shape, 1)


# --- Label Studio's own converter -----------------------------------------------------------------------------------


def label_studio(root: Path) -> Fixture:
    """The JSON export of brush labels, with the run lengths that Label Studio's converter writes."""
    truth, tasks = {}, []
    for n, name in enumerate(("a1", "a2", "a3", "u1")):
        file = f"{n:08x}-{name}.png"
        save(root / "images" / file, picture(n))
        results = []
        if name != "u1":
            truth[Path(file).stem] = of = np.zeros((24, 32), np.uint8)
            of[2:12, 3 + n : 15], of[14:22, 8:30] = 1, 2
            for kind, label in ((1, "crop"), (2, "tree canopy")):
                runs = brush.mask2rle(np.where(of == kind, 255, 0).astype(np.uint8))
                results.append({
                    "id": f"r{n}{kind}", "type": "brushlabels", "from_name": "tag", "to_name": "image",
                    "origin": "manual", "original_width": 32, "original_height": 24, "image_rotation": 0,
                    "value": {"format": "rle", "rle": runs, "brushlabels": [label]},
                })  # fmt: skip
        annotations = [{"id": n, "was_cancelled": False, "result": results}] if results else []
        tasks.append(
            {"id": n, "data": {"image": f"/data/upload/1/{file}"}, "annotations": annotations, "predictions": []}
        )
    (root / "project-1-at-2026-11-22.json").write_text(json.dumps(tasks))
    return Fixture(["background", "crop", "tree canopy"], truth)


# --- Datumaro -------------------------------------------------------------------------------------------------------


def _datumaro(classes: list[str], subsets: dict[str, list[str]]) -> tuple[dm.Dataset, dict[str, np.ndarray]]:
    items, truth, n = [], {}, 0
    for subset, names in subsets.items():
        for name in names:
            of = mask(n, kinds=len(classes))
            truth[name] = of
            parts = [dm.Mask(of == kind, label=kind) for kind in range(len(classes))]
            items.append(dm.DatasetItem(name, subset=subset, media=Media.from_numpy(picture(n)[..., ::-1].copy()),
                                        annotations=parts))  # fmt: skip
            n += 1
    return dm.Dataset.from_iterable(items, categories=classes, media_type=Media), truth


SUBSETS = {"train": ["a1", "a2", "a3"], "val": ["b1"]}


def _exported(root: Path, form: str, colours: bool = True, suffix: str = "", **options: object) -> Fixture:
    """Export every pixel of four images, with colours of the data set's own or those that Datumaro chooses."""
    classes = ["background", *CLASSES]
    data, truth = _datumaro(classes, SUBSETS)
    if colours:
        kinds = dm.MaskCategories(dict(enumerate([(0, 0, 0), *COLOURS])))
        data = dm.Dataset.from_iterable(list(data), media_type=Media, categories={
            dm.AnnotationType.label: dm.LabelCategories.from_iterable(classes), dm.AnnotationType.mask: kinds,
        })  # fmt: skip
    data.export(str(root), form, save_media=True, **options)
    return Fixture(classes, {f"{name}{suffix}": of for name, of in truth.items()})


def datumaro_voc(root: Path) -> Fixture:
    """What CVAT calls "segmentation mask 1.1"."""
    return _exported(root, "voc_segmentation", label_map="source")


def datumaro_voc_plain(root: Path) -> Fixture:
    return _exported(root, "voc_segmentation", colours=False, label_map="source")


def datumaro_camvid(root: Path) -> Fixture:
    return _exported(root, "camvid", label_map="source")


def datumaro_cityscapes(root: Path) -> Fixture:
    return _exported(root, "cityscapes", suffix="_leftImg8bit", label_map="source")


def datumaro_coco(root: Path) -> Fixture:
    return _exported(root, "coco_instances", segmentation_mode="mask")


def datumaro_json(root: Path) -> Fixture:
    return _exported(root, "datumaro")


def ultralytics(root: Path) -> Fixture:
    """Polygons as text; the truth is pycocotools' drawing of the same corners."""
    kinds, truth = ["crop", "weed"], {}
    for n, (role, name) in enumerate([("train", "a1"), ("train", "a2"), ("val", "b1")]):
        save(root / "images" / role / f"{name}.jpg", picture(n))
        truth[name], rows = np.zeros((24, 32), np.uint8), []
        for kind, (x, y, right, bottom) in [(0, (3 + n, 2, 15, 12)), (1, (8, 14, 30, 22))]:
            points = [float(v) for v in (x, y, right, y, right, bottom, x, bottom)]
            truth[name][rle.decode(rle.merge(rle.frPyObjects([points], 24, 32))).astype(bool)] = kind + 1
            rows.append(" ".join([str(kind), *(repr(v / (32, 24)[k % 2]) for k, v in enumerate(points))]))
        (root / "labels" / role).mkdir(parents=True, exist_ok=True)
        (root / "labels" / role / f"{name}.txt").write_text("\n".join(rows) + "\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: crop\n  1: weed\n")
    return Fixture(["background", *kinds], truth)


FIXTURES = [
    geotiff, coco_polygons, coco_rle, coco_uncompressed, label_studio, datumaro_voc, datumaro_camvid,
    datumaro_cityscapes, datumaro_coco, datumaro_json, datumaro_voc_plain, ultralytics,
]  # fmt: skip
