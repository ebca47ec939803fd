"""Images that are read and written in windows: the masks that memory would give, a place on earth, empty pixels."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewmask.data import mosaic
from fewmask.data.bands import Band
from fewmask.data.images import read_image
from fewmask.data.index import ImageCode
from fewmask.data.mosaic import is_mosaic, opened_mosaic, preview_step
from fewmask.engine.geotiff import mask_file
from fewmask.errors import DataError, WriteError
from fewmask.run import model as large
from fewmask.run import predict
from fewmask.run.model import Model
from fewmask.run.places import Places
from fewmask.run.predict import predict_file, targets_of
from fixtures_model import pixel_model

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")

HEIGHT, WIDTH = 1100, 600
PLACE = {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(500_000, 5_400_000, 0.1, 0.1)}


def write(path: Path, pixels_HWC: np.ndarray, **more: Any) -> Path:
    height, width, count = pixels_HWC.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=pixels_HWC.dtype.name, **PLACE, **more
    ) as file:
        file.write(pixels_HWC.transpose(2, 0, 1))
    return path


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A network that sees single pixels, so that tiles make no difference; what is large is small here."""
    monkeypatch.setattr(large, "_LARGE", 10_000)
    monkeypatch.setattr(large, "_TILE", 100)
    monkeypatch.setattr(mosaic, "MAX_PIXELS", 400_000)
    return pixel_model((0, 3, 255))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(1, 256, (HEIGHT, WIDTH, 3), np.uint8)


def made(model: Model, file: Path, out: Path, probs: bool = False) -> tuple[dict[str, Any], dict[str, Path]]:
    paths = targets_of(out, file.stem, file, probs)
    return predict_file(model, file, paths, None, model.views()), paths


def test_the_mask_is_that_of_the_image_in_memory(model, pixels, tmp_path):
    file = write(tmp_path / "a.tif", pixels)
    told, paths = made(model, file, tmp_path / "out", probs=True)
    expected = np.array(model.ids)[model.predict(pixels)]
    with rasterio.open(paths["tiff"]) as found:
        assert (found.read(1) == expected).all() and found.crs.to_epsg() == 32632
        assert found.transform == PLACE["transform"] and found.nodata == 254, "255 is a class"
    assert told["height"] == HEIGHT and told["width"] == WIDTH and told["mask"] == str(paths["tiff"])
    counts = {name: int((expected == i).sum()) for name, i in zip(model.classes, model.ids, strict=True)}
    assert told["pixels"] == counts and sum(counts.values()) == HEIGHT * WIDTH
    probs = np.load(paths["probs"])
    np.testing.assert_allclose(probs, model.probabilities(pixels), atol=2e-3)
    assert told["confidence"] == pytest.approx(float(probs.max(0).mean()), abs=1e-3)
    with Image.open(paths["overlay"]) as small:
        step = preview_step(HEIGHT, WIDTH)
        assert small.size == (-(-WIDTH // step), -(-HEIGHT // step))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.tif", "overlay", "probs"]


def test_the_preview_is_evenly_spaced_over_all_bands(model, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "preview_step", lambda height, width: 7)
    pixels[:] = (np.arange(HEIGHT) % 256)[:, None, None]
    monkeypatch.setattr(predict, "overlay", lambda image, mask: Image.fromarray(image))
    _, paths = made(model, write(tmp_path / "a.tif", pixels), tmp_path / "out")
    assert (np.asarray(Image.open(paths["overlay"]))[:, 0, 0] == (np.arange(0, HEIGHT, 7) % 256)).all()


def test_pixels_that_hold_nothing(model, pixels, tmp_path):
    """By the file's nodata value, or not opaque: they get the nodata value of the mask, and do not count."""
    pixels[200:500, :250] = 0
    clear = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    clear[200:500, :250] = 0
    expected = np.array(model.ids)[model.predict(pixels)]
    expected[200:500, :250] = 254
    for name, content, more in (
        ("nodata", pixels, {"nodata": 0}),
        ("alpha", np.concatenate([pixels, clear], axis=2), {"photometric": "RGB", "alpha": "YES"}),
    ):
        told, paths = made(model, write(tmp_path / f"{name}.tif", content, **more), tmp_path / name)
        with rasterio.open(paths["tiff"]) as found:
            assert (found.read(1) == expected).all(), name
        assert sum(told["pixels"].values()) == HEIGHT * WIDTH - 300 * 250, name


def test_windows_are_what_is_read_at_once(pixels, tmp_path):
    wide = (pixels.astype(np.uint16) * 16)[:90, :70]
    grey, colours = write(tmp_path / "g.tif", pixels[:90, :70, :1]), write(tmp_path / "c.tif", pixels[:90, :70])
    for file in (grey, colours):
        with opened_mosaic(file, ImageCode()) as found:
            whole = read_image(file)
            assert found.shape == whole.shape and (found[:, :] == whole).all()
            assert (found[10:33, 5:99] == whole[10:33, 5:99]).all()
    with pytest.raises(DataError, match="uint16 images of gray.*not read without declaration.*channels"):
        with opened_mosaic(write(tmp_path / "w.tif", wide[..., :1]), ImageCode()):
            pass


def test_a_declared_band_is_no_alpha_band(tmp_path):
    """GDAL takes the fourth of four 8-bit bands for opacity; where data.yaml calls it nir, it is a band like others."""
    content = np.random.default_rng(2).integers(0, 256, (90, 70, 4), np.uint8)
    file = write(tmp_path / "n.tif", content, photometric="RGB", alpha="YES")
    bands = (Band(2, "green"), Band(4, "nir"))
    with opened_mosaic(file, ImageCode(False, bands)) as found:
        assert not found.empty((slice(0, 90), slice(None))).any()
        assert (found[:, :] == read_image(file, ImageCode(False, bands))).all()
    with opened_mosaic(file, ImageCode(False, bands[:1])) as found:  # not declared: it says what is opaque
        assert (found.empty((slice(0, 90), slice(None))) == (content[..., 3] < 255)).all()


def test_a_damaged_image_is_no_full_disk(model, pixels, tmp_path):
    file = write(tmp_path / "a.tif", pixels, compress="deflate", blockysize=16)
    with open(file, "r+b") as handle:
        handle.seek(file.stat().st_size // 2)
        handle.write(b"\0" * 4000)
    with pytest.raises(DataError, match="cannot be read: .*replace or remove this file"):
        made(model, file, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_windows_would_read_in_another_way_is_refused(pixels, tmp_path):
    small = Image.fromarray(pixels[:60, :50])
    small.save(tmp_path / "turned.tif", tiffinfo={274: 6})
    small.save(tmp_path / "pages.tif", save_all=True, append_images=[small])
    for name, what in (("turned", "upright only"), ("pages", "holds 2 frames or pages")):
        with pytest.raises(DataError, match=what), opened_mosaic(tmp_path / f"{name}.tif", ImageCode()):
            pass
    file = write(tmp_path / "overviews.tif", pixels)
    with rasterio.open(file, "r+") as dataset:
        dataset.build_overviews([2, 4])
    with opened_mosaic(file, ImageCode()) as found:  # smaller versions of the picture are no pages
        assert (found[:, :] == pixels).all()
    assert (read_image(file) == pixels).all(), "nor are they for what is read at once"


def test_the_preview_keeps_no_band(model, pixels, tmp_path, monkeypatch):
    """Views of the rows would keep the whole image until the end."""
    shown: list[bool] = []

    def overlay(image: np.ndarray, mask: np.ndarray) -> Image.Image:
        return Image.fromarray(image)

    def joined(parts: Any, **more: Any) -> np.ndarray:
        shown.append(all(part.base is None for part in parts))
        return together(parts, **more)

    together = np.concatenate
    file = write(tmp_path / "a.tif", pixels)
    monkeypatch.setattr(predict, "overlay", overlay)
    monkeypatch.setattr(predict.np, "concatenate", joined)
    made(model, file, tmp_path / "out")
    assert shown[-2:] == [True, True]


def test_what_a_killed_process_left_goes_when_nobody_writes_to_it(tmp_path):
    old, new = tmp_path / ".tmp-1-00000000", tmp_path / ".tmp-2-00000000"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    predict.make_room([tmp_path / "a.tif"])
    assert not old.exists() and new.exists()


def test_what_is_a_mosaic(model, pixels, tmp_path):
    small = write(tmp_path / "small.tif", pixels[:100, :100])
    Image.fromarray(pixels).save(tmp_path / "large.png")
    assert not is_mosaic(small) and not is_mosaic(tmp_path / "large.png")
    assert is_mosaic(write(tmp_path / "large.tif", pixels))
    with pytest.raises(DataError, match="1000 pixels wide, more than the 781"):  # a row of tiles would not fit either
        with opened_mosaic(write(tmp_path / "wide.tif", np.zeros((1, 1000, 3), np.uint8)), ImageCode()):
            pass


def test_a_model_that_needs_the_whole_image_says_so(model, pixels, tmp_path):
    file = write(tmp_path / "a.tif", pixels)
    with pytest.raises(DataError, match="predicted in tiles, which this model or --tile 0 rules out"):
        predict_file(model, file, targets_of(tmp_path / "out", "a", file, False), 0, model.views())
    assert not (tmp_path / "out").exists()


def test_a_mask_that_is_not_finished_is_not_there(tmp_path):
    target, rows = tmp_path / "m.tif", np.zeros((300, 50), np.uint8)
    with pytest.raises(DataError), mask_file(target, (600, 50), np.dtype(np.uint8), 255, {}) as append:
        append(rows)
        raise DataError("damaged")
    with pytest.raises(AssertionError, match="rows are missing"):
        with mask_file(target, (600, 50), np.dtype(np.uint8), 255, {}) as append:
            append(rows)
    with pytest.raises(WriteError):
        with mask_file(tmp_path / "nowhere" / "m.tif", (300, 50), np.dtype(np.uint8), 255, {}) as append:
            append(rows)
    assert list(tmp_path.iterdir()) == []


# --- images that are read at once


def small(path: Path, pixels_HWC: np.ndarray, **more: Any) -> Path:
    """Write a TIFF without a place unless ``more`` says one."""
    height, width, count = pixels_HWC.shape
    shape = {"height": height, "width": width, "count": count, "dtype": pixels_HWC.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **shape, **more) as file:
        file.write(pixels_HWC.transpose(2, 0, 1))
    return path


@pytest.fixture
def few(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels[:60, :50].copy()
    pixels[20:40, :10] = 0
    return pixels


def test_pixels_that_hold_nothing_of_small_images(model, few, tmp_path):
    """As of large ones: no class, not counted, the mask's nodata value."""
    expected = np.array(model.ids)[model.predict(few)]
    plain, plain_paths = made(model, small(tmp_path / "p.tif", few, **PLACE), tmp_path / "plain")
    assert (np.asarray(Image.open(plain_paths["mask"])) == expected).all()
    expected[20:40, :10] = 254
    told, paths = made(model, small(tmp_path / "a.tif", few, nodata=0, **PLACE), tmp_path / "out")
    with rasterio.open(paths["tiff"]) as found:
        assert (found.read(1) == expected).all() and found.nodata == 254
    assert (np.asarray(Image.open(paths["mask"])) == expected).all()
    assert (np.asarray(Image.open(paths["overlay"]))[20:40, :10] == 0).all(), "the photograph alone"
    assert sum(told["pixels"].values()) == few.shape[0] * few.shape[1] - 200 != sum(plain["pixels"].values())
    p = model.probabilities(few).max(0)
    assert told["confidence"] == pytest.approx(p[expected != 254].mean(), abs=1e-6)
    assert plain["confidence"] == pytest.approx(p.mean(), abs=1e-6)


def test_nothing_is_where_the_image_is_turned_to(few, tmp_path):
    """Pillow turns a TIFF as its orientation says; what GDAL says of its pixels is turned alike."""
    file = tmp_path / "t.tif"
    Image.fromarray(few).save(file, tiffinfo={274: 6, 42113: "0"})  # GDAL's own tag of the nodata value
    found, image = mosaic.pixels_without_content(file, ImageCode()), read_image(file)
    assert found is not None and found.shape == image.shape[:2] == (50, 60)
    assert (found == (image == 0).all(2)).all() and found.sum() == 200


def test_ground_control_points_are_kept(model, few, tmp_path):
    points = [rasterio.control.GroundControlPoint(r, c, 5e5 + c, 5e6 - r) for r, c in ((0, 0), (0, 50), (60, 0))]
    _, paths = made(model, small(tmp_path / "g.tif", few, gcps=points, crs="EPSG:32632"), tmp_path / "out")
    with rasterio.open(paths["tiff"]) as found:
        assert [(p.row, p.col, p.x, p.y) for p in found.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in points]
        assert found.gcps[1].to_epsg() == 32632


def test_a_world_file_is_read(model, few, tmp_path):
    """It names the middle of the upper left pixel: half a pixel beside what GDAL calls the origin."""
    file = small(tmp_path / "w.tif", few)
    (tmp_path / "w.tfw").write_text("0.5\n0.0\n0.0\n-0.5\n1000.25\n1999.75\n")
    _, paths = made(model, file, tmp_path / "out")
    with rasterio.open(paths["tiff"]) as found:
        assert found.transform == rasterio.transform.from_origin(1000, 2000, 0.5, 0.5) and found.crs is None
    with rasterio.open(file) as gdal:
        assert gdal.transform == rasterio.transform.from_origin(1000, 2000, 0.5, 0.5), "GDAL's own reading"


@pytest.mark.parametrize(
    ("name", "beside", "text"),
    [
        ("w.tif", "w.tfw", "0.5 0 0 -0.5 1000"), ("w.tif", "w.TFW", "none"), ("w.tif", "w.wld", "0 0 0 0 1 2"),
        ("w.tif", "w.tif.aux.xml", "<PAMDataset><GeoTransform> 1, 2, 3, 4, 5, 6</GeoTransform></PAMDataset>"),
        ("w.png", "w.pgw", "1 0 0 -1 5 5"), ("w.jpg", "w.jgw", "1 0 0 -1 5 5"),
    ],
)  # fmt: skip
def test_a_place_that_is_not_read_is_said(name, beside, text, model, few, tmp_path):
    Image.fromarray(few).save(tmp_path / name)
    (tmp_path / "w.png.aux.xml").write_text("<PAMDataset><Metadata/></PAMDataset>")
    said: list[str] = []
    places = Places(ImageCode(), 1)
    places.look(tmp_path / name, targets_of(tmp_path, "w", tmp_path / name, False))
    places.tell(said.append)
    assert said == []
    (tmp_path / beside).write_text(text)
    places.look(tmp_path / name, targets_of(tmp_path, "w", tmp_path / name, False))
    places.tell(said.append)
    assert len(said) == 1 and f"{tmp_path / beside}, which may say where an image lies, is not read" in said[0]
