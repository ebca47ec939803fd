"""A step in parts: what each sees, what all leave, and when its gradient is that of the undivided batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fewmask.contract import Case, toy_batch
from fewmask.contract.toys import case_batch, make_learner
from fewmask.data.index import Item, Pools
from fewmask.data.stream import plan_slots
from fewmask.engine.parts import divided, whole
from fewmask.errors import ConfigError
from fewmask.methods import resolve
from fewmask.ops.rng import Purpose
from fewmask.recipe import read_recipe
from fewmask.run.rehearse import smaller


def test_parts_hold_the_slots_of_a_batch_with_their_draws():
    made = make_learner(Case("fixmatch"))
    batch, step = case_batch(made.method, 3), made.step_at(3)
    assert divided(batch, step, 1) == [(batch, step, {})]
    parts = divided(batch, step, 2)
    assert [list(own.slots["u"]) for _, own, _ in parts] == [[0, 1], [2, 3]] and parts[0][2] is not parts[1][2]
    drawn = [draws.uniform(0, 1) for draws in step.draws("u")]
    assert [draws.uniform(0, 1) for _, own, _ in parts for draws in own.draws("u")] == drawn
    for n, (items, own, _) in enumerate(parts):
        alone = toy_batch(made.method.streams, own.slots, 3)
        assert all(torch.equal(a, b) for a, b in zip(items["u"].views, alone["u"].views, strict=True)), n
        assert torch.equal(items["l"].labels, alone["l"].labels)
    seeds = [own.generator(Purpose.BANK).initial_seed() for _, own, _ in parts]
    other = [own.generator(Purpose.BANK).initial_seed() for _, own, _ in divided(batch, replace(step, rank=1), 2)]
    assert len({*seeds, *other}) == 4, "no two parts of any rank draw the same"


def test_memos_by_hand():
    memos = [{"sums": torch.tensor([1.0, 2.0]), "kept": torch.tensor(0.5), "new": torch.ones(3, 2, 4)},
             {"sums": torch.tensor([3.0, 5.0]), "kept": torch.tensor(0.1), "new": torch.zeros(3, 5, 4)}]  # fmt: skip
    found = whole(memos, {"new": 1})
    assert found["sums"].tolist() == [4.0, 7.0] and found["kept"].item() == pytest.approx(0.3)
    assert found["new"].shape == (3, 7, 4) and found["new"].sum() == 24
    assert whole(memos[:1], {"new": 1}) is memos[0]
    with pytest.raises(ValueError, match=r"leave \['new'\] in the memo, and some do not"):
        whole([memos[0], {k: v for k, v in memos[1].items() if k != "new"}], {"new": 1})


def stepped(parts: int, even: bool) -> tuple[dict[str, torch.Tensor], float]:
    """Return the weights after a step of plain gradient descent without batch statistics, and the logged loss."""
    made: Any = make_learner(Case("supervised"), parts=parts)
    for module in made.nets["net"].modules():
        if isinstance(module, nn.BatchNorm2d | nn.Dropout2d):
            module.eval()
    for group in made.optimisers["net"].param_groups:
        group |= {"weight_decay": 0.0, "eps": 1e3}  # Adam is linear in so small a gradient
    batch = case_batch(made.method, 0)
    if even:
        items = batch["l"]
        known = torch.where(items.labels < 3, items.labels, 0)
        batch = {"l": replace(items, mask=known, valid=torch.ones_like(items.valid))}
    terms, _ = made.update(batch, 0)
    return {name: p.detach().double() for name, p in made.nets["net"].named_parameters()}, terms["sup"].item()


@pytest.mark.parametrize("parts", [2, 4])
def test_where_as_many_pixels_count_parts_make_the_step_of_the_batch(parts):
    start = {k: p.detach().double() for k, p in make_learner(Case("supervised")).nets["net"].named_parameters()}
    (one, loss), (other, same) = stepped(1, even=True), stepped(parts, even=True)
    assert loss == pytest.approx(same, rel=1e-6)
    for name, before in start.items():
        moved = one[name] - before
        assert moved.abs().max() > 0 and (other[name] - one[name]).abs().max() < 1e-2 * moved.abs().max(), name


def test_else_each_part_divides_by_its_own_pixels():
    """The toy images have unlike numbers of void pixels: the loss is the mean of the halves' losses."""
    made: Any = make_learner(Case("supervised"))
    for module in made.nets["net"].modules():
        if isinstance(module, nn.BatchNorm2d | nn.Dropout2d):
            module.eval()
    batch, step = case_batch(made.method, 0), made.step_at(0)
    halves = [
        made.method.losses(made.nets, items, own, memo)["sup"].item() for items, own, memo in divided(batch, step, 2)
    ]
    undivided = made.method.losses(made.nets, batch, step, {})["sup"].item()
    assert stepped(2, even=False)[1] == pytest.approx(sum(halves) / 2, rel=1e-5)
    assert abs(undivided - sum(halves) / 2) > 1e-4


def test_batches_that_do_not_divide(tmp_path):
    items = tuple(Item(f"{n}", tmp_path / f"{n}.png", None) for n in range(9))
    pools, streams = Pools(items, items), Case("fixmatch").make().streams
    assert [s.count for s in plan_slots(streams, pools, 4, 8, 0, 2, 2).values()] == [2, 4], "the share of a rank"
    with pytest.raises(ConfigError, match=r"6 does not divide by 2 processes of 2 parts each \(train.accumulate\).*4$"):
        plan_slots(streams, pools, 4, 6, 0, 2, 2)
    pairs = {name: replace(stream, together=2) for name, stream in streams.items()}
    with pytest.raises(ConfigError, match="1 a part cannot be grouped by 2"):
        plan_slots(pairs, pools, 4, 4, 0, 1, 4)


@pytest.mark.parametrize(
    ("keys", "row"),
    [
        ({}, "train.accumulate=2"),
        ({"train.accumulate": 2}, None),  # FixMatch mixes pairs of the four, which stay together
        ({"method.name": "mean_teacher", "train.accumulate": 2}, "train.accumulate=4"),
        ({"method.name": "mean_teacher", "train.accumulate": 4}, None),
        ({"data.batch": 3, "data.unlabelled_batch": 9}, None),  # nine have no pairs
        ({"data.batch": 3, "data.unlabelled_batch": 12}, "train.accumulate=3"),
        ({"data.batch": 3}, None),
        ({"data.batch": 3, "method.name": "supervised"}, "train.accumulate=3"),
    ],
)
def test_out_of_memory_says_into_how_many_parts(keys, row, tmp_path):
    keys = {"data.dir": ".", "data.crop": "64", "method.name": "fixmatch", "model.encoder": "resnet18"} | keys
    recipe = read_recipe(None, keys | {"machine.devices": "cpu"})
    method = resolve(recipe.method_name)(recipe.constants(), Case("fixmatch").make().task)
    lines = smaller(recipe, method, (64, 64))
    assert [line.split()[0] for line in lines if "accumulate" in line] == ([row] if row else [])
    if row:  # what is proposed is not refused
        pool = tuple(Item(f"{n}", tmp_path / f"{n}.png", None) for n in range(20))
        parts = int(row.partition("=")[2])
        plan_slots(method.streams, Pools(pool, pool), recipe.data.batch, recipe.data.unlabelled_batch, 0, 1, parts)
