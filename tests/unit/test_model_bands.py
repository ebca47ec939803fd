"""Large images: what looks at probabilities sees a band of rows at a time, and finds what it finds in the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewmask.data.index import Item, MaskCode
from fewmask.run import model as large
from fewmask.run.doubt import _doubt
from fewmask.run.model import Model
from fewmask.run.suggest import _share_and_entropy
from fixtures_model import pixel_model


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A network that sees single pixels; images above 1 megapixel would be tiled, here those above 500 pixels."""
    monkeypatch.setattr(large, "_LARGE", 500)
    monkeypatch.setattr(large, "_TILE", 16)
    return pixel_model()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (45, 38, 3), np.uint8)


def whole(model: Model, image: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    ((_, p),) = model.bands(image, 0, temperature)
    return p


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_bands(temperature: float, model: Model, image: np.ndarray) -> None:
    """More than one band, no row twice, probabilities at the temperature that is asked for."""
    parts = list(model.bands(image, temperature=temperature))
    assert len(parts) > 1
    np.testing.assert_allclose(
        np.concatenate([p for _, p in parts], axis=1), whole(model, image, temperature), atol=1e-6
    )
    logits = torch.from_numpy(model.logits(image).numpy())
    np.testing.assert_allclose(whole(model, image, temperature), (logits / temperature).softmax(1)[0], atol=1e-6)


def test_shares_and_entropy(model: Model, image: np.ndarray) -> None:
    """Mean probabilities, and -Σ p log p over log 3, averaged over all pixels."""
    p = whole(model, image).astype(np.float64)
    share, entropy = _share_and_entropy(model, image)
    np.testing.assert_allclose(share, p.mean((1, 2)), atol=1e-6)
    assert entropy == pytest.approx(-(p * np.log(np.maximum(p, 1e-12))).sum(0).mean() / np.log(3), abs=1e-6)


def test_doubt(model: Model, image: np.ndarray, tmp_path: Path) -> None:
    """Mean -log p of the mask's class over known pixels, and the share where another class has more than 0.9."""
    codes = np.random.default_rng(2).integers(0, 3, image.shape[:2])
    ids = codes.astype(np.uint8)
    ids[:7] = 255  # void
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(ids).save(tmp_path / "mask.png")
    found = _doubt(model, Item("a", tmp_path / "a.png", tmp_path / "mask.png"), MaskCode())
    p, known = whole(model, image)[:, 7:], codes[7:]
    own = np.take_along_axis(p, known[None], 0)[0]
    against = (p.argmax(0) != known) & (p.max(0) > 0.9)
    assert found.score == pytest.approx(-np.log(np.maximum(own, 1e-6)).mean(), rel=1e-5)
    assert found.against == pytest.approx(against.mean()) and 0.1 < found.against < 0.9
    pairs, counts = np.unique(np.stack([known[against], p.argmax(0)[against]]), axis=1, return_counts=True)
    said, other = (model.classes[i] for i in pairs[:, counts.argmax()])
    assert found.reason.endswith(f"mostly {other} where the mask says {said}")
