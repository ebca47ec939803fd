"""fewmask.ops.adaptive: confidence of the classes, copy-paste by it, and the box around an object that is cut out."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from fewmask.ops import adaptive, mix
from fewmask.ops.rng import Draws, Purpose
from hand import Dealt

N = 4000
E = math.e


def draws(n: int = N, step: int = 0) -> list[Draws]:
    return [Draws(7, Purpose.MIX, step, slot) for slot in range(n)]


def near(count: float, p: float, n: int = N) -> bool:
    """Three standard errors; exactly where p is 0 or 1."""
    return abs(count - n * p) <= 3 * math.sqrt(n * p * (1 - p))


# --- σ ----------------------------------------------------------------------------------------------------------

# softmax of the pixels 0 0, 0 1, 1 0, 1 1
P = [(0.5, 0.3, 0.2), (0.1, 0.6, 0.3), (0.25, 0.25, 0.5), (0.7, 0.1, 0.2)]
Q = [(0.1, 0.8, 0.1), (0.3, 0.2, 0.5), (0.4, 0.4, 0.2), (0.3, 0.6, 0.1)]


def logits(rows: list[tuple[float, ...]]) -> Tensor:
    """Return [1, K, 2, 2] with these softmax values, away from log p by a constant a pixel."""
    p = torch.tensor(rows, dtype=torch.float64).log() + torch.tensor([[0.0], [3.0], [-2.0], [1.0]])
    return p.T.reshape(1, -1, 2, 2).requires_grad_()


@pytest.mark.parametrize("void", [255, 3, -1])
def test_true_class_sums(void: int) -> None:
    """Labels 0 1 | void 0: class 0 has .5 + .7 of two pixels, class 1 .6 of one, class 2 nothing."""
    sums, pixels = adaptive.true_class_sums([logits(P)], torch.tensor([[[0, 1], [void, 0]]]))
    assert sums.tolist() == pytest.approx([1.2, 0.6, 0.0], rel=1e-12) and sums[2] == 0
    assert pixels.tolist() == [2, 1, 0]
    assert (sums.dtype, pixels.dtype) == (torch.float64, torch.int64)
    assert not sums.requires_grad


def test_true_class_sums_of_two_predictors() -> None:
    """The mean of both: class 0 (.5 + .1)/2 + (.7 + .3)/2 = .8, class 1 (.6 + .2)/2 = .4; a pixel counts once."""
    sums, pixels = adaptive.true_class_sums([logits(P), logits(Q)], torch.tensor([[[0, 1], [255, 0]]]))
    assert sums.tolist() == pytest.approx([0.8, 0.4, 0.0], rel=1e-12)
    assert pixels.tolist() == [2, 1, 0]


def test_true_class_sums_of_two_images_and_of_void() -> None:
    """Both images add up; the second shows class 2 with .1 and .1 and class 1 with .2."""
    both = torch.cat((logits(P), logits(Q)))
    labels = torch.tensor([[[0, 1], [255, 0]], [[2, 1], [255, 2]]])
    sums, pixels = adaptive.true_class_sums([both], labels)
    assert sums.tolist() == pytest.approx([1.2, 0.8, 0.2], rel=1e-12) and pixels.tolist() == [2, 2, 2]
    sums, pixels = adaptive.true_class_sums([both], torch.full_like(labels, 255))
    assert sums.tolist() == [0, 0, 0] and pixels.tolist() == [0, 0, 0]


# --- copy-paste -------------------------------------------------------------------------------------------------


def test_paste_weight() -> None:
    """exp(√(1 - σ)): e at 0, √e at .75, 1 at 1; a moving average a little above 1 is 1, not NaN."""
    sigma = torch.tensor([0.0, 0.75, 1.0, 1.0 + 1e-6, 1.5], dtype=torch.float64)
    assert adaptive.paste_weight(sigma).tolist() == pytest.approx([E, math.sqrt(E), 1, 1, 1], rel=1e-12)


SIGMA = torch.tensor([0.0, 0.75, 1.0])


@pytest.mark.parametrize(
    ("numbers", "drawn"),
    [
        # e : √e : 1 of 5.367 has its bounds at .5065 and .8137; by exp(1 - σ) they were .5434 and .8001
        ([0.49, 0.506], {0}), ([0.49, 0.507], {1}), ([0.49, 0.807], {1}), ([0.49, 0.814], {2}),
        ([0.0, 0.1, 0.52, 0.807], {0, 1}), ([0.49, 0.82, 0.99, 0.0], {0, 2}), ([0.5, 0.1, 0.6, 0.9], set()),
    ],
)  # fmt: skip
def test_paste_by_hand(numbers: list[float], drawn: set[int]) -> None:
    """First the chance, here .5, then a number a class; void, 255, is never pasted, nor what is drawn by no number."""
    donor = torch.tensor([[[0, 1, 255], [2, 0, 2]]])
    source = Dealt(numbers)
    got = adaptive.paste_mask(donor, adaptive.paste_weight(SIGMA), [source], 0.5, len(numbers) - 1)
    assert got.tolist() == [[[label in drawn for label in row] for row in donor[0].tolist()]]
    assert got.dtype == torch.bool and not source.left


def test_paste_is_all_pixels_of_the_classes_and_no_others() -> None:
    """Random donors of 5 classes and void, two draws: one or two of the classes that the donor shows, whole."""
    donor = torch.randint(0, 6, (400, 3, 4), generator=torch.Generator().manual_seed(0))
    donor[donor == 5] = 255
    donor[0] = 255
    mask = adaptive.paste_mask(donor, torch.ones(5), draws(400), 1.0, 2)
    numbers = Counter()
    for own, pasted in zip(donor, mask, strict=True):
        classes = own[pasted].unique()
        assert 255 not in classes and torch.equal(pasted, torch.isin(own, classes))
        numbers[len(classes)] += 1
    assert set(numbers) == {0, 1, 2} and numbers[0] == 1 and not mask[0].any()


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.5, 1.0])
def test_chance_to_be_pasted_onto(chance: float) -> None:
    donor = torch.tensor([[[0, 1, 2, 255]]]).expand(N, -1, -1)
    mask = adaptive.paste_mask(donor, torch.ones(3), draws(), chance, 3)
    assert near(mask.any(2).sum().item(), chance)


@pytest.mark.parametrize("sigma", [(0.0, 1.0, 1.0), (0.0, 0.75, 1.0), (1.0, 0.2, 0.9), (0.0, 1.0)])
@pytest.mark.parametrize("shown", [(0, 1, 2), (0, 1), (1,)])
def test_paste_frequency(sigma: tuple[float, ...], shown: tuple[int, ...]) -> None:
    """p(c) ∝ exp(√(1 - σ_c)) among those shown: .576, .212, .212 of the first case, .506, .307, .186 of the second."""
    shown = tuple(c for c in shown if c < len(sigma))
    donor = torch.tensor([[[*shown, 255]]]).expand(N, -1, -1)
    mask = adaptive.paste_mask(donor, adaptive.paste_weight(torch.tensor(sigma)), draws(), 1.0, 1)
    weight = [math.exp(math.sqrt(1 - sigma[c])) for c in shown]
    for place in range(len(shown)):
        assert near(mask[:, 0, place].sum().item(), weight[place] / sum(weight))


def test_paste_draws_of_other_images_change_nothing() -> None:
    donor = torch.randint(0, 4, (8, 3, 3), generator=torch.Generator().manual_seed(2))
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0])
    whole = adaptive.paste_mask(donor, weight, draws(8), 0.6, 2)
    mixed = [a if i % 2 else b for i, (a, b) in enumerate(zip(draws(8), draws(8, step=1), strict=True))]
    other = adaptive.paste_mask(donor, weight, mixed, 0.6, 2)
    assert torch.equal(whole[1::2], other[1::2]) and not torch.equal(whole[::2], other[::2])
    for i in range(8):
        assert torch.equal(adaptive.paste_mask(donor[i : i + 1], weight, draws(8)[i : i + 1], 0.6, 2)[0], whole[i])


# --- the box around an object -----------------------------------------------------------------------------------

Box = tuple[int, int, int, int]  # top, left, height, width
HALF = "half"


def image(picture: str, padding: int = 0) -> tuple[Tensor, Tensor]:
    """Return labels and validity, [1, H, W], of rows of digits with "." in the padding."""
    rows = picture.split()
    labels = torch.tensor([[padding if c == "." else int(c) for c in row] for row in rows])
    valid = torch.tensor([[c != "." for c in row] for row in rows])
    return labels.unsqueeze(0), valid.unsqueeze(0)


def cut(picture: tuple[Tensor, Tensor], sigma: tuple[float, ...], objects: set[Box], n: int = N) -> Counter[Box | str]:
    """Return how often the box of each object is cut; HALF counts the rectangles of ``mix``; nothing else is cut."""
    height, width = picture[0].shape[1:]
    labels, valid = (m.expand(n, -1, -1) for m in picture)
    masks = adaptive.component_box_mask(labels, valid, torch.tensor(sigma), draws(n))
    assert masks.shape == labels.shape and masks.dtype == torch.bool and masks.device.type == "cpu"
    out: Counter[Box | str] = Counter()
    for mask, half in zip(masks, mix.half_area_mask(draws(n), height, width, 1.0), strict=True):
        rows, columns = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
        box = (rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
        whole = mask.sum() == box[2] * box[3]
        assert (box in objects and whole) or torch.equal(mask, half), box
        out[box if box in objects else HALF] += 1
    return out


OBJECT = "........ ..11.... ..1..... ..111... ........"


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_box_of_the_only_object(padding: int) -> None:
    """Rows 1-3, columns 2-4, whatever class the network sees in the padding around it."""
    only = (1, 2, 3, 3)
    assert cut(image(OBJECT, padding), (0.5, 0.5, 0.5), {only}, 50) == {only: 50}


def test_box_of_an_object_on_a_ground() -> None:
    """Either the object, or the ground, whose box is the whole image: e^.5 to 1, .622 to .378."""
    one, ground = (1, 2, 3, 3), (0, 0, 5, 8)
    got = cut(image(OBJECT.replace(".", "0")), (1.0, 0.5), {one, ground})
    assert set(got) == {one, ground} and near(got[one], math.sqrt(E) / (1 + math.sqrt(E)))


def test_objects_of_a_class_are_drawn_uniformly() -> None:
    """15, 2 and 1 pixels: a third each, not 5/6, 1/9, 1/18."""
    boxes = {(0, 0, 3, 5), (0, 7, 2, 1), (3, 7, 1, 1)}
    got = cut(image("11111..1 11111..1 11111... .......1"), (0.9, 0.0), boxes)
    assert set(got) == boxes and all(near(count, 1 / 3) for count in got.values())


@pytest.mark.parametrize(
    ("picture", "boxes"),
    [
        ("1... .1.. ..1. ....", {(0, 0, 3, 3)}),
        ("..1. .1.. ...1 ....", {(0, 1, 2, 2), (2, 3, 1, 1)}),  # from column 1 to 3 is no step
        ("10.. 01.. .... ....", {(0, 0, 2, 2)}),  # both diagonals are whole
        ("1.1. .... 1.1. ....", {(0, 0, 1, 1), (0, 2, 1, 1), (2, 0, 1, 1), (2, 2, 1, 1)}),
        ("1.1. .1.. 1.1. ....", {(0, 0, 3, 3)}),
    ],
)
def test_corners_connect(picture: str, boxes: set[Box]) -> None:
    assert set(cut(image(picture), (0.0, 0.0), boxes, 200)) == boxes


def line(*lengths: int) -> tuple[Tensor, Tensor]:
    """Return 20x20 pixels of padding with lines of class 1 in rows 0, 2, 4, ..., from column 3."""
    rows = ["." * 20] * 20
    for i, n in enumerate(lengths):
        rows[2 * i] = ("..." + "1" * n).ljust(20, ".")
    return image(" ".join(rows))


@pytest.mark.parametrize(
    ("lengths", "boxes"),
    [
        # of 400 pixels a class needs 4 (1 %) and an object 3 (more than .5 %)
        ((4,), {(0, 3, 1, 4)}),
        ((3,), set()),
        ((3, 2), {(0, 3, 1, 3)}),
        ((2, 3, 1, 3), {(2, 3, 1, 3), (6, 3, 1, 3)}),
        ((2, 2), set()),
        ((1,) * 9, set()),
    ],
)
def test_small_classes_and_small_objects_are_not_cut(lengths: tuple[int, ...], boxes: set[Box]) -> None:
    assert set(cut(line(*lengths), (0.0, 0.0), boxes, 200)) == (boxes or {HALF})


@pytest.mark.parametrize(
    ("lengths", "half", "ground"),
    [((3,), 0.0, 1.0), ((2, 2), E / (1 + E), 1 / (1 + E)), ((4,), 0.0, 1 / (1 + E))],
)
def test_a_small_class_beside_a_large_one(lengths: tuple[int, ...], half: float, ground: float) -> None:
    """At e to 1, a class of 3 pixels is never drawn, one of 4 is; one of two lines of 2 is too, and has no object."""
    labels, valid = line(*lengths)
    labels[0, 12:], valid[0, 12:] = 0, True
    got = cut((labels, valid), (1.0, 0.0), {(12, 0, 8, 20), (0, 3, 1, 4)})
    assert near(got[HALF], half) and near(got[12, 0, 8, 20], ground)


def test_padding_breaks_objects() -> None:
    """Class 1 whose column in the middle is padding: two objects, though the label goes on under it."""
    boxes = {(0, 0, 2, 2), (0, 3, 2, 3)}
    got = cut(image("11.111 11.111 ......", padding=1), (0.0, 0.0), boxes)
    assert set(got) == boxes and all(near(count, 0.5) for count in got.values())


@pytest.mark.parametrize("padding", [0, 1])
def test_padding_counts_for_nothing(padding: int) -> None:
    """Seen as one class all over: 3 of 400 pixels outside the padding are too few, 4 are enough."""
    for length, box in ((3, HALF), (4, (0, 3, 1, 4))):
        labels, valid = line(length)
        assert set(cut((torch.where(valid, labels, padding), valid), (0.0, 0.0), {(0, 3, 1, 4)}, 50)) == {box}


@pytest.mark.parametrize("sigma", [(0.5, 0.5, 0.5), (0.0, 1.0)])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5), (16, 12)])
def test_all_padding_is_the_rectangle_of_half_the_area(shape: tuple[int, int], sigma: tuple[float, ...]) -> None:
    labels = torch.randint(0, len(sigma), (30, *shape), generator=torch.Generator().manual_seed(4))
    got = adaptive.component_box_mask(labels, torch.zeros(30, *shape).bool(), torch.tensor(sigma), draws(30))
    assert torch.equal(got, mix.half_area_mask(draws(30), *shape, 1.0))


BLOCKS = "000111222 000111222"
COLUMNS = [(0, 3 * c, 2, 3) for c in range(3)]


@pytest.mark.parametrize("sigma", [(0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (0.0, 0.75, 1.0), (0.3, 0.3, 0.3), (0.0, 0.5)])
def test_cutting_frequency(sigma: tuple[float, ...]) -> None:
    """p(c) ∝ exp(1 - σ_c): .576, .212, .212 in the first case; e, 1.284, 1 in the third: .543, .257, .200."""
    classes = len(sigma)
    got = cut(image(" ".join(row[: 3 * classes] for row in BLOCKS.split())), sigma, set(COLUMNS[:classes]))
    total = sum(math.exp(1 - s) for s in sigma)
    assert set(got) == set(COLUMNS[:classes])
    assert all(near(got[COLUMNS[c]], math.exp(1 - s) / total) for c, s in enumerate(sigma))


def test_cutting_frequency_does_not_depend_on_areas() -> None:
    """16, 2 and 1 pixels, connected each: class 1, at σ = 0, has e/(e + 2) all the same."""
    boxes = {(0, 0, 3, 7), (0, 5, 1, 2), (2, 6, 1, 1)}
    got = cut(image("0000011 0000000 0000..2"), (1.0, 0.0, 1.0), boxes)
    assert set(got) == boxes and near(got[0, 5, 1, 2], E / (E + 2)) and near(got[2, 6, 1, 1], 1 / (E + 2))


def test_classes_that_are_not_there_have_no_share() -> None:
    """The confidence of classes 0 and 3, the first and the last, which the image lacks, moves nothing."""
    boxes = {(0, 2, 2, 3), (0, 5, 2, 3)}
    got = cut(image("..111222 ..111222"), (0.0, 0.0, 1.0, 0.0), boxes)
    assert set(got) == boxes and near(got[0, 2, 2, 3], E / (E + 1))


@pytest.mark.parametrize(("u", "drawn"), [(0.0, 2), (0.499, 2), (0.5, 5), (1 - 2.0**-53, 5)])
def test_class_by_inversion(u: float, drawn: int) -> None:
    """After the rectangle's four numbers: two of four classes, of equal weight, meet at .5; the ends are theirs too."""
    labels, valid = image("..111222 ..111222")
    source = Dealt([0.5, 0.5, 0.5, 0.5, u, 0.9])
    mask = adaptive.component_box_mask(labels, valid, torch.ones(4), [source])
    assert mask[0].any(0).tolist() == [drawn <= x < drawn + 3 for x in range(8)] and not source.left


def test_a_confidence_above_one_is_one() -> None:
    above, one = (cut(image(BLOCKS), (0.0, 1.0, s), set(COLUMNS)) for s in (3.0, 1.0))
    assert above == one and len(one) == 3


def test_images_are_cut_on_their_own() -> None:
    """Other images' labels and draws change nothing; a batch mixes objects, rectangles and padding."""
    labels = torch.randint(0, 3, (6, 9, 8), generator=torch.Generator().manual_seed(3))
    labels[1] = 2
    valid = torch.ones(6, 9, 8, dtype=torch.bool)
    valid[2], valid[3, :, 5:] = False, False
    sigma = torch.tensor([0.2, 0.6, 0.9])
    whole = adaptive.component_box_mask(labels, valid, sigma, draws(6))
    for i in range(6):
        one = adaptive.component_box_mask(labels[i : i + 1], valid[i : i + 1], sigma, draws(6)[i : i + 1])
        assert torch.equal(one[0], whole[i])
    assert whole[1].all() and torch.equal(whole[2:3], mix.half_area_mask(draws(6)[2:3], 9, 8, 1.0))
    assert not whole[3, :, 5:].any()
    assert not torch.equal(whole, adaptive.component_box_mask(labels, valid, sigma, draws(6, step=1)))
