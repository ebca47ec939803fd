"""Point 14: what a trained method is used for. Training computes no prediction, so a fault would show at its end."""

from __future__ import annotations

import torch

from fewmask.contract.toys import CLASSES, SIDE, Case, ToyBuild, toy_networks


@torch.no_grad()
def check_prediction(case: Case) -> None:
    """Point 14: each predictor is a network and predicts logits [B, K, H, W]; the first one can be delivered."""
    method = case.make()
    nets = toy_networks(method)
    assert method.predictors, "predictors names no network: the first is the reported one"
    for net in nets.values():
        net.eval()
    images = torch.randn(2, 3, SIDE, SIDE - 4, generator=torch.Generator().manual_seed(2))
    for name in method.predictors:
        try:
            net = method.network(nets, name)
        except KeyError as error:
            raise AssertionError(f"predictors names {name!r}, networks() makes {sorted(nets)}") from error
        if name == method.predictors[0]:
            odd = sorted(net.state_dict().keys() ^ ToyBuild()(name).state_dict().keys())
            assert not odd, f"{name!r} is delivered, and no network of the run's architecture: {odd[:3]}; see `network`"
        said, wanted = method.predict(nets, name, images), (2, CLASSES, SIDE, SIDE - 4)
        assert said.shape == wanted, f"predict of {name!r} returns the shape {tuple(said.shape)}, not {wanted}"
        assert said.isfinite().all(), f"predict of {name!r} returns numbers that are not finite"
        shares = (said >= 0).all() and torch.allclose(said.sum(1), torch.ones(()), atol=1e-4)
        assert not shares, f"predict of {name!r} returns probabilities, not logits: leave the softmax out"
