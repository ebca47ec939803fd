"""What a model takes as an image, and how it holds the scores of a large one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from fewmask.data.bands import Band
from fewmask.engine.rows import rows_on_grid
from fewmask.errors import DataError
from fewmask.run import model as large
from fewmask.run.model import Model, ModelCard
from fixtures_model import pixel_model


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (21, 34, 3), np.uint8)


def card(**values: Any) -> Model:
    """The pixel model, with other values of its card."""
    found = pixel_model()
    return Model(found.net, ModelCard(**dict(found.card) | values), torch.device("cpu"))


# --- arrays and pictures


@pytest.mark.parametrize(
    "change",
    [
        lambda a: (a / 255).astype(np.float32), lambda a: a / 255, lambda a: a.astype(np.uint16) * 257,
        lambda a: a.astype(np.int64), lambda a: a > 127, lambda a: a[..., 0], lambda a: a[..., :2], lambda a: a[:0],
        lambda a: a[None], lambda a: a.tolist(), lambda a: torch.from_numpy(a), lambda a: None,
    ],
)  # fmt: skip
def test_other_numbers_than_bytes_are_refused(change, image):
    """Floats of 0 to 1 would be black, 16 bits white: neither is guessed."""
    for ask in (pixel_model().predict, pixel_model().logits, pixel_model().probabilities):
        with pytest.raises(DataError, match=r"no image.*give uint8 \[H, W, 3\], values 0 to 255"):
            ask(change(image))


def test_views_of_arrays_are_arrays(image):
    model = pixel_model()
    assert (model.predict(image[:, ::-1]) == model.predict(image)[:, ::-1]).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "LA", "RGBA"])
def test_a_picture_is_read_as_its_file_is(mode, image, tmp_path):
    picture, model = Image.fromarray(image).convert(mode), pixel_model()
    picture.save(tmp_path / "a.png")
    assert (model.predict(picture) == model.predict(tmp_path / "a.png")).all()
    with Image.open(tmp_path / "a.png") as opened:
        assert (model.pixels(opened) == model.read(tmp_path / "a.png")).all()


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_a_picture_is_turned_as_its_file_is(name, upright, image, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(image).save(tmp_path / name, exif=exif)
    model = card(upright=upright)
    expected = model.predict(str(tmp_path / name))
    with Image.open(tmp_path / name) as opened:
        assert (model.predict(opened) == expected).all()
    assert expected.shape == (image.shape[1::-1] if upright or name == "a.tif" else image.shape[:2])


def saved(folder: Path, image: np.ndarray) -> dict[str, Path]:
    clear = np.dstack([image, image[..., :1]])
    pictures = {
        "deep.png": Image.fromarray(image[..., 0].astype(np.uint16) * 257), "clear.png": Image.fromarray(clear),
        "printed.jpg": Image.fromarray(clear, mode="CMYK"), "float.tif": Image.fromarray(image[..., 0] / np.float32(9)),
    }  # fmt: skip
    for name, picture in pictures.items():
        picture.save(folder / name)
    return {name: folder / name for name in pictures}


@pytest.mark.parametrize("name", ["deep.png", "clear.png", "printed.jpg", "float.tif"])
def test_a_finished_model_asks_for_what_it_reads(name, image, tmp_path):
    """Not for a data.yaml, which nobody would read."""
    file = saved(tmp_path, image)[name]
    bands = tuple(band.told() for band in (Band(1, "red"), Band(2, "green"), Band(5, "nir")))
    with Image.open(file) as opened:
        for given in (file, opened):
            with pytest.raises(DataError, match="this model reads opaque 8-bit RGB: convert it") as refused:
                pixel_model().predict(given)
            assert "data.yaml" not in str(refused.value)
            with pytest.raises(DataError, match=r"band 5 is declared.*this model reads the bands 1 \(red\), 2 \(gre"):
                card(channels=bands).predict(given)


def test_a_damaged_picture(image, tmp_path):
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    with Image.open(tmp_path / "half.png") as opened, pytest.raises(DataError, match="cannot be read"):
        pixel_model().predict(opened)


# --- memory


@pytest.mark.parametrize("size", [(7, 9), (40, 31), (16, 12), (3, 5), (97, 12)])
def test_rows_of_a_grid_are_those_of_the_whole(size):
    """Larger, smaller and equal grids; a band of 5 rows at a time, and of one."""
    scores = torch.randn(1, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    for most in (5 * 3 * size[1], 1, 10**6):
        parts = list(rows_on_grid(scores, size, most))
        assert [row for row, _ in parts] == list(range(0, size[0], {1: 1, 10**6: size[0]}.get(most, 5)))
        torch.testing.assert_close(torch.cat([part for _, part in parts], 2), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("resize", [(16, 24), "long:40"])
def test_a_model_that_resizes_holds_a_band_of_rows(resize, image, monkeypatch):
    torch.manual_seed(0)
    found = pixel_model()
    model = Model(nn.Conv2d(3, 3, 3, padding=1), ModelCard(**dict(found.card) | {"resize": resize}), found.device)
    ((_, whole),) = model.bands(image)
    expected = model.predict(image)
    monkeypatch.setattr(large, "_AT_ONCE", 4 * 3 * image.shape[1])
    parts = list(model.bands(image))
    assert [len(part[0]) for _, part in parts] == [4, 4, 4, 4, 4, 1]
    np.testing.assert_allclose(np.concatenate([part for _, part in parts], 1), whole, atol=1e-6)
    np.testing.assert_allclose(model.probabilities(image), whole, atol=1e-6)
    assert (model.predict(image) == expected).all()


def test_many_classes_are_predicted_in_tiles(monkeypatch):
    """12 million pixels are few, of 150 classes they are 1.8 billion scores."""
    pixels = np.zeros((3000, 4000, 3), np.uint8)
    many = card(classes=tuple(f"c{i}" for i in range(150)), ids=tuple(range(150)))
    assert pixel_model().tile_for(pixels) == 0 and many.tile_for(pixels) == 512
    assert many.tile_for(pixels[:900, :900]) == 0
    resized = card(classes=many.card.classes, ids=many.card.ids, resize=(512, 512))
    assert resized.tile_for(pixels) == 0


def test_tiles_for_many_classes_change_nothing(image, monkeypatch):
    expected = pixel_model().predict(image)
    monkeypatch.setattr(large, "_SCORES", 3 * 500)
    monkeypatch.setattr(large, "_TILE", 16)
    assert len(list(pixel_model().bands(image))) > 1 and (pixel_model().predict(image) == expected).all()
