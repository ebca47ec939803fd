"""What a step computes: the multiplications counted in a real update are those of the method's passes, and no more.

E and D are the encoder's and the decoder's share of a forward pass over B images; backward is 2 (spec/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fewmask.batch import Batch, Items, Slots, Stream
from fewmask.bench.flops import counted as count
from fewmask.engine.launch import launch
from fewmask.engine.learner import Learner
from fewmask.engine.optim import OptimConfig
from fewmask.engine.precision import Format
from fewmask.method import Task
from fewmask.methods import resolve
from fewmask.nets import Builder
from fewmask.nets.represent import Represented
from fewmask.nets.segmenter import Segmenter

CLASSES, BATCH, SIDE = 3, 4, 64

PASSES = [
    # passes over B images through encoder, decoder and representation head
    pytest.param("supervised", {}, (3, 3, 0), id="supervised: B forward and backward"),
    pytest.param("mean_teacher", {}, (7, 7, 0), id="mean_teacher: 2B with gradient, B of the teacher"),
    pytest.param("fixmatch", {}, (7, 7, 0), id="fixmatch: 2B with gradient, B for the labels"),
    pytest.param("fixmatch", {"teacher": "ema"}, (7, 7, 0), id="fixmatch with a teacher: as many"),
    pytest.param("cps", {}, (12, 12, 0), id="cps: two networks, 2B with gradient each"),
    pytest.param("cps", {"cutmix": True}, (16, 16, 0), id="cps with CutMix: and 2B for the labels of each"),
    pytest.param("cps", {"variant": "sps"}, (6, 6, 0), id="cps, single network"),
    pytest.param("ucc", {}, (7, 14, 0), id="ucc: one encoder, two decoders"),
    pytest.param("ucc", {"own_views": True}, (10, 20, 0), id="ucc, own views: 3B with gradient"),
    pytest.param("ucc", {"heads": "separate"}, (14, 14, 0), id="ucc, two networks"),
    pytest.param("u2pl", {}, (9, 9, 9), id="u2pl: 2B with gradient, B and 2B of the teacher"),
    pytest.param("u2pl", {"lam_c": 0}, (9, 9, 0), id="u2pl without contrast"),
]


def counted(run: Callable[[], Any]) -> int:
    return count(run).flops


def parts() -> tuple[int, int, int]:
    """FLOPs of one forward pass over B images: encoder, decoder with head, representation head."""
    net = Builder("deeplabv3plus", "mobilenet_v2", CLASSES, weights="none", seed=0)("student").eval()
    assert isinstance(net, Segmenter)
    wide = Represented(net).eval()
    x = torch.zeros(BATCH, 3, SIDE, SIDE)
    with torch.no_grad():
        encoder = counted(lambda: net.encode(x))
        plain = counted(lambda: net(x))
        both = counted(lambda: wide(x))
    return encoder, plain - encoder, both - plain


def batch_of(streams: dict[str, Stream]) -> Batch:
    g = torch.Generator().manual_seed(0)
    out = {}
    for name, stream in streams.items():
        views = tuple(torch.randn(BATCH, 3, SIDE, SIDE, generator=g) for _ in stream.views)
        mask = torch.randint(0, CLASSES, (BATCH, SIDE, SIDE), generator=g)
        everywhere = torch.ones(BATCH, SIDE, SIDE, dtype=torch.bool)
        known = mask if stream.pool == "labelled" else None
        out[name] = Items(views, stream.views, everywhere, torch.arange(BATCH), known)
    return out


@pytest.mark.parametrize(("name", "constants", "passes"), PASSES)
def test_a_step_computes_the_passes_of_its_method_and_no_more(
    name: str, constants: dict[str, Any], passes: tuple[int, int, int]
) -> None:
    cls = resolve(name)
    method = cls(cls.Config(**constants), Task(CLASSES))
    streams = dict(method.streams)
    slots = {s: Slots(0, BATCH, key, BATCH, 8) for key, s in enumerate(streams)}
    build = Builder("deeplabv3plus", "mobilenet_v2", CLASSES, weights="none", seed=0)
    fabric = launch("cpu", "fp32")
    learner = Learner(fabric, method, build, OptimConfig(), slots, 10, 0, Format("fp32", False, ""))
    learner.train_mode()
    batch = batch_of(streams)
    asked = sum(n * flops for n, flops in zip(passes, parts(), strict=True))
    assert counted(lambda: learner.update(batch, 5)) == pytest.approx(asked, rel=0.05)
