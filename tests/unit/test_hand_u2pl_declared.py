"""U2PL on small images, by hand: the bank of negatives; what the method declares, its networks, what it delivers."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from fewmask.batch import Batch, Items
from fewmask.method import Task, make_networks
from fewmask.methods.u2pl import U2PL
from fewmask.nets import Builder
from fewmask.nets.bank import ClassBanks
from fewmask.nets.represent import Represented
from fewmask.nets.segmenter import Segmenter
from fewmask.ops import contrast
from fewmask.run.init import start_from
from hand import Table, double
from hand_u2pl import NEGATIVE, POSITIVE, at, method, nce, networks, run


def loss(*classes: tuple[float, float], draws: int = 256, tau: float = 0.5) -> float:
    return sum(nce(p, n, draws, tau) for p, n in classes) / len(classes)


EVERY = list(zip(POSITIVE, NEGATIVE, strict=True))


# --- the bank -----------------------------------------------------------------------------------------------------


def test_a_step_pushes_its_negatives() -> None:
    """Directions of codes 1, {0, 2} and {1, 7}, of the teacher; in after_step, not before."""
    nets = networks(m := method())
    _, memo = run(m, nets=nets)
    bank = nets["bank"]
    assert bank.held.tolist() == [0, 0, 0]
    m.after_step(nets, at(), memo)
    assert bank.held.tolist() == [1, 2, 2]
    assert bank.features[0, 0].tolist() == [0, 1] and bank.features[1, :2].tolist() == [[1, 0], [1, 0]]
    assert bank.features[2, :2].tolist() == [[0, 1], [0, 1]] and not bank.features[:, 2:].any()


@pytest.mark.parametrize("push", [1, 2, 3])
def test_at_most_so_many_are_pushed(push: int) -> None:
    nets = networks(m := method(push=push))
    _, memo = run(m, nets=nets)
    m.after_step(nets, at(), memo)
    assert nets["bank"].held.tolist() == [1, min(push, 2), min(push, 2)]


def full(m, length: int, feature: tuple[float, float]) -> dict:
    """Return networks whose banks are full of one feature."""
    nets = networks(m)
    nets["bank"].push(torch.tensor([[feature] * length] * 3, dtype=torch.float64), torch.ones(3, length).bool())
    return nets


def test_old_negatives_are_drawn_with_the_steps_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 0: its own (0, 1), cosine 0, and three old (-1, 0), cosine -1; u decides which, [0, ¼) the new one."""
    m = method(anchors=1, draws=4, bank=4, push=2)
    nets = full(m, 4, (-1.0, 0.0))
    # the oldest one leaves: of 4 places one is for the new one
    with double():
        real = torch.rand

        def rand(shape: tuple[int, ...], **options: object) -> torch.Tensor:
            return torch.tensor([0.1, 0.3, 0.6, 0.9]).expand(shape) if len(shape) == 3 else real(shape)

        monkeypatch.setattr(torch, "rand", rand)
        out, _ = run(m, nets=nets)
    tau, p = 0.5, POSITIVE

    def term(positive: float, negatives: list[float]) -> float:
        over = math.exp(positive / tau)
        return -math.log(over / (over + sum(math.exp(n / tau) for n in negatives)))

    # class 1: two of four are new, (1, 0) at cosine 0 to (0, 1); the old ones too. Class 2: (0, 1) at -1, old at 0
    each = [term(p[0], [0, -1, -1, -1]), term(p[1], [0, 0, 0, 0]), term(p[2], [-1, -1, 0, 0])]
    assert out["contrast"].item() == pytest.approx(sum(each) / 3, rel=1e-12)


def test_a_class_without_negatives_now_takes_old_ones() -> None:
    """r_l = r_h = 1: N_1 and N_2 are empty, but the banks hold (-1, 0), at cosine 0 to both classes' anchors."""
    m = method(r_low=1, r_high=1)
    out, _ = run(m, nets=full(m, 16, (-1.0, 0.0)))
    alone, _ = run(m)
    assert alone["contrast"].item() == pytest.approx(loss(EVERY[0]), rel=1e-12)
    whole = 3 * out["contrast"].item() - nce(POSITIVE[1], 0, 256, 0.5) - nce(POSITIVE[2], 0, 256, 0.5)
    # class 0: 256 draws of its own at 0 and of 15 old ones at -1
    assert nce(POSITIVE[0], -1, 256, 0.5) < whole < nce(POSITIVE[0], 0, 256, 0.5)


def test_without_a_bank() -> None:
    """Table 6 without Q_c: the step's own negatives alone, no state."""
    m = method(bank=0)
    nets = networks(m)
    out, memo = run(m, nets=nets)
    assert out["contrast"].item() == pytest.approx(loss(*EVERY), rel=1e-12)
    assert set(memo) == {"kept", "pseudo", "agree"} and "bank" not in nets
    m.after_step(nets, at(), memo)


def test_without_contrast() -> None:
    """λ_c = 0: two terms, plain networks, no bank."""
    m = method(lam_c=0.0)
    nets = networks(m)
    assert isinstance(nets["student"], Table)
    out, memo = run(m, nets=nets)
    assert set(out) == {"sup", "unsup"} and set(memo) == {"kept", "pseudo", "agree"}
    m.after_step(nets, at(), memo)


# --- what is declared ---------------------------------------------------------------------------------------------


def test_defaults_are_the_papers() -> None:
    cfg = U2PL.Config()
    assert (cfg.eta, cfg.alpha, cfg.dynamic, cfg.temperature, cfg.delta) == (1.0, 0.2, True, 0.5, 0.3)
    assert (cfg.anchors, cfg.draws, cfg.r_low, cfg.r_high, cfg.ranked) == (50, 256, 3, 20, True)
    assert (cfg.negatives, cfg.negatives_from, cfg.bank, cfg.dim) == ("paper", "unreliable", 30000, 256)
    assert (cfg.ema_decay, cfg.cutmix, cfg.warmup, cfg.sup.loss) == (0.99, 0.5, 0.0, "ce")


@pytest.mark.parametrize(
    "config",
    [
        {"eta": -1.0}, {"lam_c": -0.1}, {"alpha": 1.0}, {"alpha": -0.1}, {"anchors": 0}, {"draws": 0}, {"lambda": 1.0},
        {"temperature": 0.0}, {"delta": 1.0}, {"r_low": -1}, {"r_high": 0}, {"negatives_from": "some"}, {"bank": -1},
        {"push": 0}, {"dim": 0}, {"negatives": "code"}, {"cutmix": 1.5}, {"ema_decay": 1.0}, {"warmup": 1.0},
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(config: dict) -> None:
    with pytest.raises(ValidationError):
        U2PL.Config.model_validate(config)


def test_declared() -> None:
    m = U2PL(U2PL.Config(), Task(3))
    assert m.predictors == ("teacher", "student") and m.teacher_bn == "train"
    assert m.flow == {"sup": ("student",), "unsup": ("student",), "contrast": ("student",)}
    assert set(U2PL(U2PL.Config(lam_c=0), Task(3)).flow) == {"sup", "unsup"}
    assert (m.streams["l"].pool, m.streams["l"].views) == ("labelled", ("weak",))
    u = m.streams["u"]
    assert (u.pool, u.views, u.together) == ("unlabelled", ("weak",), 2)


# --- networks -----------------------------------------------------------------------------------------------------


def built(**config: object) -> tuple[U2PL, dict[str, nn.Module]]:
    m = U2PL(U2PL.Config.model_validate({"dim": 6, "bank": 9} | config), Task(3))
    return m, make_networks(m, Builder("tiny", "tiny", 3, weights="none", seed=0), seed=0)


def images(height: int = 16, width: int = 16, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(9))


def test_networks() -> None:
    _, nets = built()
    assert list(nets) == ["student", "teacher", "bank"]
    student, teacher, bank = nets.values()
    assert isinstance(student, Represented) and isinstance(teacher, Represented) and isinstance(bank, ClassBanks)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), teacher.parameters(), strict=True))
    assert not {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}
    assert all(p.requires_grad for p in student.parameters()) and not any(p.requires_grad for p in teacher.parameters())
    assert bank.features.shape == (3, 9, 6) and not any(True for _ in bank.parameters())
    assert list(built(bank=0)[1]) == ["student", "teacher"]


def test_no_contrast_no_representation_head() -> None:
    m, nets = built(lam_c=0.0)
    assert list(nets) == ["student", "teacher"] and all(type(net) is Segmenter for net in nets.values())
    assert m.network(nets, "teacher") is nets["teacher"]


def test_the_student_begins_as_any_other_method_begins() -> None:
    plain = Builder("tiny", "tiny", 3, weights="none", seed=0)("student").state_dict()
    for lam in (0.0, 1.0):
        own = built(lam_c=lam)[1]["student"].state_dict()
        assert all(torch.equal(own[k], v) for k, v in plain.items())
        assert {k.split(".")[0] for k in own.keys() - plain.keys()} == ({"represent"} if lam else set())


def test_representation_head() -> None:
    """Section 4.1: two blocks of convolution, BatchNorm and ReLU; the first halves the channels; then D features."""
    _, nets = built()
    student = nets["student"]
    assert isinstance(student, Represented)
    convs = [c for c in student.represent if isinstance(c, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convs] == [(16, 8, 3), (8, 8, 3), (8, 6, 1)]
    assert sum(isinstance(c, nn.BatchNorm2d) for c in student.represent) == 2
    assert [c.p for c in student.represent if isinstance(c, nn.Dropout2d)] == [0.1, 0.1]
    logits, features = student.eval()(images(12, 20))
    assert logits.shape == (2, 3, 12, 20) and features.shape == (2, 6, 6, 10)
    assert logits.dtype == features.dtype == torch.float32
    assert torch.equal(logits, student.plain(images(12, 20)))


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_plain_network_is_delivered(name: str) -> None:
    """It shares parameters and statistics, also in a copy and after the parameters move."""
    m, nets = built()
    nets = copy.deepcopy(nets)
    net, plain = nets[name].eval(), m.network(nets, name)
    architecture = Builder("tiny", "tiny", 3, weights="none", seed=0)("student").state_dict()
    assert type(plain) is Segmenter and plain.state_dict().keys() == architecture.keys()
    mine = {id(t) for t in (*net.parameters(), *net.buffers())}
    assert {id(t) for t in (*plain.parameters(), *plain.buffers())} < mine
    with torch.no_grad():
        before = m.predict(nets, name, images())
        for p in net.parameters():
            p += 0.1
        after = m.predict(nets, name, images())
        assert torch.equal(after, net(images())[0]) and not torch.equal(before, after)
    net.train()
    assert all(part.training for part in plain.children())


def test_the_teacher_keeps_statistics_of_its_own() -> None:
    """The moving average takes parameters; running means come from the teacher's own training passes (the code)."""
    m, nets = built()
    for name, mean in (("student", 2.0), ("teacher", 0.5)):
        for layer in nets[name].modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                layer.running_mean.fill_(mean)
    nets.pop("bank")
    m.after_step(nets, at(0), {})
    means = [b for k, b in nets["teacher"].named_buffers() if k.endswith("running_mean")]
    assert len(means) == 4 and all((b == 0.5).all() for b in means)


def test_start_from_a_supervised_run(tmp_path: Path) -> None:
    """``--init``: student and teacher take the delivered network; the representation head keeps its own start."""
    delivered = Builder("tiny", "tiny", 3, weights="none", seed=4)("student").state_dict()
    save_file(delivered, tmp_path / "model.safetensors")
    m, nets = built()
    own = {k: v.clone() for k, v in nets["student"].state_dict().items() if k.startswith("represent")}
    start_from(nets, tmp_path / "model.safetensors", lambda line: None)
    for name in m.predictors:
        assert all(torch.equal(m.network(nets, name).state_dict()[k], v) for k, v in delivered.items())
        assert all(torch.equal(nets[name].state_dict()[k], v) for k, v in own.items())


def test_the_networks_own_padding_is_as_the_batchs() -> None:
    """15x15 pixels, which the network pads to 16x16, against the same images with that padding in the batch.

    Cell (i, j) of the 8x8 features is made of the pixels around (2i, 2j): its label stands there in both.
    """
    m, nets = built(cutmix=0.0, alpha=0.3)
    g = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 3, (2, 16, 16), generator=g)
    lab, weak = images(count=4).split(2)
    valid = torch.ones(2, 16, 16, dtype=torch.bool)
    valid[:, 15:], valid[:, :, 15:] = False, False
    labels[~valid] = 255
    lab, weak = (x * valid.unsqueeze(1) for x in (lab, weak))
    found = []
    for side in (16, 15):
        seen: list[torch.Tensor] = []

        def spy(mask: torch.Tensor, *rest: object, real=contrast.draw_without_replacement, seen=seen) -> object:
            seen.append(mask)
            return real(mask, *rest)

        def cut(x: torch.Tensor, side: int = side) -> torch.Tensor:
            return x[..., :side, :side]

        b: Batch = {
            "l": Items((cut(lab),), ("weak",), cut(valid), torch.arange(2), cut(labels)),
            "u": Items((cut(weak),), ("weak",), cut(valid), torch.arange(2)),
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contrast, "draw_without_replacement", spy)
            torch.manual_seed(0)
            m.losses(copy.deepcopy(nets), b, at(images=2), {})
        found.append(seen[0])
    assert found[0].any(1).all()
    assert torch.equal(*found)


def test_contrast_is_float32_under_bf16() -> None:
    """A term in bf16 would be logged in steps of 1/32 at its usual size."""
    m, nets = built(cutmix=0.0)
    lab, weak = images(count=4).split(2)
    labels = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(2))
    valid = torch.ones(2, 16, 16, dtype=torch.bool)
    b: Batch = {
        "l": Items((lab,), ("weak",), valid, torch.arange(2), labels),
        "u": Items((weak,), ("weak",), valid, torch.arange(2)),
    }
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        out = m.losses(nets, b, at(images=2), {})
    assert {name: term.dtype for name, term in out.items()} == dict.fromkeys(out, torch.float32)
