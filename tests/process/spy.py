"""Methods that tests watch or hold up from outside; ``process.spy:Name`` on the command line."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import get_worker_info

from fewmask.engine import faults
from fewmask.method import Method
from fewmask.methods import resolve
from fewmask.methods.cps import CPS
from fewmask.methods.fixmatch import FixMatch
from fewmask.methods.mean_teacher import MeanTeacher


class Waiting(CPS):
    """CPS that waits in step 6 while a file ``go`` is missing in the folder $SPY_WAIT."""

    def losses(self, nets, batch, step, memo):
        gate = os.environ.get("SPY_WAIT")
        if gate and step.t == 5:
            (Path(gate) / "reached").touch()
            while not (Path(gate) / "go").exists():
                time.sleep(0.002)
        return super().losses(nets, batch, step, memo)


class Recording(CPS):
    """CPS that writes what every rank sees, and the networks after every step, to the folder $SPY_OUT."""

    def losses(self, nets, batch, step, memo):
        seen = {}
        for name, items in batch.items():
            seen[name] = {"index": items.index, "valid": items.valid, "views": list(items.views), "mask": items.mask}
            seen[name]["draws"] = [draw.words(4).tolist() for draw in step.draws(name)]
        torch.save(seen, Path(os.environ["SPY_OUT"]) / f"seen-{step.t}-{step.rank}.pt")
        return super().losses(nets, batch, step, memo)

    def after_step(self, nets, step, memo):
        digest = hashlib.sha256()
        for name in sorted(nets):
            for key, value in nets[name].state_dict().items():
                digest.update(key.encode() + value.numpy().tobytes())
        (Path(os.environ["SPY_OUT"]) / f"nets-{step.t}-{step.rank}").write_text(digest.hexdigest())


class Diverging(MeanTeacher):
    """Mean Teacher that is not finite at the steps of $SPY_STEPS: "4=loss,7=gradient,9=images", counted from 1."""

    def losses(self, nets, batch, step, memo):
        where = dict(pair.split("=") for pair in os.environ["SPY_STEPS"].split(","))
        kind = where.get(str(step.t + 1))
        if kind == "images":  # they reach the normalisation statistics
            batch = {
                name: items.map(lambda x: x * torch.nan if x.is_floating_point() else x)
                for name, items in batch.items()
            }
        terms = super().losses(nets, batch, step, memo)
        if kind == "loss":
            terms["sup"] = terms["sup"] * torch.inf
        if kind == "gradient":  # the root of 0 is 0, its slope is infinite
            terms["sup"] = terms["sup"] + (0 * next(nets["student"].parameters()).sum()).sqrt()
        return terms


@dataclass(frozen=True)
class Lost:
    """A strong view that ends, or holds up, the loader process that makes the fifth one."""

    how: str

    def __call__(self, image, draws):
        calls = next(_calls)
        if get_worker_info() is not None and calls == 5:
            os.kill(os.getpid(), signal.SIGKILL) if self.how == "killed" else time.sleep(1e6)
        return image


_calls = count(1)


class Losing(FixMatch):
    """FixMatch with a loader process that is lost as $SPY_LOST says: "killed" or "hangs"."""

    def __init__(self, config, task):
        super().__init__(config, task)
        self.streams = {n: replace(s, perturb=Lost(os.environ["SPY_LOST"])) for n, s in super().streams.items()}


class Hungry(CPS):
    """CPS whose last step wants more memory than any machine has."""

    def losses(self, nets, batch, step, memo):
        if step.t + 1 == step.total:
            torch.empty(1 << 50)
        return super().losses(nets, batch, step, memo)


def _without_norm(net: nn.Module) -> nn.Module:
    """Return the network without BatchNorm, whose statistics are those of a rank, and dropout, drawn by rank."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.Dropout2d):
                setattr(module, name, nn.Identity())
    return net


def _plain(name: str) -> type[Method]:
    class Plain(resolve(name)):
        """The method, with networks whose outputs for an image do not depend on the batch."""

        def networks(self, build):
            return super().networks(lambda name: _without_norm(build(name)))

    return Plain


PlainSupervised, PlainFixMatch, PlainMeanTeacher = _plain("supervised"), _plain("fixmatch"), _plain("mean_teacher")
PlainCPS, PlainUCC, PlainU2PL = _plain("cps"), _plain("ucc"), _plain("u2pl")


class Unsteady(FixMatch):
    """FixMatch with an operation that torch knows no deterministic form of, on a CPU neither."""

    def losses(self, nets, batch, step, memo):
        torch.zeros(1).put_(torch.zeros(1, dtype=torch.int64), torch.ones(1))
        return super().losses(nets, batch, step, memo)


def _lost_once(name: str) -> type[Method]:
    class LostOnce(resolve(name)):
        """The method; of torchrun's processes the second one has the fault $SPY_FAULT, in its first life alone."""

        def __init__(self, config, task):
            super().__init__(config, task)
            if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == (
                "1",
                "0",
            ) and "SPY_FAULT" in os.environ:
                os.environ[faults.VARIABLE] = os.environ["SPY_FAULT"]

    return LostOnce


LostCPS, LostU2PL, LostDARS = _lost_once("cps"), _lost_once("u2pl"), _lost_once("dars")
