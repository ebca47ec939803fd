"""Whole images and sliding windows: what becomes of a pixel."""

import pytest
import torch
from torch import nn

from fewmask.engine.infer import PROTOCOLS, Protocol, as_logits, image_logits, normalise, to_grid, windows
from fewmask.nets.tiny import tiny


def pixelwise() -> nn.Conv2d:
    """A network that sees one pixel at a time: any window gives the same logits."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 1)


@pytest.mark.parametrize("border", ["shift", "truncate"])
@pytest.mark.parametrize(("length", "window", "stride"), [(10, 4, 3), (11, 4, 3), (9, 4, 4), (4, 4, 2), (3, 8, 5)])
def test_windows_cover_the_side_and_stay_inside(length, window, stride, border):
    found = windows(length, window, stride, border)
    assert {i for start, stop in found for i in range(start, stop)} == set(range(length))
    assert all(0 <= start < stop <= length for start, stop in found)
    if border == "shift":
        assert all(stop - start == min(window, length) for start, stop in found)


def test_border_rules_differ_as_the_code_bases_do():
    assert windows(10, 6, 4, "shift") == [(0, 6), (4, 10)]
    assert windows(11, 6, 4, "shift") == [(0, 6), (4, 10), (5, 11)]
    assert windows(11, 6, 4, "truncate") == [(0, 6), (4, 10), (8, 11)]


def test_cityscapes_protocol_is_unimatchs():
    """801 windows every 534 pixels on 1024 x 2048, cut at the border (spec: methods, section 0.2)."""
    p = PROTOCOLS["cityscapes"]
    assert (p.window, p.stride, p.border) == (801, 534, "truncate")
    assert windows(1024, 801, 534, "truncate") == [(0, 801), (534, 1024)]
    assert windows(2048, 801, 534, "truncate") == [(0, 801), (534, 1335), (1068, 1869), (1602, 2048)]


@pytest.mark.parametrize("border", ["shift", "truncate"])
def test_sliding_window_sums_probabilities(border):
    net, x = pixelwise(), torch.randn(2, 3, 21, 34)
    with torch.no_grad():
        whole = net(x).softmax(1)
        summed = image_logits(net, x, Protocol(window=8, stride=5, border=border))
    counts = torch.zeros(21, 34)
    for top, bottom in windows(21, 8, 5, border):
        for left, right in windows(34, 8, 5, border):
            counts[top:bottom, left:right] += 1
    torch.testing.assert_close(summed, whole * counts)


@pytest.mark.parametrize("border", ["shift", "truncate"])
@pytest.mark.parametrize("images", [1, 3])
def test_windows_of_one_size_are_a_batch_beside_a_gpu(border, images):
    """Without one to test on, a tensor says that it is elsewhere: same sums, fewer passes, never more than eight."""

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda")

    torch.manual_seed(0)
    net, x, sizes = nn.Conv2d(3, 4, 3, padding=1), torch.randn(images, 3, 21, 34), list[int]()

    def forward(crops):
        sizes.append(len(crops))
        return net(crops.as_subclass(torch.Tensor))

    protocol = Protocol(window=8, stride=5, border=border)
    with torch.no_grad():
        one_by_one = image_logits(forward, x, protocol)
        passes, sizes[:] = len(sizes), []
        together = image_logits(forward, x.as_subclass(Elsewhere), protocol).as_subclass(torch.Tensor)
    torch.testing.assert_close(together, one_by_one)
    assert sum(sizes) == images * passes and images < max(sizes) <= 8 and len(sizes) < passes


def test_stride_defaults_to_two_thirds_of_the_window():
    net, x = pixelwise(), torch.randn(1, 3, 20, 20)
    with torch.no_grad():
        a, b = (image_logits(net, x, Protocol(window=9, stride=s)) for s in (None, 6))
    assert torch.equal(a, b)


def test_scales_average_predictions_of_resized_images():
    """Blocks of two columns: their outer pixels are what they were at twice the size; a constant image at any size."""
    net, x = pixelwise(), torch.zeros(1, 3, 4, 4)
    x[:, :, :, 2:] = 1.0  # constant in blocks of two: resizing loses nothing inside them
    with torch.no_grad():
        p = net(x).softmax(1)
        found = image_logits(net, x, Protocol(scales=(1.0, 2.0), flip=True))
        alone = image_logits(net, x, Protocol(scales=(1.0,), flip=True))
        assert torch.allclose(alone, 2 * p)  # this network's prediction of a mirrored image is the mirrored one
        flat = image_logits(net, torch.ones_like(x), Protocol(scales=(0.5, 1.0, 1.75)))
    assert torch.allclose(found[..., 0], 2 * p[..., 0]) and torch.allclose(found[..., -1], 2 * p[..., -1])
    assert torch.allclose(found.sum(1), torch.full((1, 4, 4), 2.0))
    assert torch.allclose(flat, 3 * net(torch.ones_like(x)).softmax(1))


def test_what_is_averaged_becomes_logits_again():
    p = torch.tensor([0.2, 0.3, 0.5]).view(1, 3, 1, 1)
    assert torch.allclose(as_logits(7 * p, Protocol(scales=(0.5,))).softmax(1), p)
    assert as_logits(p, Protocol()) is p


@pytest.mark.parametrize("scales", [(), (1.0, 0.0)])
def test_sizes_are_positive(scales):
    with pytest.raises(ValueError, match="positive"):
        Protocol(scales=scales)


def test_flip_averages_the_mirrored_prediction():
    torch.manual_seed(0)
    net, x = nn.Conv2d(3, 4, (1, 3), padding=(0, 1)), torch.randn(1, 3, 6, 9)
    with torch.no_grad():
        expected = net(x).softmax(1) + net(x.flip(-1)).softmax(1).flip(-1)
        found = image_logits(net, x, Protocol(flip=True))
        mirrored = image_logits(net, x.flip(-1), Protocol(flip=True)).flip(-1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, mirrored)


def test_mirrored_windows_are_averaged_as_probabilities():
    """A pixel that lies in four windows counts as one that lies in one: both images' probabilities sum to 1."""
    net, x = pixelwise(), torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        found = image_logits(net, x, Protocol(window=8, stride=5, flip=True))
        torch.testing.assert_close(found, 2 * net(x).softmax(1))


@pytest.mark.parametrize("size", [(7, 9), (16, 16), (33, 1), (1, 5)])
def test_networks_take_any_size(size):
    net = tiny(3).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, *size)).shape == (1, 3, *size)


def test_to_grid_is_bilinear_then_argmax():
    """Two classes whose logits cross: on twice the grid the border lies where the interpolated logits cross."""
    logits = torch.tensor([[[[4.0, 0.0]], [[0.0, 1.0]]]])  # class 0 wins left, class 1 right
    assert to_grid(logits, (1, 2)).tolist() == [[[0, 1]]]
    # positions 0, 0.25, 0.75, 1 of the way: 4 > 0, 3 > 0.25, 1 > 0.75, 0 < 1
    assert to_grid(logits, (1, 4)).tolist() == [[[0, 0, 0, 1]]]


def test_normalise():
    image = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    mean, std = torch.tensor([0.5, 0.25, 0.0]), torch.tensor([0.5, 0.25, 1.0])
    assert normalise(image, mean, std, torch.device("cpu"))[0, :, 0, 0].tolist() == pytest.approx([1, 3, 1])
