"""U2PL's labels, weights, sets and losses against the slow oracle, on random images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from fewmask.batch import Items
from fewmask.method import Step
from fewmask.methods.u2pl import U2PL
from fewmask.nets.running import RunningMean
from fewmask.ops import contrast, losses, mix
from hand import Table, double, step
from hand_u2pl import Featured, method, networks
from oracles import adaptive
from oracles import u2pl as oracle

CASES: list[dict] = [
    {},
    {"alpha": 0.5, "dynamic": False, "every": 2},
    {"negatives": "authors_code", "cutmix": 1.0},
    {"negatives_from": "reliable", "alpha": 0.4, "every": 2, "bank": 0},
    {"negatives_from": "all", "r_low": 1, "r_high": 2, "push": 2},
    {"ranked": False, "cutmix": 0.5, "bank": 40},
    {"ranked": False, "negatives_from": "all", "negatives": "authors_code", "delta": 0.0},
    {"r_low": 0, "delta": 0.4, "alpha": 0.5, "eta": 2.5, "lam_c": 0.3, "temperature": 0.2, "cutmix": 1.0, "every": 2},
    {"augment": "ael", "alpha": 0.4, "momentum": 0.5, "paste_chance": 0.8},
    {"augment": "ael", "paste_chance": 1.0, "paste_classes": 1, "every": 2, "negatives_from": "all", "bank": 0},
]


class TwoFaced(Featured):
    first: Table

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, features = super().forward(x)
        return (logits if self.training else self.first(x)), features


@dataclass
class Scene:
    """Random images in which every pixel has a code, and so probabilities and a feature, of its own."""

    m: U2PL
    every: int
    y: np.ndarray
    lab: np.ndarray
    weak: np.ndarray
    valid: np.ndarray
    p: tuple[np.ndarray, np.ndarray]
    first: np.ndarray
    z: tuple[np.ndarray, np.ndarray]
    sigma: list[float]

    def networks(self) -> dict:
        """Return the networks; the teacher's pass in evaluation mode says something else."""
        tables = (*(p.tolist() for p in self.p), *(z.tolist() for z in self.z))
        nets = networks(self.m, *tables, every=self.every, sigma=self.sigma)
        nets["teacher"].__class__ = TwoFaced
        nets["teacher"].__dict__["first"] = Table(self.first.tolist())  # unknown to the moving average
        return nets

    def batch(self) -> dict[str, Items]:
        def images(codes: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(codes).float().unsqueeze(1)

        y, valid = torch.from_numpy(self.y), torch.from_numpy(self.valid)
        return {
            "l": Items((images(self.lab),), ("weak",), y != 255, torch.arange(len(y)), y),
            "u": Items((images(self.weak),), ("weak",), valid, torch.arange(len(valid))),
        }


def scene(config: dict, seed: int) -> Scene:
    rng = np.random.default_rng([seed, *str(config).encode()])
    k, height, width = int(rng.integers(2, 7)), 2 * int(rng.integers(1, 5)), 2 * int(rng.integers(1, 6))
    few, many = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    constants = {"anchors": 4, "draws": 6, "dim": 5, "push": 12, "bank": 25} | config
    every = int(constants.pop("every", 1))
    pixels = height * width
    lab = np.arange(few * pixels).reshape(few, height, width)
    weak = np.arange(few * pixels, (few + many) * pixels).reshape(many, height, width)
    rows = (few + many) * pixels
    p_s, p_t = (rng.dirichlet(np.full(k, 0.7), rows) * 0.98 + 0.02 / k for _ in range(2))
    if seed % 3 == 0:  # ties, of entropies and of probabilities
        p_t[rng.random(rows) < 0.5] = np.roll(
            np.array([0.5, 0.3, *[0.2 / (k - 2)] * (k - 2)] if k > 2 else [0.7, 0.3]), 1
        )
    y = rng.integers(0, k, (few, height, width))
    y[rng.random(y.shape) < 0.25] = 255
    valid = rng.random((many, height, width)) < 0.8
    if seed % 4 == 1:
        y[0], valid[-1] = 255, False
    first = np.where(rng.random((rows, 1)) < 0.5, p_t, rng.dirichlet(np.full(k, 0.7), rows) * 0.98 + 0.02 / k)
    z_s, z_t = rng.normal(size=(2, rows, 5))
    m, sigma = method(classes=k, **constants), rng.random(k).tolist()
    return Scene(m, every, y, lab, weak, valid, (p_s, p_t), first, (z_s, z_t), sigma)


@dataclass
class Drawn:
    """What was drawn in a step, and from what."""

    anchors: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    negatives: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    uniform: list[torch.Tensor] = field(default_factory=list)
    reliable: list[torch.Tensor] = field(default_factory=list)
    gammas: list[torch.Tensor] = field(default_factory=list)
    boxes: list[torch.Tensor] = field(default_factory=list)


@contextmanager
def spied() -> Iterator[Drawn]:
    """Record every draw, the first threshold and the reliable pixels, without a change."""
    out = Drawn()
    replaced, without = contrast.draw_with_replacement, contrast.draw_without_replacement
    rand, ce, quantile, box = torch.rand, losses.weighted_cross_entropy, contrast.quantile, mix.half_area_mask

    def kept(into: list, value: object) -> object:
        into.append(value)
        return value

    def on_anchors(mask: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return kept(out.anchors, (mask, replaced(mask, u)))[1]  # pyright: ignore[reportIndexIssue]

    def on_negatives(mask: torch.Tensor, count: int, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return kept(out.negatives, (mask, *without(mask, count, u)))[1:]  # pyright: ignore[reportIndexIssue]

    def on_loss(p: torch.Tensor, label: torch.Tensor, weight: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        out.reliable.append(weight)
        return ce(p, label, weight, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrast, "draw_with_replacement", on_anchors)
        patch.setattr(contrast, "draw_without_replacement", on_negatives)
        patch.setattr(torch, "rand", lambda *a, **k: kept(out.uniform, rand(*a, **k)))
        patch.setattr(losses, "weighted_cross_entropy", on_loss)
        patch.setattr(contrast, "quantile", lambda *a: kept(out.gammas, quantile(*a)))
        patch.setattr(mix, "half_area_mask", lambda *a, **k: kept(out.boxes, box(*a, **k)))
        yield out


def neighbour(i: int, n: int) -> int:
    """Return whom an image takes from: 0 and 1 from each other, 2 and 3; a last odd one from the one before."""
    j = i + 1 if i % 2 == 0 else i - 1
    return max(0, i - 1) if j >= n else j


def mixed(weak: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return each image with its neighbour's pixels where the mask is True."""
    out = weak.copy()
    for i in range(len(weak)):
        out[i][box[i]] = weak[neighbour(i, len(weak))][box[i]]
    return out


def by_ael(s: Scene, sigma: list[float], now: Step, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what labelled and unlabelled images take from their neighbours, by the step's own random numbers."""
    cfg, label, box, paste = s.m.config, s.first[s.weak].argmax(-1), half.copy(), np.zeros(s.lab.shape, dtype=bool)
    for i, source in enumerate(now.draws("u")):
        *_, u_class, u_object = source.uniforms((4 if half.shape[2] > 2 else 3) + 2).tolist()
        j = neighbour(i, len(label))
        found = adaptive.object_box(label[j], s.valid[j], sigma, u_class, u_object)
        box[i] = half[i] if found is None else found
    for i, source in enumerate(now.draws("l")):
        u_chance, *u = source.uniforms(1 + cfg.paste_classes).tolist()
        paste[i] = adaptive.pasted(s.y[neighbour(i, len(s.y))], sigma, u_chance, cfg.paste_chance, u)
    return paste, box


def expected_contrast(
    s: Scene, sets: oracle.Sets, drawn: Drawn, z: list[np.ndarray], bank: list[list[list[float]]]
) -> tuple[float, list[list[np.ndarray]]]:
    """Return L_c for the anchors and negatives that were drawn, and the step's negatives of each class."""
    (_, anchor), (_, index, real) = drawn.anchors[0], drawn.negatives[0]
    u = drawn.uniform[2].double().numpy()
    anchors, positives, negatives, own = [], [], [], []
    for c, (a, n) in enumerate(zip(sets.anchors(), sets.negatives(), strict=True)):
        rows = index[c][real[c]].tolist()
        # the drawn ones are different cells of N_c, all of them or as many as may be pushed
        assert len(set(rows)) == len(rows) == min(s.m.config.push, sum(n)) and all(n[r] for r in rows)
        own.append([z[1][r] for r in rows])
        # Algorithm 1: push, pop, draw from what is left; new ones first, then the bank from the newest to the oldest
        room = max(0, s.m.config.bank - len(rows))
        pool = own[-1] + [np.array(f) for f in bank[c][::-1][:room]]
        if not any(a) or not pool:
            continue
        assert all(a[r] for r in anchor[c].tolist())
        anchors.append([z[0][r] for r in anchor[c].tolist()])
        positives.append(oracle.centre([z[1][r] for r, is_anchor in enumerate(a) if is_anchor]))
        negatives.append([[pool[int(v * len(pool))] for v in row] for row in u[c]])
    return oracle.contrast(anchors, positives, negatives, s.m.config.temperature), own


@pytest.mark.parametrize("exact", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("config", CASES, ids=lambda c: "-".join(map(str, c.values())) or "defaults")
def test_step(config: dict, exact: bool) -> None:
    """Three steps of 6 scenes: every set exactly, γ, and every loss; to 1e-9 in float64 and 1e-6 in float32."""
    near = {"rel": 1e-9, "abs": 1e-12} if exact else {"rel": 1e-6, "abs": 1e-6}
    contrasts = boxes = pastes = 0
    for seed in range(6 if exact else 2):
        s = scene(config, seed)
        cfg, k = s.m.config, s.m.task.classes
        nets = s.networks()
        if not exact:
            nets = {name: net.float() for name, net in nets.items()}
        fifo = oracle.Fifo(k, cfg.bank)
        for t in range(3):
            now = replace(step(t, 9, l=len(s.lab), u=len(s.weak)), epoch=t, epochs=4)
            memo: dict[str, torch.Tensor] = {}
            with double() if exact else nullcontext(), spied() as drawn:
                out = s.m.losses(nets, s.batch(), now, memo)
            alpha = oracle.share(cfg.alpha, t, 4, cfg.dynamic)
            assert s.m.alpha_t(now) == pytest.approx(alpha)
            box, paste = drawn.boxes[0].numpy(), np.zeros(s.lab.shape, dtype=bool)
            sigma = RunningMean.of(nets, "confidence").mean.tolist() if cfg.augment == "ael" else []
            if sigma:
                paste, box = by_ael(s, sigma, now, box)
            lab, y = mixed(s.lab, paste), mixed(s.y, paste)
            codes, valid = mixed(s.weak, box), mixed(s.valid, box)
            label = mixed(s.first[s.weak].argmax(-1), box)
            every = np.concatenate((lab, codes))
            p_s, p_t = (np.moveaxis(p[every], -1, 1) for p in s.p)
            p_u, few = p_t[len(s.lab) :], len(s.lab)

            counts, gamma = oracle.reliable(p_u, valid, alpha)
            assert (drawn.reliable[0].numpy() == counts).all()
            assert drawn.gammas[0].item() == pytest.approx(gamma, **near)
            assert out["sup"].item() == pytest.approx(oracle.supervised(p_s[:few], y), **near)
            unsup = oracle.weighted_unsupervised(p_s[few:], label, counts, valid, cfg.eta)
            assert out["unsup"].item() == pytest.approx(unsup, **near)
            assert memo["kept"].item() == pytest.approx(counts.sum() / max(1, valid.sum()))
            assert memo["pseudo"].tolist() == np.bincount(label[counts], minlength=k).tolist()

            grid = (p_t.shape[2] // s.every, p_t.shape[3] // s.every)
            sets = oracle.Sets(p_t, y, label, valid, grid, alpha, cfg.model_dump())
            assert drawn.anchors[0][0].tolist() == sets.anchors()
            assert drawn.negatives[0][0].tolist() == sets.negatives()
            cells = every[:, :: s.every, :: s.every].ravel()
            value, own = expected_contrast(s, sets, drawn, [z[cells] for z in s.z], fifo.queues)
            assert out["contrast"].item() == pytest.approx(cfg.lam_c * value, **near)
            s.m.after_step(nets, now, memo)
            if sigma:
                sums, pixels = adaptive.true_class([p_s[:few]], y)
                seen = [total / max(1, n) for total, n in zip(sums, pixels, strict=True)]
                keep = [cfg.momentum if n else 1.0 for n in pixels]
                after = [m * old + (1 - m) * new for m, old, new in zip(keep, sigma, seen, strict=True)]
                assert RunningMean.of(nets, "confidence").mean.tolist() == pytest.approx(after, rel=1e-5, abs=1e-7)
            if cfg.bank:
                for c, features in enumerate(own):
                    for f in features:
                        fifo.push(c, (f / np.linalg.norm(f)).tolist())
                held = [len(queue) for queue in fifo.queues]
                assert nets["bank"].held.tolist() == held
                ages = torch.arange(max(1, max(held))).expand(k, -1)
                for c, queue in enumerate(fifo.queues):
                    found = nets["bank"].newest(ages)[c, : held[c]].double().numpy()
                    assert found == pytest.approx(np.array(queue[::-1]).reshape(-1, 5), abs=1e-12 if exact else 1e-6)
            # the teacher's table must not move: the oracle's is fixed
            with torch.no_grad():
                nets["teacher"].load_state_dict(s.networks()["teacher"].state_dict())
            contrasts, boxes, pastes = contrasts + (value > 0), boxes + box.any(), pastes + paste.any()
    assert contrasts > 6 or not exact
    assert bool(boxes) == bool(config.keys() & {"cutmix", "augment"})
    assert bool(pastes) == ("augment" in config) or not exact
