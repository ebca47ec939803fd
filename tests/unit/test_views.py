"""Geometry and photometry: laws, alignment of image and mask, padding."""

from dataclasses import replace

import pytest
import torch

from fewmask.batch import IGNORE
from fewmask.data.views import Augment, Geometry, apply_geometry, around_a_class, draw_geometry, photometry
from fewmask.ops.rng import Draws, Purpose

CFG = Augment()


def draws(slot: int) -> Draws:
    return Draws(3, Purpose.GEOMETRY, 0, slot)


def test_scale_and_crop_follow_their_law():
    found = [draw_geometry(draws(i), 100, 200, (60, 60), CFG) for i in range(2000)]
    scales = torch.tensor([g.width / 200 for g in found])
    assert 0.5 <= scales.min() < 0.52 and 1.98 < scales.max() <= 2.0
    assert scales.mean().item() == pytest.approx(1.25, abs=4 * 0.433 / 2000**0.5)  # U(0.5, 2): sd 0.433
    assert all(abs(g.height / 100 - g.width / 200) < 0.011 for g in found)
    assert all(0 <= g.top <= max(0, g.height - 60) and 0 <= g.left <= max(0, g.width - 60) for g in found)
    assert {g.left for g in found if g.width == 150} <= set(range(91))
    flips = sum(g.flip for g in found)
    assert abs(flips - 1000) < 4 * 22.4


def test_scale_choice_takes_only_the_values():
    cfg = Augment(scale=(0.5, 0.75, 1.0), scale_choice=True)
    assert {draw_geometry(draws(i), 80, 80, (40, 40), cfg).width for i in range(100)} == {40, 60, 80}


def test_bad_scales_are_refused():
    for scale in [(2.0, 0.5), (0.0, 1.0), (1.0,), ()]:
        with pytest.raises(ValueError, match="scale"):
            Augment(scale=scale)


def picture() -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose red channel is its mask's class times 20, in blocks of 8 pixels."""
    mask = torch.arange(12).view(3, 4).repeat_interleave(8, 0).repeat_interleave(8, 1).to(torch.uint8)
    image = torch.stack([mask * 20, mask, 255 - mask])
    return image, mask


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("geometry", [(24, 32, 3, 5), (48, 64, 10, 20), (24, 32, 0, 0)])
def test_image_and_mask_move_together(geometry, flip):
    image, mask = picture()
    out, moved, valid = apply_geometry(image, mask, Geometry(*geometry, flip), (16, 24))
    assert out.shape == (3, 16, 24) and moved.shape == (16, 24) and valid.all()
    same = (out[0].float() - 20.0 * moved.float()).abs() < 1
    # bilinear resampling blends a pixel at each border of a block, nearest does not
    assert same.float().mean() > (0.99 if geometry[0] == 24 else 0.75)


def test_padding_is_right_and_bottom_invalid_and_ignored():
    image, mask = picture()
    out, moved, valid = apply_geometry(image, mask, Geometry(12, 16, 0, 0, False), (20, 30))
    assert valid[:12, :16].all() and valid.sum() == 12 * 16
    assert (moved[~valid] == IGNORE).all() and (moved[valid] != IGNORE).all()
    assert (out[:, ~valid] == 0).all()
    flipped = apply_geometry(image, mask, Geometry(12, 16, 0, 0, True), (20, 30))
    assert torch.equal(flipped[2], valid.flip(-1)) and torch.equal(flipped[1], moved.flip(-1))


def test_void_stays_void_and_no_class_is_invented():
    image, _ = picture()
    mask = torch.full((24, 32), IGNORE, dtype=torch.uint8)
    mask[:, 16:] = 3
    _, moved, _ = apply_geometry(image, mask, Geometry(36, 48, 2, 3, False), (30, 40))
    assert set(moved.unique().tolist()) == {3, IGNORE}


def test_without_a_mask_there_is_none():
    image, _ = picture()
    assert apply_geometry(image, None, Geometry(24, 32, 0, 0, False), (16, 16))[1] is None


def test_photometry_is_keyed_and_leaves_the_grid():
    image, _ = picture()
    a, b, c = (photometry(image, Draws(0, Purpose.PHOTOMETRY, 0, slot), CFG) for slot in (1, 1, 2))
    assert a.dtype == torch.uint8 and a.shape == image.shape
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_photometry_needs_no_global_generator():
    image, _ = picture()
    state = torch.random.get_rng_state()
    for slot in range(20):
        photometry(image, Draws(0, Purpose.PHOTOMETRY, 0, slot), CFG)
    assert torch.equal(state, torch.random.get_rng_state())


def test_each_operation_can_be_switched_off_and_on():
    image = torch.randint(0, 256, (3, 321, 321), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    nothing = Augment(jitter=0, grey=0, blur=0)
    assert torch.equal(photometry(image, Draws(0, Purpose.PHOTOMETRY), nothing), image)
    grey = photometry(image, Draws(0, Purpose.PHOTOMETRY), Augment(jitter=0, grey=1, blur=0))
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[1], grey[2])
    blurred = photometry(image, Draws(0, Purpose.PHOTOMETRY), Augment(jitter=0, grey=0, blur=1))
    assert blurred.float().std() < image.float().std()


@pytest.mark.parametrize("side", [1, 2, 5])
def test_blur_takes_tiny_crops(side):
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    for slot in range(10):
        out = photometry(image, Draws(0, Purpose.PHOTOMETRY, 0, slot), Augment(blur=1))
        assert out.shape == image.shape


@pytest.mark.parametrize(("side", "largest"), [(107, 2 / 3), (321, 2.0), (642, 2.0)])
def test_blur_shrinks_with_crops_below_the_published_size(side, largest):
    """A white column on black comes out with the standard deviation of the Gaussian."""
    image = torch.zeros(3, side, side, dtype=torch.uint8)
    image[:, :, side // 2] = 255
    cfg, column = Augment(jitter=0, grey=0, blur=1), torch.arange(side) - side // 2
    found = []
    for slot in range(60):
        mass = photometry(image, Draws(0, Purpose.PHOTOMETRY, 0, slot), cfg)[0, side // 2].double()
        found.append(float((mass * column.square()).sum() / mass.sum()) ** 0.5)
    assert 0.8 * largest < max(found) < 1.05 * largest


def test_shares_of_the_operations():
    """Jitter 0.8, grey 0.2, blur 0.5: measured one at a time over many draws."""
    image = torch.randint(0, 256, (3, 321, 321), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for key, share in (("jitter", 0.8), ("grey", 0.2), ("blur", 0.5)):
        cfg = Augment(**{"jitter": 0.0, "grey": 0.0, "blur": 0.0} | {key: share})
        changed = sum(
            not torch.equal(photometry(image, Draws(5, Purpose.PHOTOMETRY, 0, slot), cfg), image) for slot in range(200)
        )
        assert abs(changed / 200 - share) < 4 * (share * (1 - share) / 200) ** 0.5


def test_half_of_the_images_are_turned():
    cfg = Augment(rotate=10)
    found = [draw_geometry(draws(i), 100, 200, (60, 60), cfg) for i in range(2000)]
    angles = torch.tensor([g.angle for g in found if g.angle])
    assert abs(len(angles) - 1000) < 4 * 22.4
    assert angles.abs().max() <= 10 and abs(angles.mean().item()) < 4 * 5.77 / 1000**0.5  # U(-10, 10): sd 5.77
    plain = [draw_geometry(draws(i), 100, 200, (60, 60), CFG) for i in range(50)]
    unturned = [Geometry(g.height, g.width, g.top, g.left, g.flip) for g in found[:50]]
    assert plain == unturned and not any(g.angle for g in plain)  # the other draws stay what they are


def test_a_turned_image_and_its_mask_stay_aligned():
    image, mask = picture()
    big, labels = (x.repeat_interleave(4, -2).repeat_interleave(4, -1) for x in (image, mask))
    out, moved, valid = apply_geometry(big, labels, Geometry(96, 128, 0, 0, True, 30.0), (96, 128))
    assert not valid[0, 0] and not valid[-1, -1] and valid[48, 64] and 0.5 < valid.float().mean() < 0.95
    assert (moved[~valid] == IGNORE).all() and (moved[valid] != IGNORE).all()
    assert (out[:, ~valid] <= 1).float().mean() > 0.95  # bilinear: the border blends
    same = (out[0].float() - 20.0 * moved.float()).abs() < 2
    assert same[valid].float().mean() > 0.85
    upright, *_ = apply_geometry(big, labels, Geometry(96, 128, 0, 0, True), (96, 128))
    assert not torch.equal(out, upright)


@pytest.mark.parametrize(("turned", "size"), [(0, 1), (60, 3)])
def test_a_crop_over_a_class_shows_its_pixel(turned, size):
    """One spot is labelled: unless turning has pushed it out of the image, every crop holds some of it, anywhere."""
    cfg, mask = Augment(scale=(1, 3), rotate=turned), torch.full((40, 60), IGNORE, dtype=torch.uint8)
    mask[31 : 31 + size, 7 : 7 + size] = 4
    image, places, lost = torch.zeros(3, 40, 60, dtype=torch.uint8), [], 0
    for slot in range(400):
        source = draws(slot)
        geometry = around_a_class(draw_geometry(source, 40, 60, (16, 24), cfg), mask, source, (16, 24))
        assert 0 <= geometry.top <= geometry.height - 16 and 0 <= geometry.left <= geometry.width - 24
        shown = (apply_geometry(image, mask, geometry, (16, 24))[1] == 4).nonzero()
        everything = replace(geometry, top=0, left=0), (geometry.height, geometry.width)
        if len(shown):
            places.append(shown[0].tolist())
        else:
            assert (apply_geometry(image, mask, *everything)[1] == 4).sum() < size * size, "turned out of the image"
            lost += 1
    assert lost == 0 if not turned else lost < 80
    rows, columns = torch.tensor(places).T
    assert rows.min() <= 1 and rows.max() >= 14 and columns.min() <= 1 and columns.max() >= 22


def test_a_crop_over_a_class_takes_each_class_as_often():
    """A class of one pixel in a hundred is shown by half of the crops, and by a quarter without."""
    mask = torch.zeros(40, 40, dtype=torch.uint8)
    mask[20:24, 20:24] = 1
    cfg, found = Augment(scale=(1, 1)), {}
    for moved in (False, True):
        shown = 0
        for slot in range(600):
            source = draws(slot)
            geometry = draw_geometry(source, 40, 40, (8, 8), cfg)
            geometry = around_a_class(geometry, mask, source, (8, 8)) if moved else geometry
            shown += bool((apply_geometry(mask[None], mask, geometry, (8, 8))[1] == 1).any())
        found[moved] = shown / 600
    # at random: the corner is one of 11² of 33² places; over class 0 (16 of 17 pixels around): about as often
    assert found[False] == pytest.approx(121 / 1089, abs=0.05)
    assert found[True] == pytest.approx(0.5 + 0.5 * 121 / 1089, abs=0.08)


def test_without_labelled_pixels_a_crop_stays_where_it_is():
    geometry = draw_geometry(draws(0), 40, 40, (8, 8), CFG)
    assert around_a_class(geometry, torch.full((40, 40), IGNORE, dtype=torch.uint8), draws(1), (8, 8)) == geometry
