"""Point 12: the losses are a function of networks, batch and step: nothing drawn elsewhere, kept or changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fewmask.contract.toys import Case, all_terms, case_batch, moved, toy_networks


def check_repeats(case: Case) -> None:
    """Point 12: the same call gives the same terms, whatever the global generators hold, and changes nothing."""
    method, nets = case.make(), toy_networks(case.make())

    def again(seed: int) -> dict[str, Tensor]:
        mine = copy.deepcopy(nets)
        modes = {f"{name}.{part}": m.training for name, net in mine.items() for part, m in net.named_modules()}
        batch = case_batch(method, 5)
        given = {name: items.map(torch.clone) for name, items in batch.items()}
        with _chance_inside(mine):
            terms = all_terms(method, mine, given, 5, seed)
        for name, net in mine.items():
            turned = [part for part, m in net.named_modules() if m.training != modes[f"{name}.{part}"]]
            assert not turned, f"losses leave network {name!r} in another mode (train, eval): use ops.pseudo.infer"
        for name, items in batch.items():
            pairs = zip((*items.views, items.valid), (*given[name].views, given[name].valid), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), f"losses change stream {name!r} of the batch in place"
        return terms

    first = again(0)
    kept = moved(first, again(0))
    assert not kept, (
        f"called twice with one step and batch, losses return another {' and '.join(kept)}: the method counts or keeps "
        "something itself; schedules are functions of step.t, and what is kept belongs into networks()"
    )
    drawn = moved(first, again(1))
    assert not drawn, (
        f"another state of a global random generator (of torch, numpy or Python) gives another {' and '.join(drawn)}: "
        "draw from step.draws or step.generator"
    )


@contextmanager
def _chance_inside(nets: Mapping[str, nn.Module]) -> Iterator[None]:
    """Draw what networks draw themselves (dropout) alike in every call, and leave the global generator as it was."""
    states: list[Tensor] = []

    def enter(*_: object) -> None:
        states.append(torch.get_rng_state())
        torch.manual_seed(len(states))

    def leave(*_: object) -> None:
        torch.set_rng_state(states.pop())

    hooks = []
    for module in {m for net in nets.values() for m in net.modules()}:
        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()
