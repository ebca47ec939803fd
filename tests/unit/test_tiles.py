"""fewmask.engine.tiles: tiles cover an image, a network that sees single pixels sees no seam, weights by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewmask.engine.tiles import bands, npy_file, starts
from fewmask.errors import WriteError


@pytest.mark.parametrize(
    ("length", "window", "overlap", "expected"),
    [
        (5, 8, 2, [0]),
        (8, 8, 2, [0]),
        (9, 8, 2, [0, 1]),
        (14, 8, 2, [0, 6]),
        (15, 8, 2, [0, 4, 7]),
        (20, 8, 0, [0, 6, 12]),
    ],
)
def test_starts(length: int, window: int, overlap: int, expected: list[int]) -> None:
    """As few as cover the side: 14 = 8 + 6 takes two of 8 with 2 shared, 15 takes three."""
    assert starts(length, window, overlap) == expected


@pytest.mark.parametrize("size", [(3, 4), (16, 16), (17, 40), (61, 16), (50, 47)])
@pytest.mark.parametrize(("window", "overlap"), [(16, 0), (16, 4), (16, 15)])
def test_no_seam(size: tuple[int, int], window: int, overlap: int) -> None:
    """Class probabilities that depend on a pixel alone come back as they are; rows come once each, in order."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)

    def predict(tile: np.ndarray) -> np.ndarray:
        assert max(tile.shape[:2]) <= window
        p = tile[..., 0].astype(np.float32) / 255
        return np.stack([p, 1 - p])

    parts = list(bands(predict, image, window, overlap))
    assert [top for top, _ in parts] == list(np.cumsum([0, *(p.shape[1] for _, p in parts)])[:-1])
    np.testing.assert_allclose(np.concatenate([p for _, p in parts], axis=1), predict_all(image), rtol=1e-6, atol=1e-6)


def predict_all(image: np.ndarray) -> np.ndarray:
    p = image[..., 0].astype(np.float32) / 255
    return np.stack([p, 1 - p])


def test_weights_by_hand() -> None:
    """Two tiles of 4 with 2 shared columns, in an image of one row and 6; the first says 0, the second 1.

    Weights of a tile are 1/3 2/3 2/3 1/3. Of the shared columns the first belongs to weights 2/3 and 1/3: 1/3 · 1 / 1;
    the second to 1/3 and 2/3: 2/3.
    """
    said = iter([0.0, 1.0])

    def predict(tile: np.ndarray) -> np.ndarray:
        return np.full((1, *tile.shape[:2]), next(said), np.float32)

    ((_, p),) = bands(predict, np.zeros((1, 6, 3), np.uint8), 4, 2)
    np.testing.assert_allclose(p[0, 0], [0, 0, 1 / 3, 2 / 3, 1, 1], rtol=1e-6)


def test_memory_is_a_band() -> None:
    """No more rows than a window's are ever held, however tall the image is."""
    tall = np.zeros((1000, 20, 3), np.uint8)
    parts = bands(lambda tile: np.ones((3, *tile.shape[:2]), np.float32), tall, 32, 8)
    assert max(p.shape[1] for _, p in parts) <= 32


def test_a_file_filled_by_bands(tmp_path: Path) -> None:
    """Written in any order; numpy reads what was given, in float16."""
    values = np.random.default_rng(0).random((3, 10, 4), np.float32)
    with npy_file(tmp_path / "new" / "p.npy", (3, 10, 4)) as write:
        for row in (7, 0, 4):
            write(row, values[:, row : row + {0: 4, 4: 3, 7: 3}[row]])
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "p.npy", allow_pickle=False), values.astype(np.float16))


def test_no_file_if_a_band_is_missing_or_prediction_fails(tmp_path: Path) -> None:
    """A file that is too short is none."""
    with (
        pytest.raises(WriteError, match="the disk kept"),
        npy_file(tmp_path / "p.npy", (2, 4, 5)) as write,
    ):
        write(0, np.zeros((2, 3, 5), np.float32))
    with pytest.raises(ZeroDivisionError), npy_file(tmp_path / "p.npy", (2, 4, 5)) as write:
        write(0, np.zeros((2, 4, 5), np.float32))
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
