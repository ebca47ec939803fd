"""Networks that answer with given logits: which pixels a term looks at is then a matter of the method alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fewmask.contract.toys import CLASSES

Answer = Callable[[str, Tensor], Tensor]
"""Name of a network and its images [B, C, H, W] to logits [B, K, H, W]."""

Asked = list[tuple[Tensor, Tensor]]
"""Images, and the logits that a network returned for them."""


def gradients(term: Tensor, asked: Asked) -> list[tuple[Tensor, Tensor]]:
    """Return images and a term's gradient for their logits, of the calls that it depends on."""
    if not asked or not term.requires_grad:
        return []
    found = torch.autograd.grad(term, [x for _, x in asked], retain_graph=True, allow_unused=True)
    return [(images, x.nan_to_num()) for (images, _), x in zip(asked, found, strict=True) if x is not None]


@contextmanager
def answering(nets: Mapping[str, nn.Module], answer: Answer) -> Iterator[Asked]:
    """Let every network return given logits in place of its own; what else it returns (features) stays.

    Yields:
        The calls that were made with gradient.
    """
    asked: Asked = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def instead(_: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
            images: Tensor = args[0]

            def one(x: Any) -> Any:
                if not isinstance(x, Tensor) or x.shape != (len(images), CLASSES, *images.shape[-2:]):
                    return x
                logits = answer(name, images)
                if not x.requires_grad:
                    return logits
                asked.append((images, logits.requires_grad_()))
                return logits.clone()  # which a method may change in place

            return type(out)(one(x) for x in out) if isinstance(out, list | tuple) else one(out)

        return instead

    hooks = [net.register_forward_hook(hook(name)) for name, net in nets.items()]
    try:
        yield asked
    finally:
        for each in hooks:
            each.remove()
