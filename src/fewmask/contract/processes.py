"""Point 13: what a loss divides by. The mean of a term over two processes is the term of one that has all images."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier, BrokenBarrierError

import torch
from torch import Tensor, nn

from fewmask.batch import IGNORE, Batch
from fewmask.contract.answers import Answer, answering, gradients
from fewmask.contract.toys import BATCH, CLASSES, SIDE, Case, all_terms, case_batch, toy_networks, toy_slots, toy_step
from fewmask.method import Method, Step

_DRAWS = 4  # of what the networks say: one alone may hide a wrong divisor
_KINDS = 32  # of images: more than a batch holds
_PATIENCE = 30.0  # seconds that one process waits for the other


def check_processes(case: Case) -> None:
    """Point 13: terms of two processes, whose images have not equally many valid pixels, average to those of one.

    In all images of a process the networks say the same, and as surely as in those of the other: a selection that each
    process makes by itself (a quantile) is then the one that a single process would make. Terms without a gradient for
    the logits (contrasts of features) are left out.
    """
    for seed in range(_DRAWS):
        batch, answer, nets = _uneven(case.make(), seed), _answer(seed), _still(case.make())
        with answering(nets, answer) as asked:
            whole = all_terms(case.make(), nets, _copied(batch), 5)
        halves = _two(case, batch, answer)
        for name, term in whole.items():
            if not any(x.any() for _, x in gradients(term, asked)):
                continue
            one, two = term.item(), sum(half[name].item() for half in halves) / 2
            assert not abs(one - two) > 1e-4 * max(abs(one), abs(two)), (
                f"term {name!r} is {one:.4g} on one process, {two:.4g} on average on two that have not equally many "
                "valid pixels: divide a sum over pixels by step.average of their number"
            )


def _answer(seed: int) -> Answer:
    """Return what each network says of each kind of image: a drawn class."""
    chance = random.Random(seed)
    tables: dict[str, Tensor] = {}

    def table(name: str) -> Tensor:
        sure = 0.96 + 0.03 * chance.random()
        rows: list[list[float]] = []
        for kind in range(_KINDS):
            second = (1 - sure) * (0.6 if kind % 2 else 0.99)  # the halves differ where it decides no threshold
            rows.append([sure, second, 1 - sure - second])
            chance.shuffle(rows[-1])
        return torch.tensor(rows).log()

    def answer(name: str, images: Tensor) -> Tensor:
        if name not in tables:
            tables[name] = table(name)
        return tables[name][images[:, 0].round().long().clamp(0, _KINDS - 1)].movedim(-1, 1)

    return answer


def _uneven(method: Method, seed: int) -> Batch:
    """Return images that are nothing but their kind, those of the second half of the batch with half as many pixels."""
    chance, late = random.Random(1000 + seed), torch.arange(BATCH) >= BATCH // 2
    valid = torch.ones(BATCH, SIDE, SIDE, dtype=torch.bool)
    valid[late, SIDE // 2 :] = False
    kinds = iter(range(2, _KINDS, 2))
    out = {}
    for name, items in case_batch(method, 5).items():
        views = tuple(((next(kinds) + late.float()).view(-1, 1, 1, 1) * valid.unsqueeze(1)).expand_as(v).clone()
                      for v in items.views)  # fmt: skip
        truth = torch.where(late, chance.randrange(CLASSES), chance.randrange(CLASSES)).view(-1, 1, 1)
        labels = torch.where(valid, truth, IGNORE)
        mask = None if items.mask is None else labels
        still = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
        source = tuple(torch.where(valid, still, -1) for _ in items.source)
        out[name] = replace(items, views=views, valid=valid, mask=mask, pseudo=labels, source=source)
    return out


def _copied(batch: Batch) -> Batch:
    """Return a batch that a method may change: that it does is what point 12 says."""
    return {name: items.map(torch.clone) for name, items in batch.items()}


def _still(method: Method) -> dict[str, nn.Module]:
    """Return networks whose further outputs depend on no statistics of a batch."""
    nets = toy_networks(method)
    for net in nets.values():
        net.eval()
    return nets


class _Meeting:
    """Two threads exchange tensors as two processes do."""

    def __init__(self) -> None:
        self.barrier = Barrier(2, timeout=_PATIENCE)
        self._held = [torch.zeros(())] * 2

    def gather(self, rank: int, x: Tensor) -> Tensor:
        """Return the tensors of both, [2, ...]."""
        self._held[rank] = x.detach().clone()
        self.barrier.wait()
        both = torch.stack(self._held)
        self.barrier.wait()
        return both

    def step(self, method: Method, rank: int) -> Step:
        """Return the step of one of the two."""
        return replace(
            toy_step(method, 5), rank=rank, ranks=2, slots=toy_slots(method.streams, rank, 2),
            reduce=lambda x: self.gather(rank, x).sum(0), gather=lambda x: self.gather(rank, x),
        )  # fmt: skip


def _two(case: Case, batch: Batch, answer: Answer) -> list[dict[str, Tensor]]:
    """Return the terms of each of two processes that share the batch."""
    meeting, each_nets = _Meeting(), [_still(case.make()) for _ in range(2)]  # threads share the generator of weights

    def process(rank: int) -> dict[str, Tensor]:
        method, nets = case.make(), each_nets[rank]
        mine = _copied({name: items.part(rank, 2) for name, items in batch.items()})
        try:
            with answering(nets, answer):
                return all_terms(method, nets, mine, 5, step=meeting.step(method, rank))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(2) as pool:
        each = [pool.submit(process, rank) for rank in range(2)]
    errors = [error for future in each if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, BrokenBarrierError)):
        assert not isinstance(error, BrokenBarrierError), (
            "one of two processes waits for the other: both must call step.reduce and step.average equally often"
        )
        raise error
    return [future.result() for future in each]
