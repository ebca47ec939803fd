"""NineOps, UCC's strong view: nine operations that leave the geometry, drawn by key with replacement."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from fewmask.data.perturb import NineOps
from fewmask.ops.rng import Draws
from perturbed import NAMES, SIZES, apply, draws, flat, near, picture

# --- every operation --------------------------------------------------------------------------------------------


def test_the_pool_is_the_papers() -> None:
    assert list(NineOps().operations()) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_shape_and_type_stay(name: str, size: tuple[int, int]) -> None:
    for slot in range(3):
        for image in (picture(*size), flat(0, *size), flat(255, *size)):
            before = image.clone()
            out = apply(name, image, slot)
            assert out.shape == (3, *size) and out.dtype == torch.uint8 and type(out) is Tensor
            assert torch.equal(image, before)  # the weak view is the same tensor


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_does_something_and_is_keyed(name: str) -> None:
    image = picture()
    out = [apply(name, image, slot) for slot in range(12)]
    assert all(torch.equal(o, apply(name, image, slot)) for slot, o in enumerate(out))
    assert sum(not torch.equal(o, image) for o in out) >= 8  # a shuffle leaves one in six as it was
    assert name == "equalize" or len({tuple(o.flatten().tolist()) for o in out}) > 2
    state = torch.random.get_rng_state()
    apply(name, image)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("name", ["channel_shuffle", "color_jitter", "invert_channel", "solarize", "equalize"])
def test_pixelwise_operations_follow_the_pixels(name: str) -> None:
    """What happens to a pixel depends on its value and on the image's, not on its place: flips commute with it."""
    image = picture(20, 33)
    for slot in range(6):
        out = apply(name, image, slot)
        for dims in ((1,), (2,), (1, 2)):
            # the mean of the image, which contrast needs, rounds with the order of the sum
            gap = (apply(name, image.flip(dims), slot).int() - out.flip(dims).int()).abs().max()
            assert gap <= (1 if name == "color_jitter" else 0)


@pytest.mark.parametrize("name", ["coarse_dropout", "salt_pepper"])
def test_pixels_that_are_not_hit_stay(name: str) -> None:
    image = picture(30, 50)
    for slot in range(6):
        out = apply(name, image, slot)
        hit = (out != image).any(0)
        values = (0,) if name == "coarse_dropout" else (0, 255)
        assert all(v in values for v in out[:, hit].unique().tolist())
        assert torch.equal(out[:, ~hit], image[:, ~hit]) and 0 < hit.sum() < hit.numel()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [(0, 0), (3, 30), (17, 8), (23, 39)])
def test_a_marked_pixel_does_not_move(name: str, place: tuple[int, int]) -> None:
    """The pixel that differs from its surroundings is where it was, unless dropout or salt and pepper covers it."""
    image = flat(60, 24, 40)
    image[:, place[0], place[1]] = 250
    found, total = 0, torch.zeros(24, 40)
    for slot in range(8):
        out = apply(name, image, slot).float()
        common = out.flatten(1).median(1).values.view(3, 1, 1)
        gap = (out - common).abs().sum(0)
        if name in ("coarse_dropout", "salt_pepper"):  # black and white are their own marks
            gap[((out == 0) | (out == 255)).all(0)] = 0
        found, total = found + int(gap[place] > 0), total + gap
    assert found >= 4 and divmod(int(total.argmax()), 40) == place  # JPEG smears a pixel over its block, not away


@pytest.mark.parametrize("name", [name for name in NAMES if name != "coarse_dropout"])  # whose cells are tested below
def test_edges_stay_where_they_are(name: str) -> None:
    """Dark left and bright right of column 16: the largest jump between the medians of columns is there."""
    image = flat(40, 48, 40)
    image[:, :, 16:] = 150
    for slot in range(6):
        columns = apply(name, image, slot).float().median(1).values  # [3, W]
        jump = (columns[:, 1:] - columns[:, :-1]).abs().sum(0)
        assert int(jump.argmax()) == 15


# --- the draw of operations -------------------------------------------------------------------------------------


class Spy(NineOps):
    """Records which operations are drawn, in order, and applies none."""

    def operations(self) -> dict[str, Callable[[Tensor, Draws], Tensor]]:
        def recorder(name: str) -> Callable[[Tensor, Draws], Tensor]:
            def record(image: Tensor, source: Draws) -> Tensor:
                LOG.append(name)
                return image

            return record

        return {name: recorder(name) for name in super().operations()}


LOG: list[str] = []


def drawn(n: int, slot: int) -> list[str]:
    LOG.clear()
    Spy(n=n)(flat(0, 1, 1), draws(slot))
    return list(LOG)


def test_operations_are_drawn_with_replacement() -> None:
    every = [drawn(2, slot) for slot in range(3000)]
    assert all(len(names) == 2 for names in every)
    for place in (0, 1):
        names = [pair[place] for pair in every]
        assert all(near(names.count(name), 1 / 9, 3000, 4) for name in NAMES)
    assert near(sum(a == b for a, b in every), 1 / 9, 3000, 4)
    assert len({tuple(pair) for pair in every}) == 81  # both orders of each pair


@pytest.mark.parametrize("n", [0, 1, 5, 9])
def test_as_many_operations_as_asked(n: int) -> None:
    assert all(len(drawn(n, slot)) == n for slot in range(20))


def test_none_is_the_identity() -> None:
    image = picture()
    assert all(torch.equal(NineOps(n=0)(image, draws(slot)), image) for slot in range(5))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 9])
def test_equal_draws_give_equal_views(n: int, size: tuple[int, int]) -> None:
    image, view = picture(*size), NineOps(n=n)
    out = [view(image, draws(slot)) for slot in range(8)]
    assert all(torch.equal(o, view(image, draws(slot))) for slot, o in enumerate(out))
    assert all(o.shape == image.shape and o.dtype == torch.uint8 for o in out)
    assert size == (1, 1) or len({tuple(o.flatten().tolist()) for o in out}) > 3
    assert size == (1, 1) or not torch.equal(view(image, draws(0, view=1)), view(image, draws(0, view=2)))


def test_a_view_is_the_drawn_operations_one_after_the_other() -> None:
    image = picture(30, 31)
    for slot in range(30):
        source, expected = draws(slot), image
        names = [NAMES[source.integer(0, 9)] for _ in range(3)]
        for name in names:
            expected = NineOps().operations()[name](expected, source)
        assert names == drawn(3, slot)
        assert torch.equal(NineOps(n=3)(image, draws(slot)), expected)


def test_worker_processes_get_an_equal_copy() -> None:
    view = NineOps(n=3, dropout=(0.1, 0.2))
    twin = pickle.loads(pickle.dumps(view))
    assert twin == view and hash(twin) == hash(view)
    assert all(torch.equal(twin(picture(), draws(slot)), view(picture(), draws(slot))) for slot in range(10))


def test_a_view_is_still_recognisable() -> None:
    """Default constants: over many draws, bright and dark places of the picture still differ in most views."""
    image = flat(50, 40, 40)
    image[:, 10:30, 10:30] = 160
    inside = torch.zeros(40, 40, dtype=torch.bool)
    inside[10:30, 10:30] = True
    told = 0
    for slot in range(100):
        out = NineOps()(image, draws(slot)).float()
        told += bool(((out[:, inside].median(1).values - out[:, ~inside].median(1).values).abs() > 15).any())
    assert told >= 95


@pytest.mark.parametrize("config", [{"n": -1}, {"n": 10}, {"jitter": -0.1}, {"jitter": 1.1}, {"blur": 1.0}])
def test_configurations_outside_their_range_are_refused(config: dict) -> None:
    with pytest.raises(ValidationError):
        NineOps.model_validate(config)


@pytest.mark.parametrize(
    "config",
    [
        {"dropout": (0.3, 0.1)}, {"dropout": (-0.1, 0.1)}, {"dropout": (0.5, 1.5)},
        {"jpeg": (0, 50)}, {"jpeg": (10, 120)}, {"solarize": (100, 300)}, {"solarize": (-5, 100)},
        {"salt_pepper": (0.1, 0.01)}, {"salt_pepper": (0.5, 2.0)}, {"noise": (-1, 5)}, {"noise": (9, 3)},
    ],
)  # fmt: skip
def test_ranges_that_mean_nothing_are_refused(config: dict) -> None:
    """When the recipe is read, not by a traceback out of a loader process, and not silently."""
    with pytest.raises(ValidationError):
        NineOps.model_validate(config)
