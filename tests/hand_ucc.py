"""What the tests of UCC by hand share: two heads as tables, 2x2 images, and a step of losses in float64."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fewmask.batch import Batch
from fewmask.method import Task
from fewmask.methods.ucc import UCC
from fewmask.nets.running import RunningMean
from hand import Grid, Rows, Table, ce, double, items, step

# softmax of the two heads; rows 0-3 and 4-7: labelled images, 8-11: weak views, 12-15 and 16-19: strong views
A: list[tuple[float, ...]] = [
    (0.6, 0.3, 0.1),
    (0.2, 0.5, 0.3),
    (0.1, 0.2, 0.7),
    (0.25, 0.35, 0.4),
    (0.35, 0.05, 0.6),
    (0.4, 0.15, 0.45),
    (0.1, 0.8, 0.1),
    (0.3, 0.3, 0.4),
    (0.7, 0.2, 0.1),
    (0.05, 0.05, 0.9),
    (0.5, 0.25, 0.25),
    (0.2, 0.6, 0.2),
    (0.5, 0.2, 0.3),
    (0.1, 0.15, 0.75),
    (0.3, 0.6, 0.1),
    (0.2, 0.3, 0.5),
    (0.45, 0.35, 0.2),
    (0.15, 0.25, 0.6),
    (0.65, 0.05, 0.3),
    (0.1, 0.7, 0.2),
]
B: list[tuple[float, ...]] = [
    (0.5, 0.4, 0.1),
    (0.3, 0.25, 0.45),
    (0.3, 0.2, 0.5),
    (0.15, 0.8, 0.05),
    (0.55, 0.25, 0.2),
    (0.1, 0.1, 0.8),
    (0.2, 0.3, 0.5),
    (0.7, 0.1, 0.2),
    (0.15, 0.8, 0.05),
    (0.3, 0.6, 0.1),
    (0.25, 0.5, 0.25),
    (0.1, 0.75, 0.15),
    (0.25, 0.3, 0.45),
    (0.6, 0.1, 0.3),
    (0.4, 0.35, 0.25),
    (0.55, 0.05, 0.4),
    (0.3, 0.5, 0.2),
    (0.05, 0.85, 0.1),
    (0.2, 0.15, 0.65),
    (0.35, 0.6, 0.05),
]
ROWS = len(A)

# Eq. 1 and 5 on the weak codes, (q_1, w_1) and (q_2, w_2):
#    8: (0, .7) (1, .8)   head 2 is surer: it teaches 1
#    9: (2, .9) (1, .6)   head 1 is surer: it teaches 2
#   10: (0, .5) (1, .5)   a tie: nobody teaches
#   11: (1, .6) (1, .75)  head 2 is surer: it teaches 1
WEAK, STRONG, OTHER = [[8, 9], [10, 11]], [[12, 13], [14, 15]], [[16, 17], [18, 19]]
LABELLED, MASK = [[0, 1], [2, 3]], [[0, 1], [2, 255]]  # the last pixel is void
SUP = (ce(A[0], 0) + ce(A[1], 1) + ce(A[2], 2) + ce(B[0], 0) + ce(B[1], 1) + ce(B[2], 2)) / 3


class Heads(nn.Module):
    """Two tables as the two heads of one network: a list of two logits."""

    def __init__(self, first: Rows = A, second: Rows = B) -> None:
        super().__init__()
        self.first, self.second = Table(first), Table(second)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.first(x), self.second(x)]


def method(classes: int = 3, **config: object) -> UCC:
    """Return UCC without pasting, unless the config says otherwise."""
    return UCC(UCC.Config.model_validate({"paste": "none"} | config), Task(classes))


def networks(m: UCC, first: Rows = A, second: Rows = B, sigma: Sequence[float] | None = None) -> dict[str, nn.Module]:
    """Return the heads, together or separate, and σ̂."""
    confidence = {"confidence": RunningMean([0.0] * m.task.classes if sigma is None else sigma)}
    if m.config.heads == "shared":
        return {"heads": Heads(first, second)} | confidence
    return {"head1": Table(first), "head2": Table(second)} | confidence


def tables(nets: dict[str, nn.Module]) -> tuple[Table, Table]:
    """Return head 1 and head 2."""
    net = nets.get("heads")
    one, two = (net.first, net.second) if isinstance(net, Heads) else (nets["head1"], nets["head2"])
    assert isinstance(one, Table) and isinstance(two, Table)
    return one, two


def unlabelled(*weak: Grid, strong: Sequence[Grid] = (STRONG,), valid: list | None = None) -> Batch:
    """Return a batch of these weak views with these strong ones, and one labelled image."""
    u = items(weak, strong, kinds=("weak", "strong"), valid=valid)
    return {"l": items([LABELLED], mask=[MASK]), "u": u}


def run(
    m: UCC, batch: Batch, nets: dict[str, nn.Module] | None = None, t: int = 3
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the terms, each a scalar, and the memo."""
    memo: dict[str, Tensor] = {}
    with double():
        now = step(t, 100, l=len(batch["l"]), u=len(batch["u"]))
        out = m.losses(nets or networks(m), batch, now, memo)
    assert set(out) == set(m.flow) == {"sup", "unsup"} and all(v.shape == () for v in out.values())
    assert not any(v.requires_grad for v in memo.values())
    return out, memo
