"""RandAugment with Cutout: every pixel's label is found where it moved."""

from __future__ import annotations

import pytest
import torch

from fewmask.data import randaugment
from fewmask.data.randaugment import GEOMETRIC, PHOTOMETRIC, RandAugmentCutout, moved, take
from fewmask.ops.rng import Draws, Purpose

HEIGHT, WIDTH = 40, 60


def draws(slot: int) -> Draws:
    return Draws(5, Purpose.PHOTOMETRY, 0, slot)


def marked(y: int, x: int) -> torch.Tensor:
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    image[:, y, x] = 255
    return image


@pytest.mark.parametrize("name", sorted(GEOMETRIC))
@pytest.mark.parametrize("magnitude", [-0.9, -0.3, 0.1, 0.6, 0.9])
def test_a_marked_pixel_is_found_where_it_moved(name: str, magnitude: float) -> None:
    place = moved(GEOMETRIC[name](magnitude), HEIGHT, WIDTH)
    arrived = 0
    for y in range(3, HEIGHT, 6):
        for x in range(2, WIDTH, 7):
            seen = take(marked(y, x), place, 0)[0] == 255
            assert torch.equal(seen, place == y * WIDTH + x)
            arrived += int(seen.any())
    assert arrived >= 30  # of 63: the others left the image
    assert (place != torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH)).any()


def test_where_pixels_move_to() -> None:
    """Translation by numbers; rotation about the centre; shear that leaves the middle row."""
    here = torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH)
    right = moved(GEOMETRIC["translate_x"](0.5), HEIGHT, WIDTH)
    assert torch.equal(right[:, 5:], here[:, :-5]) and (right[:, :5] == -1).all()
    up = moved(GEOMETRIC["translate_y"](-0.3), HEIGHT, WIDTH)
    assert torch.equal(up[:-3], here[3:]) and (up[-3:] == -1).all()
    turned = moved(GEOMETRIC["rotate"](1.0), HEIGHT, WIDTH)
    assert turned[0, 0] == -1 and (turned[HEIGHT // 2, WIDTH // 2] - here[HEIGHT // 2, WIDTH // 2]).abs() <= WIDTH + 1
    sheared = moved(GEOMETRIC["shear_x"](1.0), HEIGHT, WIDTH)
    shift = [(row[row >= 0] % WIDTH - torch.arange(WIDTH)[row >= 0]).float().mean().item() for row in sheared]
    assert abs(shift[HEIGHT // 2]) <= 1 and abs(shift[0] - shift[-1]) == pytest.approx(0.3 * (HEIGHT - 1), abs=1.5)


@pytest.mark.parametrize("name", sorted(PHOTOMETRIC))
def test_photometric_operations_move_nothing(name: str) -> None:
    """The brightest of two grey levels stays where it is, or (solarize) the two change places."""
    image = torch.full((3, HEIGHT, WIDTH), 90, dtype=torch.uint8)
    image[:, 10, 20] = 200
    for magnitude in (0.1, 0.5, 0.9):
        for sign in (1, -1):
            out = PHOTOMETRIC[name](image, magnitude, sign)
            assert out.dtype == torch.uint8 and out.shape == image.shape
            odd = (out != out[:, :1, :1]).any(0).nonzero()
            assert odd.numel() == 0 or ((odd - torch.tensor([10, 20])).abs() <= (name == "sharpness")).all()


@pytest.mark.parametrize("slot", range(40))
def test_a_view_holds_the_pixels_that_its_source_names(slot: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With geometry alone the view is the crop, gathered through its source: what the labels will be."""
    monkeypatch.setattr(randaugment, "PHOTOMETRIC", {})
    g = torch.Generator().manual_seed(slot)
    image = torch.randint(1, 256, (3, HEIGHT, WIDTH), generator=g, dtype=torch.uint8)
    view, source = RandAugmentCutout(n=6, chance=1, cutouts=0)(image, draws(slot))
    assert view.shape == image.shape and source.shape == (HEIGHT, WIDTH)
    assert source.min() >= -1 and source.max() < HEIGHT * WIDTH
    assert torch.equal(view, take(image, source, 0)) and not torch.equal(view, image)
    labels = torch.randint(0, 5, (HEIGHT, WIDTH), generator=g)
    assert (take(labels, source, 255)[source < 0] == 255).all()


def test_squares_are_grey_and_stay_labelled() -> None:
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    shares = []
    for slot in range(200):
        view, source = RandAugmentCutout(n=0, cutouts=1, side=8)(image, draws(slot))
        grey = (view == 128).all(0)
        assert torch.equal(grey, (view != 0).any(0)) and (source >= 0).all()
        rows, columns = grey.any(1).nonzero(), grey.any(0).nonzero()
        assert len(rows) <= 8 and len(columns) <= 8 and grey.sum() == len(rows) * len(columns) > 0
        shares.append(grey.sum().item())
    assert max(shares) == 64 and min(shares) < 64  # some reach over the border
    assert torch.equal(image, torch.zeros_like(image))


def test_the_number_of_operations_and_their_chance() -> None:
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    still, source = RandAugmentCutout(n=3, chance=0, cutouts=0)(image, draws(0))
    assert torch.equal(still, image) and torch.equal(source.flatten(), torch.arange(HEIGHT * WIDTH))
    moving = [
        (RandAugmentCutout(n=1, chance=0.5, cutouts=0)(image, draws(slot))[1] != source).any().item()
        for slot in range(1000)
    ]
    # five of fourteen operations move pixels
    assert abs(sum(moving) - 1000 * 0.5 * 5 / 14) < 4 * (1000 * 0.1786 * 0.8214) ** 0.5
