"""``fewmask bench kernels``: the forms that are used here beside the obvious ones, which give the same result.

The slow forms are what one writes down first, and what the published scripts do in one way or another: a bank that is a
list of tensors on the CPU, softmax maps that are sorted, loops over classes and parameters. Equality is checked on the
inputs that are timed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.batch import IGNORE
from fewmask.bench.turns import in_turn, ratio, summary
from fewmask.nets.bank import ClassBanks
from fewmask.ops import contrast, ema, losses, metrics, pseudo, select
from fewmask.run.notes import Say


@dataclass(frozen=True)
class Kernel:
    """Two ways to one result.

    Attributes:
        name: of what is computed.
        slow_form: what the slow way does, for the table.
        size: of the input.
        ours: the way that is used.
        slow: the obvious one.
        tolerance: between the results; 0 = to the last bit.
        results: what returns the results of both, where the ways themselves change a state and return nothing.
    """

    name: str
    slow_form: str
    size: str
    ours: Callable[[], Any]
    slow: Callable[[], Any]
    tolerance: float = 0.0
    results: tuple[Callable[[], Any], Callable[[], Any]] | None = None

    def equal(self) -> bool:
        """Return whether both ways give one result."""
        ours, slow = self.results or (self.ours, self.slow)
        pairs = zip(_flat(ours()), _flat(slow()), strict=True)
        return all(torch.allclose(a, b, rtol=self.tolerance, atol=self.tolerance, equal_nan=True) for a, b in pairs)


def rows(rounds: int, say: Say, device: torch.device, scale: float = 1.0) -> list[dict[str, Any]]:
    """Return {"name", "V", "equal", "size", "slow_form", "seconds", "slow_seconds"} of every kernel.

    Args:
        rounds: how often each is timed.
        say: receives sentences.
        device: of the tensors.
        scale: factor of the sizes.
    """
    out = []
    for one in _all(device, scale):
        say(one.name)
        equal = one.equal()
        spent = in_turn({"ours": one.ours, "slow": one.slow}, rounds, lambda text: None)
        out.append({
            "name": one.name, "V": ratio(spent["slow"], spent["ours"]), "equal": equal, "size": one.size,
            "slow_form": one.slow_form, "seconds": summary(spent["ours"]), "slow_seconds": summary(spent["slow"]),
        })  # fmt: skip
    return out


def _all(device: torch.device, scale: float) -> Iterator[Kernel]:
    g = torch.Generator().manual_seed(0)
    height, width = (max(8, round(side * scale)) for side in (160, 192))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g).to(device)

    def integers(most: int, *shape: int) -> Tensor:
        return torch.randint(most, shape, generator=g).to(device)

    yield _bank(normal, max(512, round(30_000 * scale)))
    yield _threshold(normal(8, 21, height, width).softmax(1), integers(10, 8, height, width) > 0)
    truth = torch.where(integers(10, 8, height, width) > 0, integers(21, 8, height, width), IGNORE)
    yield _iou(integers(21, 8, height, width), truth)
    yield _confidence(normal(8, 21, height, width))
    yield _average(device)
    yield _mining(normal(8, 21, height, width), truth)
    yield _selection(normal(6, 11, height, width).softmax(1))


def _bank(normal: Callable[..., Tensor], length: int) -> Kernel:
    """256 features of each class enter a full bank; the oldest leave."""
    classes, new, dim = 4, 256, 256  # a class costs what it costs, whatever their number
    features = normal(classes, new, dim)
    ring = ClassBanks(classes, length, dim).to(features.device)
    lists = [torch.zeros(length, dim) for _ in range(classes)]
    real = torch.ones(classes, new, dtype=torch.bool, device=features.device)

    def ours() -> None:
        ring.push(features, real)

    def slow() -> None:
        for k in range(classes):
            lists[k] = torch.cat((lists[k], features[k].cpu()))[-length:]

    def newest() -> Tensor:
        ours()
        return ring.newest(torch.arange(new, device=features.device).expand(classes, -1)).cpu()

    def last() -> Tensor:
        slow()
        return torch.stack([one[-new:].flip(0) for one in lists])

    size = f"{classes} classes of {length} x {dim}"
    form = "cat and cut, class by class on the CPU"
    return Kernel("memory bank", form, size, ours, slow, results=(newest, last))


def _threshold(p_BKHW: Tensor, valid_BHW: Tensor) -> Kernel:
    """The entropy that a share of the valid pixels lies below."""
    high = contrast.entropy(p_BKHW)

    def slow() -> Tensor:
        found = np.percentile(high[valid_BHW].cpu().double().numpy(), 80)
        return torch.tensor(found, dtype=high.dtype)

    return Kernel(
        "percentile", "numpy.percentile of the valid pixels", f"{high.numel()} pixels",
        lambda: contrast.quantile(high, valid_BHW, 0.8).cpu(), slow, 1e-6,
    )  # fmt: skip


def _iou(prediction: Tensor, truth: Tensor) -> Kernel:
    """The confusion matrix of 21 classes."""

    def slow() -> Tensor:
        p, t = prediction.cpu().numpy().astype(np.int64), truth.cpu().numpy().astype(np.int64)
        out = np.zeros((21, 21), dtype=np.int64)
        for k in range(21):
            out[k] = np.bincount(p[(t != IGNORE) & (t == k)], minlength=21)
        return torch.from_numpy(out)

    given = prediction.to(torch.uint8), truth.to(torch.uint8)
    return Kernel(
        "confusion matrix", "class by class in NumPy", f"{truth.numel()} pixels, 21 classes",
        lambda: metrics.confusion(*given, 21).cpu(), slow,
    )  # fmt: skip


def _confidence(z_BKHW: Tensor) -> Kernel:
    """The most likely class and its probability."""

    def slow() -> tuple[Tensor, Tensor]:
        p = z_BKHW.softmax(1)
        return p.max(1).values, p.argmax(1)

    size = "x".join(map(str, z_BKHW.shape))
    return Kernel("confidence", "softmax, then max", size, lambda: pseudo.confidence_and_label(z_BKHW), slow, 1e-5)


def _average(device: torch.device) -> Kernel:
    """A teacher follows a network of 60 convolutions."""
    layers = [nn.Sequential(nn.Conv2d(64, 64, 3, bias=False), nn.BatchNorm2d(64)) for _ in range(60)]
    student = nn.Sequential(*layers).to(device)
    start = nn.Sequential(*copy.deepcopy(layers)).to(device)
    for p in start.parameters():
        nn.init.normal_(p)
    teachers = copy.deepcopy(start), copy.deepcopy(start)

    def ours() -> None:
        ema.ema_update(teachers[0], student, 0.99)

    def slow() -> None:
        for mine, its in zip(teachers[1].state_dict().values(), student.state_dict().values(), strict=True):
            mine.copy_(0.99 * mine + 0.01 * its if mine.is_floating_point() else its)

    def after(job: Callable[[], None], teacher: nn.Module) -> Callable[[], list[Tensor]]:
        return lambda: (job(), list(teacher.state_dict().values()))[1]

    count = sum(1 for _ in student.parameters())
    both = after(ours, teachers[0]), after(slow, teachers[1])
    return Kernel("moving average", "one tensor after the other", f"{count} parameters", ours, slow, 1e-6, both)


def _mining(z_BKHW: Tensor, truth_BHW: Tensor) -> Kernel:
    """Cross-entropy of the hard pixels (OHEM)."""
    kept = truth_BHW.numel() // 16

    def slow() -> Tensor:
        valid = truth_BHW != IGNORE
        p = z_BKHW.softmax(1).gather(1, truth_BHW.where(valid, 0).unsqueeze(1)).squeeze(1).where(valid, 1.0)
        order = p.flatten().argsort()
        limit = max(0.7, float(p.flatten()[order[kept - 1]]))
        hard = truth_BHW.where(valid & (p <= limit), IGNORE)
        return F.cross_entropy(z_BKHW, hard, ignore_index=IGNORE)

    return Kernel(
        "OHEM", "argsort of the probabilities", f"{truth_BHW.numel()} pixels, 21 classes",
        lambda: losses.ohem_cross_entropy(z_BKHW, truth_BHW, 0.7, kept), slow, 1e-5,
    )  # fmt: skip


def _selection(p_BKHW: Tensor) -> Kernel:
    """DARS: the least confidence of each class, and how many pixels reach it."""
    confidence, label = (x.cpu().numpy() for x in p_BKHW.max(1))
    classes = p_BKHW.shape[1]
    share = np.arange(1, classes + 1, dtype=np.float64)
    share /= share.sum()
    bits = select.to_bits(confidence)

    def ours() -> tuple[Tensor, Tensor]:
        counts = np.zeros((classes, select.BINS), dtype=np.int64)
        for each, of in zip(label, bits, strict=True):  # image by image, as a pass sees them
            counts += select.count(each, of, classes)
        found = select.cut(counts, "dars", 0.5, share)
        return torch.from_numpy(found.least_confidence_K), torch.from_numpy(found.reached_K)

    def slow() -> tuple[Tensor, Tensor]:
        lists: list[list[float]] = [[] for _ in range(classes)]
        for each, of in zip(label, confidence.astype(np.float16), strict=True):
            for k in range(classes):
                lists[k] += of[each == k].tolist()
        least, reached = [], []
        for k, mine in enumerate(lists):
            mine.sort(reverse=True)
            wanted = int(0.5 * label.size * share[k] * (1 + 1e-15))
            limit = mine[min(wanted, len(mine)) - 1] if wanted and mine else float("inf" if not wanted else 0)
            least.append(limit)
            reached.append(sum(value >= limit for value in mine))
        return torch.tensor(least), torch.tensor(reached)

    return Kernel(
        "selection of DARS", "lists of confidences, sorted class by class", f"{label.size} pixels, {classes} classes",
        ours, slow,
    )  # fmt: skip


def _flat(result: Any) -> list[Tensor]:
    return [x.double() for x in result] if isinstance(result, (list, tuple)) else [result.double()]
