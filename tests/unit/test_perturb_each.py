"""NineOps one by one: what each of UCC's operations does to the pixels, and how its magnitude is drawn."""

from __future__ import annotations

import math

import pytest
import torch

from fewmask.data.perturb import NineOps
from perturbed import apply, draws, flat, near, picture


def test_channel_shuffle() -> None:
    image = picture(3, 4)
    orders = [tuple(draws(slot).shuffled(3)) for slot in range(600)]
    assert len(set(orders)) == 6 and all(near(orders.count(o), 1 / 6, 600, 4) for o in set(orders))
    for slot, order in enumerate(orders[:30]):
        assert torch.equal(apply("channel_shuffle", image, slot), torch.stack([image[c] for c in order]))


def test_invert_channel() -> None:
    image, counts = picture(3, 4), [0, 0, 0]
    for slot in range(600):
        channel = draws(slot).integer(0, 3)
        expected = image.clone()
        expected[channel] = 255 - image[channel]
        assert torch.equal(apply("invert_channel", image, slot), expected)
        counts[channel] += 1
    assert all(near(n, 1 / 3, 600, 4) for n in counts)


def test_solarize() -> None:
    """Values from the threshold on are inverted: at 100, 99 stays, 100 becomes 155, 255 becomes 0."""
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
    out = apply("solarize", image, cfg=NineOps(solarize=(100, 100)))
    assert out[0].flatten().tolist() == [v if v < 100 else 255 - v for v in range(256)]
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])
    first = []
    for slot in range(200):
        changed = (apply("solarize", image, slot)[0] != image[0]).flatten()
        first.append(int(changed.int().argmax()))
        assert first[-1] == int(draws(slot).uniform(96, 224)) and changed[first[-1] :].all()
    assert 96 <= min(first) < 105 and 215 < max(first) < 224


def test_jitter() -> None:
    image = picture()
    assert torch.equal(apply("color_jitter", image, cfg=NineOps(jitter=0.0)), image)
    mild, strong = ((apply("color_jitter", image, 3, NineOps(jitter=v)).int() - image).abs().sum() for v in (0.05, 1.0))
    assert 0 < mild < strong
    for slot in range(20):  # the ends of what may be configured: factors from 0, hue to half a turn
        apply("color_jitter", image, slot, NineOps(jitter=1.0))


@pytest.mark.parametrize("size", [(200, 200), (20, 2000), (57, 83)], ids=str)
@pytest.mark.parametrize("share", [0.05, 0.25])
def test_coarse_dropout(size: tuple[int, int], share: float) -> None:
    """Square cells of a tenth of the shorter side, from the corner on, each black in all channels with its chance."""
    cell = max(1, min(size) // 10)
    dropped = cells = 0
    for slot in range(30):
        out = apply("coarse_dropout", flat(200, *size), slot, NineOps(dropout=(share, share)))
        assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])
        corners = out[0, ::cell, ::cell]
        assert torch.equal(corners.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[: size[0], : size[1]], out[0])
        assert set(corners.unique().tolist()) <= {0, 200}
        dropped, cells = dropped + int((corners == 0).sum()), cells + corners.numel()
    assert near(dropped, share, cells)


def test_coarse_dropouts_share_is_drawn_from_its_range() -> None:
    shares = []
    for slot in range(60):
        corners = apply("coarse_dropout", flat(200, 20, 2000), slot)[0, ::2, ::2]
        shares.append((corners == 0).float().mean().item())
    # 10000 cells: a share is known to 3 · .0044
    assert all(0.05 - 0.013 < s < 0.25 + 0.013 for s in shares)
    assert min(shares) < 0.08 and max(shares) > 0.22
    assert sum(shares) / 60 == pytest.approx(0.15, abs=3 * 0.2 / math.sqrt(12 * 60))  # U(.05, .25)


@pytest.mark.parametrize("share", [0.01, 0.08, 0.5])
def test_salt_and_pepper(share: float) -> None:
    """Half of the share white, half black, in all channels of a pixel."""
    n, white, black = 200 * 300, 0, 0
    for slot in range(4):
        out = apply("salt_pepper", flat(100), slot, NineOps(salt_pepper=(share, share)))
        assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])
        white, black = white + int((out[0] == 255).sum()), black + int((out[0] == 0).sum())
    assert near(white + black, share, 4 * n) and near(white, share / 2, 4 * n) and near(black, share / 2, 4 * n)


def test_salt_and_peppers_share_is_drawn_from_its_range() -> None:
    shares = [(apply("salt_pepper", flat(100), slot)[0] != 100).float().mean().item() for slot in range(40)]
    assert all(0.01 - 0.002 < s < 0.08 + 0.004 for s in shares)
    assert min(shares) < 0.02 and max(shares) > 0.07


@pytest.mark.parametrize("sigma", [4.0, 24.0])
def test_noise(sigma: float) -> None:
    """Mean 0, the configured deviation, of every channel and pixel its own; rounded, and clipped at the ends."""
    gap = apply("noise_gau", flat(128), cfg=NineOps(noise=(sigma, sigma))).double() - 128
    n = gap.numel()
    assert abs(gap.mean()) < 4 * sigma / math.sqrt(n)
    assert gap.std().item() == pytest.approx(math.sqrt(sigma**2 + 1 / 12), rel=4 / math.sqrt(2 * n))
    correlation = torch.corrcoef(gap.flatten(1)) - torch.eye(3)
    assert correlation.abs().max() < 5 / math.sqrt(n / 3)
    for end in (0, 255):  # no wrap-around: what is clipped stays at the end
        out = apply("noise_gau", flat(end), cfg=NineOps(noise=(sigma, sigma))).int()
        assert (out - end).abs().max() < 7 * sigma and (out == end).float().mean().item() > 0.45


def test_jpeg_of_a_lower_quality_is_farther_away() -> None:
    image = picture(48, 56).float()
    smooth = torch.nn.functional.avg_pool2d(image.unsqueeze(0), 5, 1, 2).squeeze(0).to(torch.uint8)
    error = [
        (apply("jpeg_compression", smooth, cfg=NineOps(jpeg=(q, q))).int() - smooth).abs().float().mean().item()
        for q in (10, 40, 95)
    ]
    assert error[0] > error[1] > error[2] and error[2] < 6


def test_equalize() -> None:
    """Equal values stay equal and the order stays, channel by channel; the values spread over the whole range."""
    image = (picture() // 4 + 90).to(torch.uint8)
    out = apply("equalize", image)
    for c in range(3):
        table = {}
        for before, after in zip(image[c].flatten().tolist(), out[c].flatten().tolist(), strict=True):
            assert table.setdefault(before, after) == after
        assert sorted(table.values()) == [table[v] for v in sorted(table)]
        assert out[c].min() == 0 and out[c].max() == 255 and image[c].max() - image[c].min() < 90
