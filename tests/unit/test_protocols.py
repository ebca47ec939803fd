"""The protocols of the papers: what the network sees of an image, and what is made of its answers."""

from contextlib import nullcontext
from math import ceil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.data.index import Item
from fewmask.engine.evaluate import Pictures, confusion_of
from fewmask.engine.infer import PROTOCOLS, Protocol, as_logits, centred, image_logits, windows
from fewmask.errors import ConfigError
from fewmask.recipe import read_recipe


class Seen:
    """A network that keeps what it was given; its logits are the first two channels."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.images.append(images)
        return images[:, :2]

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        return [tuple(one.shape[-2:]) for one in self.images]


def first_column(images: Tensor) -> Tensor:
    """Two classes; the second one's logit is what stands at the left edge of what the network sees."""
    one = images[:, :1, :, :1].expand(-1, -1, -1, images.shape[-1])
    return torch.cat((torch.zeros_like(one), one), 1)


def test_the_contracts_names_are_there():
    names = "whole voc-classic voc-blended-cps voc-blended-u2pl cityscapes ade20k camvid".split()
    assert set(names) <= set(PROTOCOLS)
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())


@pytest.mark.parametrize(
    ("name", "window"),
    [
        ("voc-blended-cps", 512), ("cityscapes-cps", 800), ("cityscapes-u2pl", 769),
        ("dars-321", 321), ("dars-361", 361), ("dars-713", 713),
    ],
)  # fmt: skip
def test_windows_step_by_two_thirds_rounded_up(name, window):
    p = PROTOCOLS[name]
    assert (p.window, p.stride, p.border) == (window, ceil(window * 2 / 3), "shift")


@pytest.mark.parametrize("name", ["whole", "voc-classic", "ade20k", "camvid"])
def test_whole_images_are_seen_once_as_they_are(name):
    net, x = Seen(), torch.randn(1, 3, 375, 500)
    assert torch.equal(image_logits(net, x, PROTOCOLS[name]), x[:, :2])
    assert len(net.images) == 1 and torch.equal(net.images[0], x)
    assert PROTOCOLS[name].plain and not PROTOCOLS[name].native


def test_cps_pads_an_image_of_voc_to_512_and_scores_logits():
    """500x375 in 512x512: (512 - 375) // 2 = 68 columns on the left, 69 on the right, 6 rows above and below."""
    net, x = Seen(), torch.randn(1, 3, 500, 375)
    found = image_logits(net, x, PROTOCOLS["voc-blended-cps"])
    (canvas,) = net.images
    assert torch.equal(canvas, F.pad(x, (68, 69, 6, 6)))
    assert torch.equal(found, x[:, :2])
    assert not PROTOCOLS["voc-blended-cps"].averages


def test_cps_and_u2pl_cut_cityscapes_into_eight_windows():
    assert windows(1024, 800, 534, "shift") == [(0, 800), (224, 1024)]
    assert windows(2048, 800, 534, "shift") == [(0, 800), (534, 1334), (1068, 1868), (1248, 2048)]
    assert windows(1024, 769, 513, "shift") == [(0, 769), (255, 1024)]
    assert windows(2048, 769, 513, "shift") == [(0, 769), (513, 1282), (1026, 1795), (1279, 2048)]


def test_logits_of_windows_are_averaged():
    """Windows 0-8 and 4-12 of one row: the logit is x[0], then the mean of x[0] and x[4], then x[4]."""
    x = torch.zeros(1, 3, 1, 12)
    x[..., 0], x[..., 4] = 3.0, 7.0
    found = image_logits(first_column, x, Protocol(window=8, stride=4, combine="logits"))
    assert found[0, 1, 0].tolist() == [3.0] * 4 + [5.0] * 4 + [7.0] * 4
    assert torch.equal(as_logits(found, Protocol(window=8, stride=4, combine="logits")), found)
    # probabilities: between them stands the mean of two sigmoids
    p = image_logits(first_column, x, Protocol(window=8, stride=4))[0, 1, 0]
    assert p[5].item() == pytest.approx(torch.tensor([3.0, 7.0]).sigmoid().sum().item())


def test_logits_of_mirror_images_and_sizes_are_averaged():
    x = torch.zeros(1, 3, 1, 8)
    x[..., 0], x[..., -1] = 2.0, 6.0
    found = image_logits(first_column, x, Protocol(flip=True, combine="logits"))
    assert found[0, 1, 0].tolist() == [4.0] * 8
    flat = torch.full((1, 3, 4, 4), 2.5)
    assert image_logits(first_column, flat, Protocol(scales=(1.0, 2.0), combine="logits"))[0, 1].unique() == 2.5


def test_dars_scores_voc_at_400_in_mirrored_windows_of_321():
    """500x375 becomes 400x300, padded to 400x321: windows of rows 0-321 and 79-400, of it and its mirror image."""
    net = Seen()
    found = image_logits(net, torch.randn(1, 3, 500, 375), PROTOCOLS["dars-321"])
    assert net.sizes == [(321, 321)] * 4
    straight, below, mirrored, _ = net.images
    assert straight[..., :10].abs().max() == 0 and straight[..., 10:310].abs().amin((0, 1, 2)).min() > 0
    assert straight[..., 310:].abs().max() == 0
    assert torch.equal(straight[:, :, 79:], below[:, :, : 321 - 79])
    assert torch.equal(mirrored, straight.flip(-1))
    assert found.shape == (1, 2, 500, 375)
    assert torch.allclose(found.sum(1), torch.ones(()), atol=1e-5)  # probabilities, and on the image's own grid


def test_a_small_image_grows_to_the_long_side():
    net = Seen()
    image_logits(net, torch.randn(1, 3, 10, 20), Protocol(long_side=40))
    assert net.sizes == [(20, 40)]


@pytest.mark.parametrize(("length", "before", "after"), [(5, 1, 2), (6, 1, 1), (8, 0, 0), (11, 0, 0)])
def test_the_smaller_half_of_a_margin_comes_first(length, before, after):
    canvas, top, left = centred(torch.ones(1, length, 8), 8)
    assert (top, left) == (before, 0)
    assert canvas[0, :, 0].tolist() == [0.0] * before + [1.0] * length + [0.0] * after


def test_u2pls_margin_counts_as_class_0():
    """A 6x4 image of class 1 in 8x8: 24 pixels right; of 40 in the margin, seen as 0, the network calls 40 class 0."""
    image, mask = torch.full((3, 6, 4), 255, dtype=torch.uint8), torch.ones(6, 4, dtype=torch.uint8)
    mask[0, 0] = 255
    seen = Seen()

    def forward(x: Tensor) -> Tensor:
        seen(x)
        return torch.cat((torch.full_like(x[:, :1], 0.5), x[:, :1]), 1)  # class 1 where there is something

    pictures = Pictures(
        lambda item: image, lambda item: mask, torch.zeros(3), torch.ones(3), torch.device("cpu"), nullcontext
    )
    each: list[Tensor] = []
    protocol = Protocol(pad=8, padding=0)
    items = [Item("a", Path("a.png")), Item("b", Path("b.png"))]
    matrix = confusion_of(forward, items, pictures, 2, protocol, lambda item, one: each.append(one))
    assert each[0].tolist() == [[40, 0], [0, 23]] and matrix.tolist() == [[80, 0], [0, 46]]
    assert seen.sizes == [(8, 8)]  # both at once
    without = confusion_of(forward, items, pictures, 2, Protocol(pad=8))
    assert without.tolist() == [[0, 0], [0, 46]]


def test_u2pls_protocol():
    p = PROTOCOLS["voc-blended-u2pl"]
    assert (p.pad, p.padding, p.window, p.averages) == (513, 0, None, False)


@pytest.mark.parametrize("name", ["voc-blended-u2pl", "dars-321"])
def test_protocols_of_an_images_own_size_refuse_another(name):
    with pytest.raises(ConfigError, match="own size") as found:
        read_recipe(None, {"data.dir": "x", "data.resize": "32x32", "protocol": name})
    assert "data.resize" in str(found.value) and "--protocol whole" in str(found.value)
    assert read_recipe(None, {"data.dir": "x", "protocol": name}).protocol == name
