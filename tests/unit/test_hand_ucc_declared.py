"""What UCC declares: streams, networks, heads that are cut out, combinations that are refused; and Eq. 4, σ̂."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from fewmask.data.perturb import NineOps
from fewmask.method import Task
from fewmask.methods.ucc import UCC
from fewmask.nets import Builder
from fewmask.nets.heads import SharedEncoder
from fewmask.nets.running import RunningMean
from fewmask.nets.segmenter import Segmenter
from fewmask.ops import adaptive
from fewmask.run.init import start_from
from hand import items, step
from hand_ucc import LABELLED, WEAK, A, B, method, networks, run, unlabelled


@pytest.mark.parametrize(
    ("config", "views", "together"),
    [
        ({}, ("weak", "strong"), 2),
        ({"paste": "none"}, ("weak", "strong"), 1),
        ({"own_views": True}, ("weak", "strong", "strong"), 2),
        ({"views": "w", "paste": "cp"}, ("weak",), 2),
        ({"views": "s", "paste": "none"}, ("strong",), 1),
    ],
)
def test_streams(config: dict, views: tuple[str, ...], together: int) -> None:
    m = UCC(UCC.Config.model_validate(config), Task(3))
    assert (m.streams["l"].pool, m.streams["l"].views, m.streams["l"].together) == ("labelled", ("weak",), together)
    assert (m.streams["u"].pool, m.streams["u"].views) == ("unlabelled", views)
    assert m.streams["u"].perturb == NineOps() and m.streams["l"].perturb is None


def test_the_strong_view_is_configured() -> None:
    m = UCC(UCC.Config.model_validate({"strong": {"n": 4, "jpeg": [30, 40]}}), Task(3))
    assert m.streams["u"].perturb == NineOps(n=4, jpeg=(30, 40))


@pytest.mark.parametrize(
    "config",
    [
        {"own_views": True, "views": "w"}, {"own_views": True, "views": "s"}, {"lam": -1.0}, {"lambda": 1.0},
        {"alpha": 1.0}, {"alpha": -0.1}, {"paste_chance": 1.1}, {"paste_classes": 0}, {"paste": "cpd"},
        {"heads": "one"}, {"reweight": "eq9"}, {"views": "sw"}, {"strong": {"n": -1}}, {"strong": {"blur": 1}},
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(config: dict) -> None:
    with pytest.raises(ValidationError):
        UCC.Config.model_validate(config)


# --- networks ---------------------------------------------------------------------------------------------------


def built(heads: str) -> tuple[UCC, dict[str, torch.nn.Module]]:
    m = method(heads=heads)
    return m, m.networks(Builder("tiny", "tiny", 3, weights="none", seed=0))


def test_shared_networks() -> None:
    m, nets = built("shared")
    assert list(nets) == ["heads", "confidence"] and isinstance(nets["heads"], SharedEncoder)
    assert m.trained == ("heads",) and m.flow == {"sup": ("heads",), "unsup": ("heads",)}
    assert m.predictors == ("head1", "head2")
    plain = Builder("tiny", "tiny", 3, weights="none", seed=0)("student")
    for net in (m.network(nets, "head1"), m.network(nets, "head2")):
        assert isinstance(net, Segmenter) and net.state_dict().keys() == plain.state_dict().keys()
    # head 1 begins as the network of any other method; head 2 begins elsewhere, on the same encoder
    one, two = (m.network(nets, name).state_dict() for name in m.predictors)
    assert all(torch.equal(v, one[k]) for k, v in plain.state_dict().items())
    weights = [k for k in one if k.endswith("weight") and one[k].ndim > 1]
    assert {k.split(".")[0] for k in weights} == {"encoder", "decoder", "head"}
    assert all(torch.equal(one[k], two[k]) == k.startswith("encoder.") for k in weights)


def test_separate_networks() -> None:
    m, nets = built("separate")
    assert list(nets) == ["head1", "head2", "confidence"] and m.trained == ("head1", "head2")
    assert m.flow == {"sup": ("head1", "head2"), "unsup": ("head1", "head2")} and m.predictors == ("head1", "head2")
    assert m.network(nets, "head1") is nets["head1"] and m.network(nets, "head2") is nets["head2"]
    shared = {id(p) for p in nets["head1"].parameters()} & {id(p) for p in nets["head2"].parameters()}
    assert not shared and not torch.equal(*(next(nets[n].parameters()) for n in m.predictors))


def test_a_cut_out_head_shares_its_parameters_and_predicts_the_same() -> None:
    m, nets = built("shared")
    net = nets["heads"]
    assert isinstance(net, SharedEncoder)
    with torch.no_grad():  # both heads stand at other places than at the start
        for i, p in enumerate(net.parameters()):
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    net.eval()
    x = torch.randn(2, 3, 9, 10, generator=torch.Generator().manual_seed(9))
    mine = {id(p) for p in net.parameters()} | {id(b) for b in net.buffers()}
    for number, name in enumerate(m.predictors):
        head = m.network(nets, name)
        assert {id(t) for t in (*head.parameters(), *head.buffers())} < mine
        with torch.no_grad():
            assert torch.equal(m.predict(nets, name, x), net(x)[number])
    with torch.no_grad():
        before, other = (m.predict(nets, name, x) for name in m.predictors)
        for p in net.heads[0].parameters():
            p.zero_()
        assert m.predict(nets, "head1", x).abs().max() == 0 < before.abs().max()
        assert torch.equal(m.predict(nets, "head2", x), other)


@pytest.mark.parametrize("heads", ["separate", "shared"])
def test_heads_start_from_a_supervised_run(heads: str, tmp_path: Path) -> None:
    """``--init``, "pretrained model is initialised with the supervised data": head 1 whole, head 2 its encoder only."""
    delivered = Builder("tiny", "tiny", 3, weights="none", seed=4)("student").state_dict()
    save_file(delivered, tmp_path / "model.safetensors")
    m, nets = built(heads)
    second = {k: v.clone() for k, v in m.network(nets, "head2").state_dict().items()}
    start_from(nets, tmp_path / "model.safetensors", lambda line: None)
    one, two = (m.network(nets, name).state_dict() for name in m.predictors)
    assert all(torch.equal(one[k], v) for k, v in delivered.items())
    assert all(torch.equal(two[k], delivered[k] if k.startswith("encoder.") else second[k]) for k in two)


def test_confidence_starts_at_zero() -> None:
    for heads in ("shared", "separate"):
        _, nets = built(heads)
        assert RunningMean.of(nets, "confidence").mean.tolist() == [0.0, 0.0, 0.0]


# --- Eq. 4 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["shared", "separate"])
@pytest.mark.parametrize("alpha", [0.0, 0.9, 0.999])
def test_confidence(alpha: float, heads: str) -> None:
    """Codes 0 and 1 are class 1, code 2 class 0, code 3 void; class 2 is absent and keeps its .7.

    σ_1 = (.3 + .5 + .4 + .25) / 4 = .3625, σ_0 = (.1 + .3) / 2 = .2, over both heads.
    """
    nets = networks(m := method(alpha=alpha, heads=heads), sigma=[0.4, 0.9, 0.7])
    batch = unlabelled(WEAK) | {"l": items([LABELLED], mask=[[[1, 1], [0, 255]]])}
    _, memo = run(m, batch, nets)
    m.after_step(nets, step(3, 100, l=1, u=1), memo)
    expected = [alpha * 0.4 + (1 - alpha) * 0.2, alpha * 0.9 + (1 - alpha) * 0.3625, 0.7]
    assert RunningMean.of(nets, "confidence").mean.tolist() == pytest.approx(expected, rel=1e-6)


def test_confidence_of_a_class_that_another_rank_shows() -> None:
    """Sums and pixels are added over the ranks before the division: class 2 has 4 pixels of .5 elsewhere.

    Here class 1 has .3 + .5 (head 1), .4 + .25 (head 2): the sum .725 of two pixels; elsewhere 1.2 of 2 more.
    """
    nets = networks(m := method(alpha=0.5), sigma=[0.4, 0.9, 0.7])
    _, memo = run(m, unlabelled(WEAK) | {"l": items([LABELLED], mask=[[[1, 1], [255, 255]]])}, nets)
    elsewhere = iter([torch.tensor([0.0, 1.2, 2.0]), torch.tensor([0, 2, 4])])

    def reduce(x: torch.Tensor) -> torch.Tensor:
        return x + next(elsewhere)

    m.after_step(nets, replace(step(3, 100, l=1, u=1), reduce=reduce), memo)
    expected = [0.4, (0.9 + (0.725 + 1.2) / 4) / 2, (0.7 + 0.5) / 2]
    assert RunningMean.of(nets, "confidence").mean.tolist() == pytest.approx(expected, rel=1e-6)


def test_confidence_changes_in_after_step_alone_and_where_pixels_are() -> None:
    nets = networks(m := method(alpha=0.5), sigma=[0.4, 0.9, 0.7])
    _, memo = run(m, unlabelled(WEAK) | {"l": items([LABELLED], mask=[[[255, 255], [255, 255]]])}, nets)
    m.after_step(nets, step(3, 100, l=1, u=1), memo)
    assert RunningMean.of(nets, "confidence").mean.tolist() == pytest.approx([0.4, 0.9, 0.7])


def test_confidence_of_millions_of_pixels() -> None:
    """Eight crops of 800x800 in one class: a float32 sum over them, pixel by pixel, misses the mean by percents."""
    m = method(classes=2, heads="separate", alpha=0.0)
    labels = torch.zeros(8, 800, 800, dtype=torch.int64)
    logits = torch.zeros(8, 2, 800, 800)
    logits[:, 0] = torch.logit(torch.tensor(0.6123))
    memo: dict[str, torch.Tensor] = {}
    memo["sums"], memo["pixels"] = adaptive.true_class_sums((logits, logits), labels)
    nets = {"confidence": RunningMean([0.0, 0.0])}
    m.after_step(nets, step(), memo)
    assert nets["confidence"].mean.tolist() == pytest.approx([0.6123, 0.0], abs=1e-4)


def test_float64_networks_train() -> None:
    """Tables of float64, as the tests by hand of the other methods use them, without a change of the default dtype."""
    m = method()
    m.losses(networks(m, A, B), unlabelled(WEAK), step(3, 100, l=1, u=1), {})
