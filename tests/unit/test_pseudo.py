"""fewmask.ops.pseudo: labels without gradient, in the mode that was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewmask.ops import pseudo
from oracles.losses import softmax


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))


def test_confidence_and_label() -> None:
    logits = 4 * torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    conf, label = pseudo.confidence_and_label(logits)
    assert conf.shape == label.shape == (2, 3, 4) and label.dtype == torch.int64
    for b in range(2):
        for y in range(3):
            for x in range(4):
                p = softmax(logits[b, :, y, x].double().numpy())
                assert conf[b, y, x].item() == pytest.approx(p.max(), rel=1e-5)
                assert label[b, y, x].item() == p.argmax()


def test_confidence_of_large_logits_is_finite() -> None:
    conf, label = pseudo.confidence_and_label(torch.tensor([1e4, -1e4, 9e3]).reshape(1, 3, 1, 1))
    assert conf.item() == 1 and label.item() == 0


def test_what_is_told_of_six_pixels() -> None:
    """Two classes; the network says 0 1 1 0 0 1; labels stand on four of the five pixels that count, and 255 on one."""
    says = torch.tensor([[0, 1, 1, 0, 0, 1]])
    logits = torch.nn.functional.one_hot(says, 2).permute(0, 2, 1).unsqueeze(2).float()
    label = torch.tensor([[[0, 1, 0, 0, 255, 1]]])
    keep = torch.tensor([[[True, True, True, True, False, False]]])
    valid = torch.tensor([[[True, True, True, True, True, False]]])
    found = pseudo.told(label, keep, valid, logits)
    assert found["kept"].item() == pytest.approx(4 / 5)
    assert found["pseudo"].tolist() == [3, 1] and found["agree"].tolist() == [3, 4]
    nothing = pseudo.told(label, keep & False, valid & False, logits)
    assert [x.tolist() for x in nothing.values()] == [0.0, [0, 0], [0, 0]]


@pytest.mark.parametrize("training", [True, False])
def test_eval_labels_use_running_statistics_and_leave_them(training: bool) -> None:
    net, x = network().train(training), torch.randn(4, 1, 5, 5)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    a, b = pseudo.infer(net, x), pseudo.infer(net, x)
    conv, bn = net[0](x), net[1]
    assert isinstance(bn, nn.BatchNorm2d) and bn.running_mean is not None and bn.running_var is not None
    scale = (bn.running_var + bn.eps).sqrt()[:, None, None]
    assert torch.allclose(a, (conv - bn.running_mean[:, None, None]) / scale, atol=1e-5)
    assert torch.equal(a, b)  # no dropout
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training is training and all(m.training is training for m in net.modules())
    assert not a.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_train_labels_use_batch_statistics_and_move_the_running_ones(training: bool) -> None:
    net, x = network().train(training), torch.randn(4, 1, 5, 5)
    net[2] = nn.Identity().train(training)
    bn = net[1]
    assert isinstance(bn, nn.BatchNorm2d) and bn.running_mean is not None
    old = bn.running_mean.clone()
    out = pseudo.infer(net, x, "train")
    conv = net[0](x).detach()
    mean, var = conv.mean((0, 2, 3), keepdim=True), conv.var((0, 2, 3), unbiased=False, keepdim=True)
    assert torch.allclose(out, (conv - mean) / (var + bn.eps).sqrt(), atol=1e-5)
    assert torch.allclose(bn.running_mean, 0.9 * old + 0.1 * mean.flatten(), atol=1e-6)
    assert all(m.training is training for m in net.modules()) and not out.requires_grad


def test_mode_is_restored_after_a_failure() -> None:
    net = network().train()
    with pytest.raises(RuntimeError):
        pseudo.infer(net, torch.zeros(1, 2, 3, 3))  # two channels for a network of one
    assert all(m.training for m in net.modules())


def test_a_frozen_layer_stays_frozen() -> None:
    net = network().train()
    net[1].eval()  # frozen BatchNorm, as in CutMix-Seg
    pseudo.infer(net, torch.zeros(1, 1, 3, 3))
    assert [m.training for m in net] == [True, False, True]


def test_class_share_keeps_the_most_confident_of_each_class() -> None:
    """Class 0 has confidences .9 .5 .7 .6 (share ½ → .9, .7), class 2 has .2 .3 .1 (ceil(1.5) = 2 → .2, .3)."""
    label = torch.tensor([[[0, 0, 2, 0], [2, 0, 2, 1]]])
    conf = torch.tensor([[[0.9, 0.5, 0.2, 0.7], [0.3, 0.6, 0.1, 0.99]]])
    valid = torch.tensor([[[True, True, True, True], [True, True, True, False]]])
    expected = torch.tensor([[[True, False, True, True], [True, False, False, False]]])
    assert pseudo.class_share(conf, label, valid, 3, 0.5).equal(expected)
    assert pseudo.class_share(conf, label, valid, 3, 1.0).equal(valid)
    assert not pseudo.class_share(conf, label, torch.zeros_like(valid), 3, 1.0).any()


def test_class_share_equals_a_loop_over_classes() -> None:
    gen = torch.Generator().manual_seed(0)
    label = torch.randint(0, 7, (2, 13, 11), generator=gen)
    conf = torch.rand(2, 13, 11, generator=gen)
    valid = torch.rand(2, 13, 11, generator=gen) > 0.2
    kept = pseudo.class_share(conf, label, valid, 7, 0.3)
    for k in range(7):
        mine = conf[(label == k) & valid].sort(descending=True).values
        n = -(-3 * len(mine) // 10)
        assert conf[kept & (label == k)].sort(descending=True).values.equal(mine[:n])


def test_histogram_counts_kept_pixels() -> None:
    label = torch.tensor([[0, 2, 2], [1, 2, 0]])
    keep = torch.tensor([[True, True, False], [False, True, True]])
    assert pseudo.histogram(label, keep, 4).tolist() == [2, 0, 2, 0]
