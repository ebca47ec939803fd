"""The gradient scaler of fp16, on a CPU by substitution: its state is saved, what it skips is not counted as harm."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision

from fewmask.contract import STEPS, Case, ToyBuild, toy_batch, toy_slots
from fewmask.engine.checkpoint import Snapshot, Store
from fewmask.engine.guard import Guard
from fewmask.engine.launch import launch
from fewmask.engine.learner import Learner
from fewmask.engine.optim import OptimConfig
from fewmask.engine.precision import Format

FRESH = torch.amp.GradScaler("cpu").state_dict()


@pytest.fixture
def fabric() -> Fabric:
    """What ``launch`` makes for fp16 on a GPU, with a CPU in its place."""
    made = Fabric(
        accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]
    )
    made.launch()
    return made


def learner(fabric: Fabric, paper: str = "fixmatch", **optim: object) -> Learner:
    method = Case(paper, {"tau": 0.3} if paper == "fixmatch" else {}).make()
    cfg = OptimConfig.model_validate({"lr": 1e-3} | optim)
    layout = Format("fp16" if scale_of(fabric) else "fp32", False, "")
    made = Learner(fabric, method, ToyBuild(), cfg, toy_slots(method.streams), STEPS, 0, layout)
    made.train_mode()
    return made


def advance(made: Learner, start: int, stop: int) -> None:
    for t in range(start, stop):
        made.update(toy_batch(made.method.streams, made.slots, t), t)


def scale_of(fabric: Fabric) -> float:
    return fabric._precision.state_dict().get("scale", 0.0)


def overflow(made: Learner) -> None:
    """Make the next gradients too large for fp16."""
    made.fabric._precision.load_state_dict(FRESH | {"scale": 2.0**60})


def tensors(snapshot: Snapshot) -> dict[str, torch.Tensor]:
    return snapshot.networks | snapshot.optimisers


def test_the_substitute_computes_in_fp16(fabric):
    made = learner(fabric)
    with made.autocast():
        assert made.nets["student"].encoder[0](torch.zeros(1, 3, 8, 8)).dtype == torch.float16


def test_its_state_goes_into_the_checkpoint_and_comes_out(fabric, tmp_path):
    whole = learner(fabric)
    overflow(whole)
    advance(whole, 0, 5)
    Store(tmp_path).save(whole.snapshot(5, {}))
    saved = fabric._precision.state_dict()
    assert FRESH["scale"] < saved["scale"] < 2.0**60, "some steps were skipped"
    advance(whole, 5, STEPS)
    end, last = whole.snapshot(STEPS, {}), fabric._precision.state_dict()
    assert last != saved

    again = learner(fabric)
    assert fabric._precision.state_dict() == FRESH, "a training begins with a fresh scaler, whatever was trained before"
    snapshot = Store(tmp_path).latest()
    assert snapshot is not None and snapshot.state["scaler"] == saved
    again.restore(snapshot)
    assert fabric._precision.state_dict() == saved
    advance(again, 5, STEPS)
    assert fabric._precision.state_dict() == last
    mine = tensors(again.snapshot(STEPS, {}))
    assert all(torch.equal(mine[key], value) for key, value in tensors(end).items())


def test_a_step_that_it_skips_is_no_harm(fabric):
    made = learner(fabric, "supervised")
    advance(made, 0, 1)
    before, weights = scale_of(fabric), made.nets["net"].head.classify.weight
    assert before == FRESH["scale"]
    overflow(made)
    kept, skipped = weights.clone(), []
    guard = Guard(made, STEPS, skipped, lambda raw: {}, None, pytest.fail)
    batch = toy_batch(made.method.streams, made.slots, 1)
    assert guard.update({}, batch, 1) is not None and skipped == []
    assert torch.equal(weights, kept) and scale_of(fabric) == 2.0**59, "it was skipped"
    assert made.sound(everything=True) and made.unsound() == []
    made.fabric._precision.load_state_dict(FRESH)
    assert guard.update({}, batch, 1) is not None and not torch.equal(weights, kept)


def test_a_loss_that_is_not_finite_still_is(fabric):
    made = learner(fabric, "supervised")
    with torch.no_grad():
        made.nets["net"].head.classify.weight.fill_(torch.inf)
    advance(made, 0, 1)
    assert not made.sound()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_gradients_are_clipped_at_their_true_size(fabric, name):
    """The scaler's factor is taken out first; the gradients of a step are those without fp16 but for its rounding."""
    found = {}
    for kind, where in (("fp16", fabric), ("fp32", launch("cpu", "fp32"))):
        made = learner(where, "supervised", name=name, clip=0.05)
        before = {k: v.clone() for k, v in made.nets["net"].named_parameters()}
        advance(made, 0, 1)
        found[kind] = torch.cat([(v - before[k]).flatten() for k, v in made.nets["net"].named_parameters()]).detach()
    assert found["fp32"].norm() > 0
    if name == "sgd":
        assert (found["fp16"] - found["fp32"]).norm() < 0.02 * found["fp32"].norm()
    assert torch.nn.functional.cosine_similarity(found["fp16"], found["fp32"], dim=0) > 0.9


def test_begin_again(fabric):
    made = learner(fabric)
    overflow(made)
    advance(made, 0, 2)
    made.begin_again()
    assert fabric._precision.state_dict() == FRESH
