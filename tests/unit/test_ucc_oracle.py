"""UCC's losses, weights, moving average and class draw against the slow oracle, on random images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fewmask.batch import Batch, Items
from fewmask.methods.ucc import UCC
from fewmask.nets.running import RunningMean
from fewmask.ops import losses, mix
from hand import step
from hand_ucc import method, networks, run, tables
from oracles import ucc as oracle

CASES = [
    {"paste": "none"},
    {"paste": "none", "reweight": "printed", "heads": "separate"},
    {"paste": "none", "reweight": "none", "own_views": True},
    {"paste": "dcscp"},
    {"paste": "dcscp", "reweight": "printed", "own_views": True, "heads": "separate"},
    {"paste": "cscp", "reweight": "none", "paste_classes": 1, "paste_chance": 1.0},
    {"paste": "dcp", "views": "w", "lam": 0.75},
    {"paste": "cp", "views": "s", "paste_chance": 1.0, "heads": "separate"},
    {"paste": "dcscp", "views": "w", "paste_chance": 1.0},
]


@dataclass
class Scene:
    """Random images in which every pixel has a code, and so a softmax of either head, of its own."""

    m: UCC
    labels: np.ndarray
    lab: np.ndarray
    views: list[np.ndarray]
    valid: np.ndarray
    p: tuple[np.ndarray, np.ndarray]
    sigma: list[float]

    def maps(self, codes: np.ndarray) -> oracle.Pair:
        """Return both heads' softmax maps [B, K, H, W] of images of codes."""
        return tuple(np.moveaxis(table[codes], -1, 1) for table in self.p)  # pyright: ignore[reportReturnType]

    def batch(self) -> Batch:
        kinds = self.m.streams["u"].views
        assert len(kinds) == len(self.views)

        def images(codes: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(codes).float().unsqueeze(1)

        valid = torch.from_numpy(self.valid)
        lab = torch.from_numpy(self.labels)
        return {
            "l": Items((images(self.lab),), ("weak",), lab != 255, torch.arange(len(lab)), lab),
            "u": Items(tuple(map(images, self.views)), kinds, valid, torch.arange(len(valid))),
        }


def scene(config: dict, seed: int) -> Scene:
    rng = np.random.default_rng([seed, *str(config).encode()])
    k, height, width = int(rng.integers(2, 6)), int(rng.integers(1, 7)), int(rng.integers(1, 8))
    many, few = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    m = method(classes=k, **config)
    counts = [few] + [many] * len(m.streams["u"].views)
    ends = np.cumsum([n * height * width for n in counts])
    grids = [np.arange(e - n * height * width, e).reshape(n, height, width) for n, e in zip(counts, ends, strict=True)]
    one, two = (rng.dirichlet(np.full(k, 0.7), ends[-1]) * 0.98 + 0.02 / k for _ in range(2))
    ties = rng.random(ends[-1]) < 0.2
    two[ties] = one[ties]
    if seed % 3 == 0:  # an image where nobody teaches
        two[grids[1][0].ravel()] = one[grids[1][0].ravel()]
    labels = rng.integers(0, k, (few, height, width))
    labels[rng.random(labels.shape) < 0.25] = 255
    if seed % 4 == 1:
        labels[0] = 255
    valid = rng.random((many, height, width)) < 0.75
    if seed % 5 == 2:
        valid[-1] = False
    return Scene(m, labels, grids[0], grids[1:], valid, (one, two), rng.random(k).tolist())


def pasted(s: Scene, seen: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mask M, the donors' codes and their labels, as the codes that the network saw tell them.

    And see that they are what Eq. 3 says: in each image all pixels of some classes of one donor, and no void.
    """
    mask = seen != own
    donor, truth = np.zeros_like(own), np.full_like(own, 255)
    for i in range(len(own)):
        codes = seen[i][mask[i]]
        assert (codes < s.lab.size).all()
        if not mask[i].any():
            continue
        (source,) = set((codes // s.lab[0].size).tolist())
        donor[i], truth[i] = s.lab[source], s.labels[source]
        assert (seen[i][mask[i]] == donor[i][mask[i]]).all()
        classes = set(truth[i][mask[i]].tolist())
        assert 255 not in classes and (mask[i] == np.isin(truth[i], list(classes))).all()
        assert len(classes) <= s.m.config.paste_classes
    return mask, donor, truth


@pytest.mark.parametrize("config", CASES, ids=lambda c: "-".join(map(str, c.values())))
def test_losses(config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """L_s and λ·L_u to 1e-9, labels and weights of both heads, the share that trained, and σ̂ after the step."""
    given: list[tuple[np.ndarray, np.ndarray]] = []
    fast = losses.image_weighted_cross_entropy

    def spy(logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        given.append((labels.numpy(), weight.numpy()))
        return fast(logits, labels, weight)

    monkeypatch.setattr(losses, "image_weighted_cross_entropy", spy)
    onto_l = onto_u = zero = 0
    for seed in range(12):
        s = scene(config, seed)
        nets = networks(s.m, s.p[0].tolist(), s.p[1].tolist(), s.sigma)
        out, memo = run(s.m, s.batch(), nets, t=seed)
        few, many = len(s.lab), len(s.valid)
        seen = np.array(tables(nets)[0].seen[-1][0])
        if s.m.config.heads == "separate" and s.m.config.own_views:  # each network sees its own view only
            assert len(seen) == few + many
            seen = np.concatenate((seen, tables(nets)[1].seen[-1][0][few:]))

        mask_l, donor_l, truth_l = pasted(s, seen[:few], s.lab)
        x, y = oracle.paste(s.lab, donor_l, mask_l), oracle.paste(s.labels, truth_l, mask_l)
        assert out["sup"].item() == pytest.approx(oracle.supervised(s.maps(x), y), rel=1e-9, abs=1e-12)

        strong = s.views[1:] or s.views
        found = [pasted(s, seen[few + n * many : few + (n + 1) * many], view) for n, view in enumerate(strong)]
        mask_u, donor_u, truth_u = found[0]
        assert all((mask == mask_u).all() for mask, _, _ in found)
        reading = s.m.config.reweight
        q1, q2, u1, u2 = oracle.taught(s.maps(s.views[0]), s.valid, truth_u, mask_u, reading)
        mixed = (
            oracle.paste(s.maps(strong[0])[0], s.maps(donor_u)[0], mask_u),
            oracle.paste(s.maps(strong[-1])[1], s.maps(donor_u)[1], mask_u),
        )
        expected = s.m.config.lam * oracle.unsupervised(mixed, q1, q2, u1, u2)
        assert out["unsup"].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)

        for (label, weight), q, u in zip(given, (q1, q2), (u1, u2), strict=True):
            assert weight == pytest.approx(u, rel=1e-9, abs=0) and (label[u > 0] == q[u > 0]).all()
        given.clear()
        trained, counted = ((u1 > 0) | (u2 > 0)).sum(), (s.valid | mask_u).sum()
        assert memo["kept"].item() == pytest.approx(trained / max(1, counted))

        s.m.after_step(nets, step(seed, 100, l=few, u=many), memo)
        sigma = oracle.averaged(s.sigma, s.maps(x), y, s.m.config.alpha)
        assert RunningMean.of(nets, "confidence").mean.tolist() == pytest.approx(sigma, rel=1e-5, abs=1e-7)
        onto_l, onto_u, zero = onto_l + mask_l.sum(), onto_u + mask_u.sum(), zero + (u1.sum((1, 2)) == 0).any()
    assert (onto_l > 0) == (config["paste"] != "none") and (onto_u > 0) == ("cscp" in config["paste"])
    assert zero or config.get("reweight") == "none"  # an image without weight was among them


@pytest.mark.parametrize("seed", range(6))
def test_image_weighted_cross_entropy(seed: int) -> None:
    """One half of L_u on weights of all sizes, also 0 for a whole image."""
    g = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(4, 2 + seed % 4, 6, 7, generator=g, dtype=torch.float64)).requires_grad_()
    label = torch.randint(0, logits.shape[1], (4, 6, 7), generator=g)
    weight = torch.rand(4, 6, 7, generator=g, dtype=torch.float64) * (torch.rand(4, 6, 7, generator=g) < 0.6)
    weight[seed % 4] = 0
    loss = losses.image_weighted_cross_entropy(logits, label, weight)
    p = logits.detach().softmax(1).numpy()
    each = [oracle.weighted_mean(p[i], label[i].numpy(), weight[i].numpy()) for i in range(4)]
    assert loss.item() == pytest.approx(math.fsum(each) / 4, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all() and not gradient[seed % 4].any() and gradient.any()


def test_image_weighted_cross_entropy_of_ignored_pixels() -> None:
    """As weighted_cross_entropy, whose arguments it takes: IGNORE counts as weight 0, above and below the line."""
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.tensor([[[0, 1], [2, 255]], [[255, 255], [255, 255]]])
    weight = torch.ones(2, 2, 2, dtype=torch.float64)
    p = logits.softmax(1)[0]
    expected = -sum(p[c, y, x].log().item() for y, x, c in ((0, 0, 0), (0, 1, 1), (1, 0, 2))) / 3 / 2
    assert losses.image_weighted_cross_entropy(logits, label, weight).item() == pytest.approx(expected, rel=1e-12)


# --- the law of the class draw ----------------------------------------------------------------------------------

DRAWS = 6000


def near(count: float, p: float) -> bool:
    return abs(count - DRAWS * p) <= 3 * math.sqrt(DRAWS * p * (1 - p))


@pytest.mark.parametrize("shown", [[0, 1, 2, 3], [1, 3], [0, 3], [0, 2], [2]])
def test_class_law(shown: list[int]) -> None:
    """σ̂ = 0 for class 3, .9 for the others: among four, 3 is drawn with e / (e + 3·e^√.1) = .398, not 1/4."""
    sigma = [0.9, 0.9, 0.9, 0.0]
    law = oracle.class_law(sigma, [c in shown for c in range(4)])
    if shown == [0, 1, 2, 3]:
        assert law[3] == pytest.approx(math.e / (math.e + 3 * math.exp(math.sqrt(0.1))))
    donor = torch.tensor([[*shown, 255]]).expand(DRAWS, 1, -1)
    numbers = np.random.default_rng(3).random((DRAWS, 1))
    weight = (1 - torch.tensor(sigma)).sqrt().exp()
    directly = mix.draw_classes(donor, weight, torch.from_numpy(numbers))
    m = method(classes=4, paste="dcscp", paste_chance=1.0, paste_classes=1)
    now = step(7, 100, l=1, u=DRAWS)
    mask = m._pasted({"confidence": RunningMean(sigma)}, donor, now, "u")
    through = torch.zeros(DRAWS, 4, dtype=torch.bool)
    through[:, shown] = mask[:, 0, :-1]
    for got in (directly, through):
        assert (got.sum(1) == 1).all()
        assert all(near(got[:, c].sum().item(), law[c]) for c in range(4))
