"""Write the fixture folders of ``tests/formats`` with the tools that people use, and never with fewmask.

    uv venv tools && uv pip install --python tools/bin/python datumaro==1.13.12 label-studio-sdk==2.1.2 \
        rasterio==1.4.4 pycocotools==2.0.11 pillow==12.3.0
    tools/bin/python tests/formats/make.py

Each becomes NAME.zip: the folder ``data`` as a tool wrote it, and ``truth.npz``: for every masked image, by the stem of
its file, the class index of every pixel (255: does not count), and the names of the classes as "classes".
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import datumaro as dm
import numpy as np
import rasterio
from datumaro.components.media import Image as Media
from label_studio_sdk.converter import brush
from PIL import Image
from pycocotools import mask as rle
from rasterio.transform import from_origin

HERE = Path(__file__).parent
VOID = 255
CLASSES = ["field", "road", "tree canopy"]
COLOURS = [(128, 64, 0), (0, 0, 250), (10, 200, 30)]


@dataclass
class Fixture:
    """What was written: the names of its classes, and the true mask of every image that has one, by stem."""

    classes: list[str]
    truth: dict[str, np.ndarray] = field(default_factory=dict)


def picture(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return small.repeat(4, 0).repeat(4, 1)[:height, :width] // 2 + rng.integers(0, 120, (height, width, 3), np.uint8)


def mask(seed: int, height: int = 24, width: int = 32, kinds: int = 3) -> np.ndarray:
    """Return blocks of every class, uint8 [H, W]."""
    rng = np.random.default_rng(1000 + seed)
    blocks = rng.integers(0, kinds, (height // 4 + 1, width // 4 + 1)).astype(np.uint8)
    blocks[0, :kinds] = range(kinds)
    return blocks.repeat(4, 0).repeat(4, 1)[:height, :width]


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def rgb(of: np.ndarray, colours: list[tuple[int, int, int]] = COLOURS) -> np.ndarray:
    return np.array(colours, np.uint8)[of]


def folders(
    root: Path, store: Callable[[Path, np.ndarray], None] | None = None, kinds: int = 3, suffix: str = ".png",
    names: tuple[str, ...] = ("a1", "a2", "a3", "b1"), bare: tuple[str, ...] = ("c1", "c2"),
    sizes: tuple[tuple[int, int], ...] = ((24, 32),),
) -> dict[str, np.ndarray]:  # fmt: skip
    """Write images/ and masks/ with the same stems, some images without a mask."""
    truth = {}
    for n, name in enumerate((*names, *bare)):
        size = sizes[n % len(sizes)]
        save(root / "images" / f"{name}{suffix}", picture(n, *size))
        if name in names:
            truth[name] = mask(n, *size, kinds)
            (root / "masks").mkdir(exist_ok=True)
            (store or save)(root / "masks" / f"{name}.png", truth[name])
    return truth


def classes_txt(root: Path, classes: list[str] = CLASSES) -> list[str]:
    (root / "classes.txt").write_text("\n".join(classes) + "\n")
    return classes


# --- Pillow: folders of images and masks ----------------------------------------------------------------------------


def pairs_index(root: Path) -> Fixture:
    return Fixture(classes_txt(root), folders(root))


def pairs_no_names(root: Path) -> Fixture:
    return Fixture([], folders(root))


def pairs_paletted(root: Path) -> Fixture:
    def store(path: Path, pixels: np.ndarray) -> None:
        image = Image.fromarray(pixels)
        image.putpalette([v for colour in COLOURS for v in colour] + [0] * (768 - 9))
        image.save(path)

    return Fixture(classes_txt(root), folders(root, store))


def pairs_void(root: Path) -> Fixture:
    truth = {}

    def store(path: Path, pixels: np.ndarray) -> None:
        pixels[:2] = VOID
        save(path, pixels)

    truth = folders(root, store)
    return Fixture(classes_txt(root), truth)


def pairs_binary_255(root: Path) -> Fixture:
    truth = folders(root, lambda path, pixels: save(path, pixels * 255), kinds=2)
    return Fixture([], truth)


def pairs_one_bit(root: Path) -> Fixture:
    truth = folders(root, lambda path, pixels: Image.fromarray(pixels * 255).convert("1").save(path), kinds=2)
    return Fixture([], truth)


def pairs_16_bit(root: Path) -> Fixture:
    return Fixture(classes_txt(root), folders(root, lambda path, pixels: save(path, pixels.astype(np.uint16))))


def pairs_16_bit_ids(root: Path) -> Fixture:
    ids = np.array([7, 300, 1200], np.uint16)
    return Fixture([], folders(root, lambda path, pixels: save(path, ids[pixels])))


def pairs_mixed_sizes(root: Path) -> Fixture:
    return Fixture(classes_txt(root), folders(root, sizes=((24, 32), (30, 20), (17, 41))))


def pairs_names(root: Path) -> Fixture:
    names = ("field 1 (copy)", "Straße_ä", "画像01", "IMG 0003.final")
    return Fixture(classes_txt(root), folders(root, names=names, bare=("ohne maske",)))


def pairs_capitals(root: Path) -> Fixture:
    return Fixture(classes_txt(root), folders(root, suffix=".JPG"))


def pairs_roles(root: Path) -> Fixture:
    truth = {}
    for n, (role, name) in enumerate(
        [("train", "a1"), ("train", "a2"), ("train", "u1"), ("valid", "b1"), ("test", "d1")]
    ):
        save(root / "images" / role / f"{name}.jpg", picture(n))
        if name != "u1":
            truth[name] = mask(n)
            save(root / "masks" / role / f"{name}.png", truth[name])
    return Fixture(classes_txt(root), truth)


def pairs_crlf(root: Path) -> Fixture:
    truth = folders(root)
    (root / "classes.txt").write_bytes("\r\n".join(CLASSES).encode("utf-8-sig") + b"\r\n")
    return Fixture(CLASSES, truth)


def pairs_exif(root: Path) -> Fixture:
    truth = folders(root, suffix=".jpg")
    turned = Image.fromarray(picture(0))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(root / "images" / "a1.jpg", exif=exif)
    return Fixture(classes_txt(root), truth)


def pairs_rgb_table(root: Path) -> Fixture:
    """RGB masks and class_dict.csv, as on Kaggle."""
    truth = {}
    for n, name in enumerate(("a1", "a2", "b1")):
        truth[name] = mask(n)
        save(root / "train" / f"{name}.png", picture(n))
        save(root / "train_labels" / f"{name}_L.png", rgb(truth[name]))
    with open(root / "class_dict.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "r", "g", "b"])
        writer.writerows([name, *colour] for name, colour in zip(CLASSES, COLOURS, strict=True))
    return Fixture(CLASSES, truth)


def pairs_rgb_bare(root: Path) -> Fixture:
    return Fixture([], folders(root, lambda path, pixels: save(path, rgb(pixels))))


def pairs_anti_aliased(root: Path) -> Fixture:
    def store(path: Path, pixels: np.ndarray) -> None:
        image = Image.fromarray(pixels * 100)
        image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC).resize(image.size).save(path)

    return Fixture(classes_txt(root), folders(root, store))


def pairs_jpeg_masks(root: Path) -> Fixture:
    def store(path: Path, pixels: np.ndarray) -> None:
        Image.fromarray(pixels * 80).save(path.with_suffix(".jpg"), quality=80)

    return Fixture([], folders(root, store))


def pairs_black_masks(root: Path) -> Fixture:
    """340 black masks among 60 real ones: what was not annotated was exported all the same."""
    truth = {}
    for n in range(400):
        name = f"{n:03d}"
        save(root / "images" / f"{name}.png", picture(n, 8, 8))
        truth[name] = mask(n, 8, 8, 2) if n < 60 else np.zeros((8, 8), np.uint8)
        save(root / "masks" / f"{name}.png", truth[name])
    return Fixture(classes_txt(root, ["ground", "crop"]), truth)


def beside(root: Path) -> Fixture:
    truth = {}
    for n, name in enumerate(("a1", "a2", "b1", "c1")):
        save(root / f"{name}.jpg", picture(n))
        if name != "c1":
            truth[name] = mask(n)
            save(root / f"{name}_mask.png", truth[name])
    return Fixture([], truth)


def ade20k(root: Path) -> Fixture:
    """The scene parsing benchmark: 0 is no class."""
    truth = {}
    classes = [f"thing {n}" for n in range(1, 151)]
    for n, (role, name) in enumerate(
        [("training", "ADE_train_1"), ("training", "ADE_train_2"), ("validation", "ADE_val_1")]
    ):
        stored = mask(n, kinds=4) * 50
        truth[name] = np.where(stored == 0, VOID, stored - 1).astype(np.uint8)
        save(root / "images" / role / f"{name}.jpg", picture(n))
        save(root / "annotations" / role / f"{name}.png", stored)
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"] + [f"{n + 1}\t0.1\t1\t1\t0\t{c}" for n, c in enumerate(classes)]
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    return Fixture(classes, truth)


def roboflow(root: Path) -> Fixture:
    truth = {}
    for n, (role, name) in enumerate([("train", "a1"), ("train", "a2"), ("valid", "b1"), ("test", "d1")]):
        stem = f"{name}_jpg.rf.0123456789abcdef"
        truth[stem] = mask(n)
        save(root / role / f"{stem}.jpg", picture(n))
        save(root / role / f"{stem}_mask.png", truth[stem])
    for role in ("train", "valid", "test"):
        rows = "".join(f"{n}, {name}\n" for n, name in enumerate(CLASSES))
        (root / role / "_classes.csv").write_text(f"Pixel Value, Class\n{rows}")
    return Fixture(CLASSES, truth)


def nnunet(root: Path) -> Fixture:
    truth = {}
    for n, name in enumerate(("case_001", "case_002", "case_003")):
        truth[f"{name}_0000"] = mask(n)
        save(root / "imagesTr" / f"{name}_0000.png", picture(n))
        save(root / "labelsTr" / f"{name}.png", truth[f"{name}_0000"])
    save(root / "imagesTs" / "case_009_0000.png", picture(9))
    labels = {name: n for n, name in enumerate(CLASSES)}
    about = {"channel_names": {"0": "R"}, "labels": labels, "numTraining": 3, "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(about))
    return Fixture(CLASSES, truth)


def huggingface(root: Path) -> Fixture:
    """An image folder of the library ``datasets`` with two columns of images."""
    truth, rows = {}, []
    for n, (role, name) in enumerate([("train", "a1"), ("train", "a2"), ("train", "u1"), ("validation", "b1")]):
        save(root / role / f"{name}.png", picture(n))
        row = {"file_name": f"{name}.png"}
        if name != "u1":
            truth[name] = mask(n)
            save(root / role / "annotations" / f"{name}.png", truth[name])
            row["annotation_file_name"] = f"annotations/{name}.png"
        rows.append((role, row))
    for role in ("train", "validation"):
        lines = [json.dumps(row) for r, row in rows if r == role]
        (root / role / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return Fixture([], truth)


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
    pairs_index, pairs_no_names, pairs_paletted, pairs_void, pairs_binary_255, pairs_one_bit, pairs_16_bit,
    pairs_16_bit_ids, pairs_mixed_sizes, pairs_names, pairs_capitals, pairs_roles, pairs_crlf, pairs_exif,
    pairs_rgb_table, pairs_rgb_bare, pairs_anti_aliased, pairs_jpeg_masks, pairs_black_masks, beside, ade20k,
    roboflow, nnunet, huggingface, geotiff, coco_polygons, coco_rle, coco_uncompressed, label_studio, datumaro_voc,
    datumaro_camvid, datumaro_cityscapes, datumaro_coco, datumaro_json, datumaro_voc_plain, ultralytics,
]  # fmt: skip


def main() -> None:
    for make in FIXTURES:
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "data"
            root.mkdir()
            made = make(root)
            np.savez_compressed(Path(scratch) / "truth.npz", classes=np.array(made.classes, dtype=str), **made.truth)
            target = HERE / f"{make.__name__}.zip"
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(p for p in Path(scratch).rglob("*") if p.is_file()):
                    # one date for all: a fixture that is made again is the same file
                    entry = zipfile.ZipInfo(file.relative_to(scratch).as_posix(), (2026, 1, 1, 0, 0, 0))
                    archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
            print(f"{target.name}: {target.stat().st_size} bytes, {len(made.truth)} masks")
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
