"""fewmask.run.suggest: the order of images beside labelled ones that show the same."""

from __future__ import annotations

import torch

from fewmask.run.suggest import _order


def unit(*angles):
    return torch.stack([torch.tensor(angles).cos(), torch.tensor(angles).sin()], dim=1)


def test_near_duplicates_of_labelled_images_are_left_out():
    """Of five images the third is a labelled one again; the first two show the same."""
    said, same = list[str](), [[1], [0], [5], [], []]
    args = unit(0.5, 0.6, 3.0, 1.0, 2.0), unit(3.0), torch.tensor([1.0, 2.0, 9.0, 1.0, 1.0]), same
    order, covers, far, inside = _order(*args, 5, said.append)
    assert 0 not in order.tolist()[:1] and sorted(order.tolist()) == [1, 3, 4] and len(far) == len(covers) == 3
    assert inside[1] == [0] and inside[2] == []
    assert said == ["1 unlabelled images are near-duplicates of labelled ones and are passed over"]
    order, _, far, _ = _order(unit(3.0), unit(3.0), torch.ones(1), [[1]], 1, said.append)
    assert order.tolist() == [] and len(far) == 0
