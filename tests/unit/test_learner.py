"""One update: overrides, phases, clipping, and losses that are not finite."""

import pytest
import torch

from fewmask.contract import STEPS, Case, ToyBuild, toy_batch, toy_slots
from fewmask.engine import precision
from fewmask.engine.launch import launch
from fewmask.engine.learner import Learner
from fewmask.engine.optim import OptimConfig
from fewmask.engine.precision import Format, choose
from fewmask.errors import ConfigError
from fewmask.nets.tiny import tiny

FP32 = Format("fp32", False, "")


def learner(name: str, optim: OptimConfig | None = None, layout: Format = FP32, **constants) -> Learner:
    method = Case(name, constants).make()
    slots = toy_slots(method.streams)
    made = Learner(launch("cpu", "fp32"), method, ToyBuild(), optim or OptimConfig(), slots, STEPS, 0, layout)
    made.train_mode()
    return made


def step(made: Learner, t: int = 0) -> None:
    made.update(toy_batch(made.method.streams, made.slots, t), t)


def test_a_network_may_override_the_optimiser():
    made = learner("planted:Adversarial", OptimConfig(lr=0.5, head_lr_mult=1))
    step(made)
    rates = {name: {g["lr"] for g in o.optimizer.param_groups} for name, o in made.optimisers.items()}
    assert rates == {"net": {0.5}, "critic": {1e-4}}
    assert {g["weight_decay"] for g in made.optimisers["critic"].optimizer.param_groups} == {0.0}


def test_a_phase_leaves_the_other_networks_without_gradient():
    made = learner("planted:Adversarial")
    critic = {k: v.clone() for k, v in made.nets["critic"].named_parameters()}
    phase = made.phases[0]
    made._phase(phase, [(toy_batch(made.method.streams, made.slots, 0), made.step_at(0), {})])
    assert all(p.grad is None for p in made.nets["critic"].parameters())
    assert all(torch.equal(critic[k], v) for k, v in made.nets["critic"].named_parameters())


def test_clipping_bounds_the_step():
    """With SGD without momentum the weights move by at most lr·clip."""
    cfg = OptimConfig(name="sgd", lr=1.0, head_lr_mult=1, momentum=0, weight_decay=0, power=0, clip=1e-3)
    made = learner("supervised", cfg)
    before = torch.cat([p.detach().flatten().clone() for p in made.nets["net"].parameters()])
    step(made)
    moved = torch.cat([p.detach().flatten() for p in made.nets["net"].parameters()]) - before
    assert 0.9e-3 < moved.norm() < 1.01e-3


def test_a_loss_that_is_not_finite_is_found():
    made = learner("supervised")
    with torch.no_grad():
        made.nets["net"].head.classify.weight.fill_(float("nan"))
    assert made.sound() and not made.sound(everything=True)
    assert "net.head.classify.weight" in made.unsound()
    step(made)
    assert not made.sound()


def test_epochs_follow_the_unlabelled_pool():
    """8 unlabelled items in batches of 4: two steps a pass, so step 5 lies in the third."""
    step = learner("fixmatch").step_at(5)
    assert (step.epoch, step.epochs) == (2, 6)


def test_fp16_with_two_networks_is_refused():
    with pytest.raises(ConfigError, match="fp16 trains one network"):
        learner("cps", layout=Format("fp16", False, ""))


@pytest.mark.parametrize("layout", [Format("bf16", True, ""), Format("fp32", True, "")])
def test_other_formats_train(layout):
    made = learner("fixmatch", layout=layout)
    before = made.nets["student"].head.classify.weight.clone()
    step(made)
    assert made.sound(everything=True)
    assert not torch.equal(before, made.nets["student"].head.classify.weight)
    assert all(p.dtype == torch.float32 for p in made.nets["student"].parameters())


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({("fp32", False): 1.0, ("fp32", True): 0.95, ("bf16", True): 0.3}, ("bf16", True)),
        ({("fp32", False): 1.0, ("fp32", True): 0.5, ("bf16", True): 0.8}, ("fp32", True)),
        ({("fp32", False): 1.0, ("fp32", True): 0.95, ("bf16", True): 0.92}, ("fp32", False)),
    ],
)
def test_the_probe_takes_what_is_clearly_faster(monkeypatch, times, chosen):
    names = {None: "fp32", torch.bfloat16: "bf16"}
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    monkeypatch.setattr(precision, "_seconds", lambda net, x, dtype, last: times[names[dtype], last])
    found = choose("auto", None, tiny(3), (2, 3, 16, 16), torch.device("cpu"))
    assert (found.precision, found.channels_last) == chosen


def test_the_probe_leaves_out_bf16_where_there_is_none(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    assert choose("auto", None, tiny(3), (2, 3, 16, 16), torch.device("cpu")).precision == "fp32"


def test_what_is_asked_for_is_not_probed(monkeypatch):
    monkeypatch.setattr(precision, "_seconds", None)
    found = choose("bf16", False, tiny(3), (2, 3, 16, 16), torch.device("cpu"))
    assert (found.precision, found.channels_last) == ("bf16", False)
