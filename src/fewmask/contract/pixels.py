"""Point 11: pixels that may not train. Seen in the gradient of each term for the logits, where it must be 0."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fewmask.batch import IGNORE, Batch, Items
from fewmask.contract.answers import Asked, answering, gradients
from fewmask.contract.toys import CLASSES, Case, all_terms, case_batch, moved, toy_networks, turned
from fewmask.method import Method
from fewmask.ops import mix

_PADDING, _KNOWN, _VOID = -30, -31, -32  # colours that no toy image has; mixing moves such a pixel and leaves it so

_WHY = {
    _PADDING: "pixels of the padding: weight them with `valid`, which is False there",
    _KNOWN: "pixels that have a label (partial = True): in unlabelled streams `valid` is False there too",
    _VOID: "void pixels of labelled images, whose label is IGNORE (255)",
}


def check_pixels(case: Case) -> None:
    """Point 11: no term has a gradient in the padding, nor where an unlabelled stream has ``valid`` False.

    A term that the labels change has none in void pixels of labelled images either. Others may: for CPS, whose second
    loss looks at no label, these are unlabelled pixels.
    """
    method = case.make()
    batch = {name: _marked(method, items) for name, items in case_batch(method, 5).items()}
    terms, asked = _answered(case, batch)
    other, _ = _answered(case, {name: turned(items) for name, items in batch.items()})
    supervised = moved(terms, other)
    for name, term in terms.items():
        for images, gradient in gradients(term, asked):
            trains = gradient.ne(0).any(1)
            for mark in (_PADDING, _KNOWN, _VOID) if name in supervised else (_PADDING, _KNOWN):
                assert not (trains & (images == mark).all(1)).any(), f"term {name!r} trains {_WHY[mark]}"


def _answered(case: Case, batch: Batch) -> tuple[dict[str, Tensor], Asked]:
    """Return the terms where the networks are sure of a class drawn for each pixel, and what they were asked.

    Every pixel then passes the thresholds, and the networks disagree, so that a term has a gradient where it looks.
    """
    method = case.make()
    g = torch.Generator().manual_seed(3)

    def answer(_: str, images: Tensor) -> Tensor:
        said = torch.randint(0, CLASSES, images[:, 0].shape, generator=g)
        sure = 5 * F.one_hot(said, CLASSES).movedim(-1, 1)
        return sure + torch.rand(sure.shape, generator=g)

    nets = toy_networks(method)
    with answering(nets, answer) as asked:
        terms = all_terms(method, nets, batch, 5)
    return terms, asked


def _marked(method: Method, items: Items) -> Items:
    """Return items whose pixels tell by their colour that they may not train, in every view."""
    inside, marks = items.valid, torch.zeros(items.valid.shape, dtype=torch.int64)
    valid = inside
    if items.mask is not None:
        marks[items.mask == IGNORE] = _VOID
    elif method.partial:
        valid = inside.clone()
        valid[:, :4] = False
        marks[~valid] = _KNOWN
    marks[~inside] = _PADDING
    sources = iter(items.source)
    views = []
    for kind, view in zip(items.kinds, items.views, strict=True):
        there = marks if kind != "geo" else mix.warp(marks, next(sources), _PADDING)
        views.append(torch.where((there < 0).unsqueeze(1), there.unsqueeze(1), view))
    pseudo = None if items.pseudo is None else items.pseudo.masked_fill(~valid, IGNORE)
    return replace(items, views=tuple(views), valid=valid, pseudo=pseudo, inside=inside)
