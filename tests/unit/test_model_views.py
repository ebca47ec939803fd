"""``predict`` with --flip and --scales: averages of probabilities, worked out beside it by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.engine.tiles import bands
from fewmask.errors import ConfigError
from fewmask.run.model import Model, ModelCard


def model(net: nn.Module, protocol: str = "whole") -> Model:
    card = ModelCard(
        format=1, arch="fcn", encoder="tiny", classes=("a", "b", "c"), ids=(0, 1, 2), mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25), resize=None, protocol=protocol,
    )  # fmt: skip
    return Model(net, card, torch.device("cpu"))


@pytest.fixture
def lopsided() -> nn.Module:
    """A network that sees a pixel and its neighbours, and tells left from right."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 3, padding=1)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (21, 34, 3), np.uint8)


def normalised(image: np.ndarray) -> Tensor:
    return (torch.from_numpy(image.transpose(2, 0, 1).copy()).float()[None] / 255 - 0.5) / 0.25


@torch.no_grad()
def both(net: nn.Module, x: Tensor) -> Tensor:
    """The mean of the probabilities of an image and of its mirror image, mirrored back."""
    return (net(x).softmax(1) + net(x.flip(-1)).softmax(1).flip(-1)) / 2


@torch.no_grad()
def resized(net: nn.Module, x: Tensor, height: int, width: int, mirrored: bool = False) -> Tensor:
    small = F.interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=height < x.shape[-2])
    p = both(net, small) if mirrored else net(small).softmax(1)
    return F.interpolate(p, tuple(x.shape[-2:]), mode="bilinear", align_corners=False)


def test_flip_is_the_mean_of_two_predictions(lopsided, image):
    found, x = model(lopsided), normalised(image)
    p = found.probabilities(image, protocol=found.views(flip=True))
    np.testing.assert_allclose(p, both(lopsided, x)[0], atol=1e-5)
    assert np.array_equal(found.predict(image, flip=True), both(lopsided, x)[0].argmax(0))
    assert (found.predict(image, flip=True) != found.predict(image)).any()


def test_flip_of_a_symmetric_setup_changes_nothing(lopsided, image):
    """A kernel and an image that are their own mirror images: both predictions are the same one."""
    with torch.no_grad():
        lopsided.weight.copy_((lopsided.weight + lopsided.weight.flip(-1)) / 2)
    image = np.concatenate([image, image[:, ::-1]], axis=1)
    found = model(lopsided)
    p, plain = found.probabilities(image, protocol=found.views(flip=True)), found.probabilities(image)
    np.testing.assert_allclose(p, plain, atol=1e-5)
    np.testing.assert_allclose(p, p[:, :, ::-1], atol=1e-5)


def test_scales_are_the_mean_over_sizes(lopsided, image):
    """21x34 at 0.5, 1 and 1.5: 10x17 (half to even), itself, and 32x51."""
    found, x = model(lopsided), normalised(image)
    with torch.no_grad():
        sizes = [resized(lopsided, x, 10, 17), lopsided(x).softmax(1), resized(lopsided, x, 32, 51)]
    p = found.probabilities(image, protocol=found.views(scales=(0.5, 1, 1.5)))
    np.testing.assert_allclose(p, (sum(sizes) / 3)[0], atol=1e-5)
    mirrored = [resized(lopsided, x, 10, 17, mirrored=True), both(lopsided, x)]
    p = found.probabilities(image, protocol=found.views(flip=True, scales=(0.5, 1)))
    np.testing.assert_allclose(p, (sum(mirrored) / 2)[0], atol=1e-5)


def test_tiles_are_averaged_each(lopsided, image):
    """Every tile is predicted under the views; where tiles overlap, their averages are blended as ever."""
    found = model(lopsided)
    p = np.concatenate([p for _, p in found.bands(image, 16, protocol=found.views(flip=True))], axis=1)
    by_hand = bands(lambda part: both(lopsided, normalised(part))[0].numpy(), image, 16, 2)
    np.testing.assert_allclose(p, np.concatenate([p for _, p in by_hand], axis=1), atol=1e-5)


def test_larger_scales_take_smaller_tiles(lopsided):
    """12 million pixels are predicted at once, of twice the size they are 48 million: tiles of 2048 / 2."""
    found, large = model(lopsided), np.zeros((3000, 4000, 3), np.uint8)
    assert found.tile_for(large) == found.tile_for(large, found.views(scales=(0.5, 1))) == 0
    assert found.tile_for(large, found.views(scales=(1, 2))) == 1024
    assert found.tile_for(np.zeros((4001, 4000, 3), np.uint8), found.views(flip=True)) == 2048


def test_views_come_on_top_of_the_models_protocol(lopsided):
    how = model(lopsided, "dars-361").views(scales=(1, 2))
    assert (how.name, how.window, how.flip, how.scales) == ("dars-361", 361, True, (1.0, 2.0))
    assert model(lopsided, "cityscapes").views() == model(lopsided, "cityscapes").views(scales=(1.0,))


@pytest.mark.parametrize("scales", [(), (0,), (1, -1), (float("nan"),), (float("inf"),)])
def test_scales_are_positive(scales, lopsided, image):
    with pytest.raises(ConfigError, match="positive numbers"):
        model(lopsided).predict(image, scales=scales)
