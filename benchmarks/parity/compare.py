"""One comparison: their value and gradient against ours, and what explains the difference where there is one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.parity.authors import Checkout
from benchmarks.parity.inputs import Setting

TOLERANCE = 1e-5

DEPARTURES = {
    "padding": "Their mean runs over the padded pixels too, and trains them. CPS: train_padding=true; Mean Teacher, "
    "U2PL, three-stage (its consistency): no switch.",
    "one mean": "They take one mean over labelled and unlabelled pixels, half of the paper's L^l + L^u where both have "
    "as many: half the lam.",
    "void": "Their mean runs over void and padded pixels too, with loss 0. No switch.",
    "first copy": "Their first copy precedes the first step, ours follows it: at step t, d^t of that step is left.",
    "older teacher": "Their teacher moves between the labelled and the unlabelled images of a step: the labelled ones "
    "get predictions that are one update older than ours, the unlabelled ones the same. And first copy.",
    "label mode": "They label the image itself in train mode, inside the training pass, and its partner in evaluation "
    "mode; we label both in evaluation mode. No switch.",
    "1/W": "The all-reduce of their loss has no derivative, but the loss is divided by W, and the gradients are "
    "averaged over W again. Learning rate / W and weight decay * W give the same steps.",
    "next image": "Their image is mixed with the next one of the batch, the last with the first; ours with its "
    "neighbour, 0 with 1, 2 with 3. The same with two images. No switch.",
    "ties": "They drop the pixels whose entropy is the threshold itself, we keep them. No switch.",
    "centres": "Their centre of a class is the mean over all its reliable pixels, ours over its anchors. No "
    "switch: delta=0 frees the anchors too.",
    "class lists": "They pair the anchors and the centre of class i with the bank of the i-th class that is present. "
    "The same where all are present. No switch.",
    "present": "They divide by the number of classes that are present, we by those with anchors and negatives; with "
    "one class present theirs is 0. No switch.",
    "first image": "Their one-hot labels of all labelled images lie in the first of them, those of all unlabelled "
    "images likewise: a pixel there has the classes of all, in the others none. The same with one image. No switch.",
    "grid": "Their probabilities on the grid are the softmax of the decoder's logits, ours are sampled from the "
    "softmax of the enlarged ones. No switch.",
    "push": "All negatives enter their bank, at most push a step enter ours. push as large as the grid.",
    "few classes": "With three classes their order leaves no negatives; our r_low is at most K - 1. r_low=2 r_high=2.",
    "class 0": "Their bank of class 0 is 5/3 as long as the others. No switch.",
    "together": "padding, next image, ties, centres, class lists, present and first image at once.",
    "auxiliary head": "Their Cityscapes network has a second head, trained with 0.4 times the same loss. No switch.",
    "coin": "They toss one coin a batch, we one an image. No switch.",
    "first epoch": "Their teacher is the student itself in the warm-up and one epoch longer, ours the average of its "
    "steps from the start. No switch.",
    "λ_c/W": "As 1/W, but of the contrast alone: lam_c / W.",
    "least": "Where fewer pixels of a class are predicted than wanted, their threshold is the least confidence that "
    "there is, ours is 0: the same pixels. No switch.",
    "none wanted": "Where not one pixel of a class is wanted, all reach their threshold and then go at random; none "
    "reaches ours: the same labels. No switch.",
    "per image": "Every image of theirs drops its share of a class, rounded down; drop=dataset keeps exactly as many "
    "as are wanted. drop=image.",
    "one more": "Their threshold of CBST is the confidence after the k-th largest, ours the k-th. No switch.",
    "never": "Their script stops at a class that is predicted nowhere; ours labels the others. No switch.",
    "pixels counted": "They count 500x375 pixels an image of VOC, 2048x1024 one of Cityscapes; we count those that "
    "there are. No switch.",
    "fp16 logits": "They round logits and softmax to fp16, and take the label from that; we round the confidence "
    "alone. No switch.",
    "mean of logits": "They average logits over windows and mirror images, we probabilities, as everywhere. No switch.",
    "mirrored windows": "They mirror every window, we the whole image: the same where the windows are their own mirror "
    "image. And mean of logits. No switch.",
    "float32": "They round m*s_j to float32: near a whole number one pixel more or less goes. No switch.",
    "w_s": "Their loss for Cityscapes has 1/2 L_seg + 1/4 (L_con + L_pl), half of the paper's with λ = 1/2. Learning "
    "rate / 2, where the optimiser feels it.",
    "λ": "Their λ_1 and λ_2 for VOC are 1/4, our default is 1/2. lam_con=0.25 lam_pl=0.25.",
    "placeholder": "Their branch has a class more, which no label has but the softmax counts. No switch.",
    "corner": "Their shear leaves the first row or column in place, ours the middle one: half as much comes from "
    "outside. No switch.",
    "0/0": "Their mean over no pixel is nan; ours is 0 with gradient 0.",
}
"""What a difference is called, and why it is there: the only reasons by which a comparison may differ."""


@dataclass
class Row:
    """Figures of a comparison.

    The tolerance holds for differences relative to the larger value, and relative to the largest entry of a gradient:
    entries of a gradient are about 1/pixels, of which 1e-5 would be percents.
    """

    repository: str
    term: str
    case: str
    ours: str
    inputs: dict[str, Any]
    theirs_value: float
    ours_value: float
    value_difference: float
    value_relative: float
    gradient_largest: float | None = None
    gradient_difference: float | None = None
    gradient_relative: float | None = None
    departure: str = ""
    explained_value: float | None = None
    explained_gradient: float | None = None
    verdict: str = field(init=False)

    @classmethod
    def read(cls, saved: dict[str, Any]) -> Row:
        """Return a row from what was written of it."""
        values: dict[str, Any] = {"ours": ""}
        values |= {key: math.nan if x == "nan" else x for key, x in saved.items() if key != "verdict"}
        return cls(**values)

    def __post_init__(self) -> None:
        assert not self.departure or self.departure in DEPARTURES, self.departure
        figures = (self.value_relative, self.gradient_relative)
        equal = all(f is None or f <= TOLERANCE for f in figures)  # False for nan
        if not self.departure:
            self.verdict = "equal" if equal else "UNEXPLAINED"
        elif math.isnan(self.theirs_value):  # 0/0: nothing to compare with
            self.verdict = "departure" if self.ours_value == self.gradient_largest == 0 else "UNEXPLAINED"
        else:
            parts = (self.explained_value, self.explained_gradient)
            explained = self.explained_value is not None and all(p is None or p <= TOLERANCE for p in parts)
            self.verdict = "departure" if explained and not equal else "UNEXPLAINED"


def _distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[float, float, float]:
    """Return the largest absolute difference, the same relative to the largest entry, and the largest entry."""
    a, b = [x.detach().double() for x in a], [x.detach().double() for x in b]
    largest = max(float(x.abs().max()) for x in (*a, *b))
    difference = max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))
    return difference, difference / largest if largest else difference, largest


def _gradient(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    grads = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)]


def compare(
    checkout: Checkout,
    term: str,
    case: str,
    setting: Setting | None,
    theirs: Tensor,
    ours: Tensor,
    leaves: Iterable[Tensor] = (),
    switch: str = "",
    departure: str = "",
    explained: Tensor | None = None,
    **inputs: Any,
) -> Row:
    """Compare two tensors, and their gradients with respect to the leaves.

    Args:
        checkout: whose code.
        term: name of the loss term, or of the law.
        case: what is special about the inputs.
        setting: of the inputs.
        theirs: their result; a scalar where there are leaves.
        ours: ours.
        leaves: logits.
        switch: our settings.
        departure: the key of DEPARTURES by which the two must differ; empty where they must not.
        explained: our result, corrected for the departure alone: must agree with theirs.
        inputs: further facts about them.
    """
    leaves = list(leaves)
    difference, relative, _ = _distance([theirs], [ours])
    figures: dict[str, Any] = {"value_difference": difference, "value_relative": relative}
    if leaves and theirs.isnan().any():
        figures["gradient_largest"] = _distance(*[_gradient(ours, leaves)] * 2)[2]
    elif leaves:
        g_theirs, g_ours = _gradient(theirs, leaves), _gradient(ours, leaves)
        difference, relative, largest = _distance(g_theirs, g_ours)
        figures |= {"gradient_difference": difference, "gradient_relative": relative, "gradient_largest": largest}
    if explained is not None:
        figures["explained_value"] = _distance([theirs], [explained])[1]
        if leaves:
            figures["explained_gradient"] = _distance(_gradient(theirs, leaves), _gradient(explained, leaves))[1]
    if setting is not None:
        inputs |= {
            "seed": setting.seed,
            "logits": [setting.batch, setting.classes, setting.height, setting.width],
            "dtype": str(setting.dtype).removeprefix("torch."),
            "padding": setting.padding,
            "void": setting.void,
            "scale": setting.scale,
        }
    return Row(
        checkout.name, term, case, switch, inputs,
        *(float(x.detach() if x.dim() == 0 else x.detach().double().abs().max()) for x in (theirs, ours)),
        departure=departure, **figures,
    )  # fmt: skip
