"""fewmask.ops.mix: the laws of the boxes, their masks, and the partners."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewmask.ops import mix
from fewmask.ops.rng import Draws, Purpose
from oracles import mix as oracle

DRAWS = 3000


def draws(n: int, step: int = 0) -> list[Draws]:
    return [Draws(7, Purpose.MIX, step, slot) for slot in range(n)]


@pytest.mark.parametrize(("height", "width"), [(400, 400), (300, 600), (600, 240)])
def test_unimatch_law(height: int, width: int) -> None:
    boxes = [mix.unimatch_box(d, height, width, 1.0) for d in draws(DRAWS)]
    assert all(b is not None for b in boxes)
    areas, tall = [], 0
    for top, left, h, w in (b for b in boxes if b is not None):
        assert 0 <= top and top + h <= height and 0 <= left and left + w <= width
        # int() takes less than a pixel from each side: (h+1)(w+1) is above the area drawn, h·w at most that
        assert h * w <= 0.4 * height * width and (h + 1) * (w + 1) > 0.02 * height * width
        relative = width / height  # aspects are relative to the image's; 1 for the square crops of the paper
        assert relative * h / (w + 1) <= 1 / 0.3 and relative * (h + 1) / w >= 0.3
        areas.append(h * w / (height * width))
        tall += h * width > w * height
    share, p = oracle.unimatch_law(height, width)
    # areas lie in [0, 0.4]: their standard deviation is below 0.38 / sqrt(12), were they uniform, and below 0.2 always
    assert abs(np.mean(areas) - share) < 4 * 0.2 / math.sqrt(DRAWS)
    assert abs(tall / DRAWS - p) < 4 * math.sqrt(p * (1 - p) / DRAWS)
    assert min(areas) < 0.0225 and max(areas) > 0.39  # both ends of U(0.02, 0.4) occur


class Impatient(Draws):
    """Draws that end a search which would not end by itself."""

    left = 10_000

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        self.left -= 1
        assert self.left, "no box found in 10000 draws"
        return super().uniform(low, high)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (64, 256),
        (256, 64),
        (32, 512),
    ],
)
def test_unimatch_box_of_a_strip_is_found(height: int, width: int) -> None:
    for slot in range(50):
        box = mix.unimatch_box(Impatient(7, Purpose.MIX, 0, slot), height, width, 1.0)
        assert box is not None and box[0] + box[2] <= height and box[1] + box[3] <= width


def test_unimatch_corners_reach_every_border() -> None:
    boxes = [b for d in draws(1000) if (b := mix.unimatch_box(d, 8, 12, 1.0)) is not None]
    assert {top for top, _, _, _ in boxes} >= {0, 1, 2, 3, 4, 5}
    assert {top + h for top, _, h, _ in boxes} >= {2, 3, 4, 5, 6, 7, 8}
    assert {left + w for _, left, _, w in boxes} >= set(range(2, 13))


def test_unimatch_probability() -> None:
    none = sum(mix.unimatch_box(d, 32, 32) is None for d in draws(DRAWS))
    assert abs(none - DRAWS / 2) < 4 * math.sqrt(DRAWS / 4)
    assert all(mix.unimatch_box(d, 32, 32, 0.0) is None for d in draws(100))
    rare = sum(mix.unimatch_box(d, 32, 32, 0.1) is not None for d in draws(DRAWS))
    assert abs(rare - DRAWS / 10) < 4 * math.sqrt(DRAWS * 0.1 * 0.9)


def test_unimatch_mask_is_the_box() -> None:
    mask = mix.unimatch_mask(draws(40), 9, 14)
    assert mask.shape == (40, 9, 14) and mask.dtype == torch.bool and mask.device.type == "cpu"
    boxes = [mix.unimatch_box(d, 9, 14) for d in draws(40)]
    assert None in boxes
    for i, box in enumerate(boxes):
        assert mask[i].numpy().tolist() == oracle.union([box] if box else [], 9, 14).tolist()
    assert mask.flatten(1).any(1).sum() > 10


@pytest.mark.parametrize(("height", "width"), [(64, 64), (30, 90)])
def test_cps_boxes(height: int, width: int) -> None:
    every = [mix.cps_boxes(d, height, width) for d in draws(DRAWS)]
    relative = []
    for boxes in every:
        assert len(boxes) == 3
        for top, left, h, w in boxes:
            assert 0 <= top and top + h <= height and 0 <= left and left + w <= width
            # sides are rounded by at most half a pixel; area a/3 with a in [0.25, 0.5]; side at least a/sqrt(3)
            assert (h - 0.5) * (w - 0.5) <= 0.5 / 3 * height * width
            assert (h + 0.5) * (w + 0.5) >= 0.25 / 3 * height * width
            assert 0.25 * height / math.sqrt(3) - 0.5 <= h <= height / math.sqrt(3) + 0.5
            assert 0.25 * width / math.sqrt(3) - 0.5 <= w <= width / math.sqrt(3) + 0.5
            relative.append((h / height, w / width))
    n = len(relative)
    expected = oracle.cps_sides(height, width)
    for axis, length in ((0, height), (1, width)):
        mean = math.fsum(side[axis] for side in expected) / len(expected) / length
        # a relative side lies in [0, 0.6]: its standard deviation is below 0.3
        assert abs(math.fsum(r[axis] for r in relative) / n - mean) < 4 * 0.3 / math.sqrt(n)
    area = math.fsum(h * w for h, w in expected) / len(expected) / (height * width)
    assert area == pytest.approx(0.375 / 3, rel=0.02)  # the mean of U(0.25, 0.5), over three boxes
    assert abs(math.fsum(h * w for h, w in relative) / n - area) < 4 * (0.25 / 3) / math.sqrt(n)


def test_cps_boxes_are_placed_anywhere() -> None:
    corners = [box[:2] for d in draws(1000) for box in mix.cps_boxes(d, 6, 6)]
    ends = [(top + h, left + w) for d in draws(1000) for top, left, h, w in mix.cps_boxes(d, 6, 6)]
    assert {t for t, _ in corners} == {left for _, left in corners} == {0, 1, 2, 3, 4, 5}
    assert {t for t, _ in ends} == {left for _, left in ends} == {1, 2, 3, 4, 5, 6}


def test_cps_mask_toggles() -> None:
    mask = mix.cps_mask(draws(30), 16, 12)
    assert mask.shape == (30, 16, 12) and mask.dtype == torch.bool and mask.device.type == "cpu"
    differs = 0
    for i, d in enumerate(draws(30)):
        boxes = mix.cps_boxes(d, 16, 12)
        assert mask[i].numpy().tolist() == oracle.toggled(boxes, 16, 12).tolist()
        differs += bool((oracle.toggled(boxes, 16, 12) != oracle.union(boxes, 16, 12)).any())
    assert differs > 10  # boxes overlap often, so XOR is not OR


def test_cps_mask_share() -> None:
    share = mix.cps_mask(draws(1500), 24, 24).float().mean((1, 2))
    # of one mask's share, in [0, 0.5], the standard deviation is below 0.25
    assert abs(share.mean().item() - oracle.cps_share(24, 24)) < 4 * 0.25 / math.sqrt(1500)
    assert share.std().item() < 0.25


def test_masks_depend_on_the_slot_alone() -> None:
    whole = mix.unimatch_mask(draws(6, step=3), 20, 20, 1.0)
    assert torch.equal(whole[2:5], mix.unimatch_mask(draws(6, step=3)[2:5], 20, 20, 1.0))
    assert not torch.equal(whole, mix.unimatch_mask(draws(6, step=4), 20, 20, 1.0))
    assert len({tuple(m.flatten().tolist()) for m in whole}) == 6
    three = mix.cps_mask(draws(6, step=3), 20, 20)
    assert torch.equal(three[2:5], mix.cps_mask(draws(6, step=3)[2:5], 20, 20))
    assert not torch.equal(three, mix.cps_mask(draws(6, step=4), 20, 20))


@pytest.mark.parametrize("batch", range(2, 12))
def test_partner_is_another_image(batch: int) -> None:
    index = mix.partners(batch)
    assert index.dtype == torch.int64 and index.shape == (batch,)
    assert all(0 <= j < batch and j != i for i, j in enumerate(index.tolist()))
    paired = batch - batch % 2
    assert index[index[:paired]].tolist() == list(range(paired))  # mutual, but for a last odd one
    assert set(index[:paired].tolist()) == set(range(paired))


def test_partner_of_a_lone_image_is_itself() -> None:
    assert mix.partners(1).tolist() == [0]


def test_partners_do_not_depend_on_the_number_of_ranks() -> None:
    whole = mix.partners(24).tolist()
    for ranks in (2, 3, 4, 6, 12):
        each = 24 // ranks
        assert each % 2 == 0
        assert [r * each + j for r in range(ranks) for j in mix.partners(each).tolist()] == whole


def test_take() -> None:
    own, partner = torch.arange(24.0).reshape(2, 3, 2, 2), -torch.arange(24.0).reshape(2, 3, 2, 2)
    mask = torch.tensor([[[True, False], [False, False]], [[True, True], [False, True]]])
    mixed = mix.take(own, partner, mask)
    for b in range(2):
        for y in range(2):
            for x in range(2):
                source = partner if mask[b, y, x] else own
                assert mixed[b, :, y, x].tolist() == source[b, :, y, x].tolist()
                for dtype in (torch.int64, torch.bool, torch.float64):
                    maps = mix.take(own[:, 1].to(dtype), partner[:, 1].to(dtype), mask)
                    assert maps.dtype == dtype and maps[b, y, x] == source[b, 1, y, x].to(dtype)
