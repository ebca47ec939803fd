"""fewmask.ops.mix: classes drawn for copy-paste, and their pixels."""

from __future__ import annotations

import pytest
import torch

from fewmask.ops import mix

# by hand: class 0 and 2 shown, 1 not; weights .5, 9, 1.5, so u < .25 draws 0 and the rest 2
LABELS = torch.tensor([[[0, 2], [255, 2]]])
WEIGHT = torch.tensor([0.5, 9.0, 1.5])


@pytest.mark.parametrize(
    ("u", "drawn"),
    [
        ([0.0], [0]), ([0.2499], [0]), ([0.25], [2]), ([0.9], [2]), ([1 - 2.0**-53], [2]),
        ([0.1, 0.2], [0]), ([0.1, 0.3], [0, 2]), ([0.3, 0.3, 0.99], [2]),
    ],
)  # fmt: skip
def test_draw_by_inversion(u: list[float], drawn: list[int]) -> None:
    got = mix.draw_classes(LABELS, WEIGHT, torch.tensor([u], dtype=torch.float64))
    assert got.shape == (1, 3) and got.dtype == torch.bool
    assert got[0].nonzero().flatten().tolist() == drawn


def test_only_shown_classes_are_drawn() -> None:
    """Void and anything else outside 0..K-1 is no class; an image without any draws none."""
    labels = torch.tensor([[[1, 1]], [[255, 255]], [[-1, 3]], [[255, 2]], [[-1, 0]]])
    u = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
    got = mix.draw_classes(labels, WEIGHT, u)
    assert got.tolist() == [
        [False, True, False], [False] * 3, [False] * 3, [False, False, True], [True, False, False],
    ]  # fmt: skip


@pytest.mark.parametrize("shown", range(5))
def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_shown_class(shown: int) -> None:
    g = torch.Generator().manual_seed(shown)
    for _ in range(50):
        labels = torch.randint(0, 5, (1, 1, 1 + shown), generator=g)
        weight = torch.rand(5, generator=g) + 1e-3
        for u, end in ((0.0, labels.min()), (1 - 2.0**-53, labels.max())):
            got = mix.draw_classes(labels, weight, torch.tensor([[u]], dtype=torch.float64))
            assert got[0].nonzero().flatten().tolist() == [end.item()]


def test_images_draw_on_their_own() -> None:
    labels = torch.randint(0, 3, (6, 2, 2), generator=torch.Generator().manual_seed(1))
    u = torch.rand(6, 2, generator=torch.Generator().manual_seed(2))
    whole = mix.draw_classes(labels, WEIGHT, u)
    each = [mix.draw_classes(labels[i : i + 1], WEIGHT, u[i : i + 1])[0] for i in range(6)]
    assert torch.equal(whole, torch.stack(each))


def test_class_mask() -> None:
    """All pixels of the chosen classes; never void, not even where class 0, under which it is looked up, is chosen."""
    labels = torch.tensor([[[0, 1], [255, 2]], [[0, 1], [-1, 2]], [[2, 2], [255, 0]], [[0, 1], [3, 2]]])
    chosen = torch.tensor([[True, False, True], [True, True, True], [False, True, False], [True, False, False]])
    assert mix.class_mask(labels, chosen).tolist() == [
        [[True, False], [False, True]], [[True, True], [False, True]], [[False] * 2] * 2, [[True, False], [False] * 2],
    ]  # fmt: skip
