"""fewmask.ops.adaptive against the slow oracle: the same uniform numbers, random label maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewmask.ops import adaptive, mix
from fewmask.ops.rng import Draws, Purpose
from oracles import adaptive as oracle


def draws(seed: int, n: int) -> list[Draws]:
    return [Draws(seed, Purpose.MIX, 3, slot) for slot in range(n)]


def blotches(rng: np.random.Generator, classes: int, height: int, width: int) -> np.ndarray:
    """Return labels with objects of many sizes: rectangles over each other, then some single pixels."""
    labels = np.full((height, width), int(rng.integers(classes)))
    for _ in range(int(rng.integers(0, 12))):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        h, w = int(rng.integers(1, 2 + height // 3)), int(rng.integers(1, 2 + width // 3))
        labels[top : top + h, left : left + w] = rng.integers(classes)
    noise = rng.random(labels.shape) < rng.choice([0.0, 0.02, 0.3])
    labels[noise] = rng.integers(0, classes, int(noise.sum()))
    return labels


@pytest.mark.parametrize("classes", [2, 3, 5, 11])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (5, 4), (9, 16), (20, 20), (32, 25), (31, 33)])
def test_component_box(shape: tuple[int, int], classes: int) -> None:
    """Class and object are drawn by the numbers after those of the rectangle, four, or three where it has one width.

    Objects are told apart in reading order. Few objects are large on 31x33 pixels, all are up to 10x10.
    """
    kinds = {"box": 0, "half": 0}
    for seed in range(12):
        rng = np.random.default_rng([seed, classes, *shape])
        n = int(rng.integers(1, 6))
        labels = np.stack([blotches(rng, classes, *shape) for _ in range(n)])
        valid = rng.random(labels.shape) < rng.choice([0.0, 0.02, 0.6, 0.95, 1.0], (n, 1, 1))
        if shape[1] > 4:
            valid[0, :, -2:] = False
        sigma = rng.random(classes)
        if seed % 3 == 0:
            sigma[0] = 1.5
        got = adaptive.component_box_mask(
            torch.from_numpy(labels), torch.from_numpy(valid), torch.from_numpy(sigma), draws(seed, n)
        )
        half = mix.half_area_mask(draws(seed, n), *shape, 1.0)
        for i, source in enumerate(draws(seed, n)):
            *_, u_class, u_object = source.uniforms((4 if shape[1] > 2 else 3) + 2).tolist()
            box = oracle.object_box(labels[i], valid[i], sigma.tolist(), u_class, u_object)
            kinds["half" if box is None else "box"] += 1
            assert (got[i].numpy() == (half[i].numpy() if box is None else box)).all()
    assert all(kinds.values())


def test_objects_stand_in_reading_order() -> None:
    """Random maps have few winding objects: here two arms, of which the left begins later, meet far below others."""
    picture = ("0010001", "1000001", "1010101", "1000001", "1111111", "0000000", "0110011")
    labels = np.array([[int(c) for c in row] for row in picture])
    valid = labels == 1
    first = [(0, 2), (0, 6), (2, 2), (2, 4), (6, 1), (6, 5)]
    assert [pixels[0] for pixels in oracle.objects(labels, valid, 1)] == first
    many = (torch.from_numpy(labels).expand(300, -1, -1), torch.from_numpy(valid).expand(300, -1, -1))
    got = adaptive.component_box_mask(many[0], many[1], torch.zeros(2), draws(1, 300))
    seen = set()
    for mask, source in zip(got.numpy(), draws(1, 300), strict=True):
        u = float(source.uniforms(6)[5])
        seen.add(int(u * 6))
        assert (mask == oracle.object_box(labels, valid, [0.0, 0.0], 0.0, u)).all()
    assert seen == set(range(6))


@pytest.mark.parametrize("classes", [2, 3, 11])
@pytest.mark.parametrize("chance", [0.0, 0.4, 1.0])
def test_paste_mask(chance: float, classes: int) -> None:
    """First the chance, then a number a class."""
    for seed in range(12):
        rng = np.random.default_rng([seed, classes])
        n, several = int(rng.integers(1, 6)), int(rng.integers(1, 5))
        donor = np.stack([blotches(rng, classes, 6, 7) for _ in range(n)])
        donor[rng.random(donor.shape) < 0.2] = 255
        donor[0] = 255 if seed % 4 == 0 else donor[0]
        sigma = rng.random(classes)
        weight = adaptive.paste_weight(torch.from_numpy(sigma))
        got = adaptive.paste_mask(torch.from_numpy(donor), weight, draws(seed, n), chance, several)
        for i, source in enumerate(draws(seed, n)):
            u_chance, *u = source.uniforms(1 + several).tolist()
            assert (got[i].numpy() == oracle.pasted(donor[i], sigma.tolist(), u_chance, chance, u)).all()


@pytest.mark.parametrize("predictors", [1, 2, 3])
def test_true_class_sums(predictors: int) -> None:
    for seed in range(6):
        rng = np.random.default_rng([seed, predictors])
        n, k, height, width = (int(v) for v in rng.integers(1, 7, 4) + [0, 1, 0, 0])
        logits = [torch.from_numpy(3 * rng.normal(size=(n, k, height, width))) for _ in range(predictors)]
        labels = rng.integers(-1, k + 1, (n, height, width))
        labels[rng.random(labels.shape) < 0.2] = 255
        sums, pixels = adaptive.true_class_sums(logits, torch.from_numpy(labels))
        expected, numbers = oracle.true_class([z.softmax(1).numpy() for z in logits], labels)
        assert sums.tolist() == pytest.approx(expected, rel=1e-12) and pixels.tolist() == numbers
