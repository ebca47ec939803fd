"""The network-only floor of a step: the same passes through the same networks on noise, and no method around them.

What passes there are is not declared but seen: one step is watched. The floor then makes each of them on random
tensors of the same shape, in the same mode, with or without gradient as there, takes plain cross-entropy of what has
one against random labels, and moves the optimisers. A step divided by its floor (N) is the overhead of everything that
is not a network: views to normalise and mix, pseudo-labels, losses, thresholds, banks, moving averages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.engine.learner import Learner
from fewmask.nets.segmenter import outputs


@dataclass(frozen=True)
class Pass:
    """One pass through a network.

    Attributes:
        net: its name.
        images: noise, in shape, type and memory format what the step gave it.
        training: the network's mode.
        gradient: whether the step recorded it for a backward pass.
    """

    net: str
    images: Tensor
    training: bool
    gradient: bool


def passes_of(learner: Learner, step: Callable[[], Any]) -> list[Pass]:
    """Return the passes through networks that a step makes, in their order.

    Args:
        learner: whose step it is.
        step: makes it.
    """
    found = list[Pass]()

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def seen(net: nn.Module, given: tuple[Any, ...]) -> None:
            (images,) = given  # a network is called with images and nothing else
            found.append(Pass(name, torch.randn_like(images), net.training, torch.is_grad_enabled()))

        return seen

    hooks = [net.register_forward_pre_hook(watch(name)) for name, net in learner.nets.items()]
    try:
        step()
    finally:
        for hook in hooks:
            hook.remove()
    return found


class Floor:
    """The floor of a method's step; ``step`` makes it.

    Args:
        learner: networks and optimisers of the floor's own, which are trained on noise.
        passes: of a step.
    """

    def __init__(self, learner: Learner, passes: list[Pass]) -> None:
        self.learner, self.passes = learner, passes
        self._truth = dict[tuple[int, ...], Tensor]()

    def step(self) -> None:
        """Make all passes, one backward pass, and a step of every optimiser."""
        learner = self.learner
        terms = list[Tensor]()
        with learner.autocast():
            for one in self.passes:
                net = learner.nets[one.net]
                if net.training != one.training:
                    net.train(one.training)
                with torch.set_grad_enabled(one.gradient):
                    out = net(one.images)
                if one.gradient:
                    terms += [self._loss(part, outputs(out)[0].shape[1]) for part in outputs(out)]
                else:
                    torch.clear_autocast_cache()
        learner.fabric.backward(torch.stack(terms).sum())
        for name in learner.trained:
            learner.optimisers[name].step()
            learner.optimisers[name].zero_grad()

    def _loss(self, out: Tensor, classes: int) -> Tensor:
        """Return plain cross-entropy of logits; of features, which have no labels, something as cheap."""
        if out.shape[1] != classes:
            return out.float().mean()
        size = (len(out), *out.shape[2:])
        if size not in self._truth:
            self._truth[size] = torch.randint(classes, size, device=out.device)
        return F.cross_entropy(out.float(), self._truth[size])
