"""fewmask.nets.portable and fewmask.run.export: the exported network is the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional as TF

from fewmask.errors import CheckpointError, ConfigError
from fewmask.nets import build
from fewmask.nets.pool import MatrixPool
from fewmask.nets.portable import Portable
from fewmask.nets.segmenter import Segmenter
from fewmask.nets.trimmed import TrimmedConv2d
from fewmask.run import export as module
from fewmask.run.model import Model, ModelCard

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("cells", [(1, 1), (2, 2), (3, 3), (6, 6), (2, 5)])
@pytest.mark.parametrize("size", [(1, 1), (6, 6), (7, 13), (24, 5), (17, 40)])
def test_pooling_by_matrices(cells: tuple[int, int], size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(MatrixPool(cells)(x), nn.AdaptiveAvgPool2d(cells)(x), rtol=1e-12, atol=1e-14)


def network(arch: str, encoder: str) -> Segmenter:
    """Return a network whose statistics are not those of a fresh one, and that predicts every class somewhere."""
    torch.manual_seed(0)
    net = build(arch, encoder, 4, weights="none")
    pictures = torch.stack([torch.from_numpy(picture(160, 160, seed).transpose(2, 0, 1).copy()) for seed in (0, 7)])
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        net.train()((pictures / 255 - mean) / std)  # with any other statistics some network is constant
        net.eval()
        last = [m for m in net.head.modules() if isinstance(m, nn.Conv2d)][-1]
        assert last.bias is not None
        logits = Portable(net, MEAN, STD, None)(pictures)
        last.bias -= logits.mean((0, 2, 3))
        for tensor in (last.weight, last.bias):
            tensor /= logits.std()
    return net


def model(net: nn.Module, resize: tuple[int, int] | None = None, protocol: str = "whole") -> Model:
    card = ModelCard(
        format=1, arch="tiny", encoder="tiny", classes=("a", "b", "c", "d"), ids=(0, 1, 2, 300), mean=MEAN, std=STD,
        resize=resize, protocol=protocol,
    )  # fmt: skip
    return Model(net, card, torch.device("cpu"))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("resize", [None, (40, 56)])
@pytest.mark.parametrize(("arch", "encoder"), [("tiny", "tiny"), ("deeplabv3plus", "mobilenet_v2")])
def test_bytes_to_logits(arch: str, encoder: str, resize: tuple[int, int] | None) -> None:
    """On sides that the stride does not divide; the run's own network stays as it was.

    Half the size of multiples of 64 in a grey frame are whole numbers: nothing is rounded, which a random network would
    blow up.
    """
    net = network(arch, encoder)
    had = [type(m) for m in net.modules()]
    portable = Portable(net, MEAN, STD, resize)
    image = picture(45, 71) if resize is None else np.pad(picture(72, 104) // 64 * 64, ((4,), (4,), (0,)))
    found = portable(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))
    torch.testing.assert_close(found, model(net, resize).logits(image), rtol=1e-3, atol=2e-3)
    assert [type(m) for m in net.modules()] == had
    assert not any(isinstance(m, TrimmedConv2d | nn.AdaptiveAvgPool2d) for m in portable.modules())
    assert not any(p.requires_grad for p in portable.parameters()) and not portable.training


def test_resized_bytes() -> None:
    """What the graph makes of any picture is what the run's network was trained on, but for one in the last bit."""
    seen = list[torch.Tensor]()
    net = network("tiny", "tiny")
    net.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    image = picture(45, 71)
    Portable(net, (0, 0, 0), (1, 1, 1), (40, 56))(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))
    want = TF.resize(torch.from_numpy(image.transpose(2, 0, 1).copy()), [40, 56], antialias=True).float()
    off = (255 * seen[0][0] - want).abs()
    assert off.max() <= 1.001 and (off > 0.5).float().mean() < 0.1  # torchvision's weights have 15 bits


ARCHITECTURES = [
    ("deeplabv3plus", "mobilenet_v2"), ("deeplabv2", "resnet18"), ("deeplabv3", "resnet18"), ("fpn", "efficientnet-b0"),
    ("linknet", "resnet18"), ("manet", "resnet18"), ("pan", "resnet18"), ("pspnet", "resnet18"),
    ("pspnet_dilated", "resnet18"), ("segformer", "mit_b0"), ("small", "small"), ("unet", "tu-convnext_atto"),
    ("unetplusplus", "resnet18"), ("upernet", "resnet18"), ("hrnet", "tu-hrnet_w18_small"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("arch", "encoder"), ARCHITECTURES)
def test_every_architecture_to_onnx(arch: str, encoder: str, tmp_path: Path) -> None:
    """One graph for images of any size."""
    assert_exports(network(arch, encoder), tmp_path)


@pytest.mark.parametrize("resize", [None, (40, 56)])
def test_to_onnx(resize: tuple[int, int] | None, tmp_path: Path) -> None:
    assert_exports(network("tiny", "tiny"), tmp_path, resize)


def assert_exports(net: Segmenter, folder: Path, resize: tuple[int, int] | None = None) -> None:
    graph = module._graph(Portable(net, MEAN, STD, resize), None)
    _, exported = module._onnx(graph, {})
    files = [folder / f"{n}.png" for n in range(3)]
    for n, (file, size) in enumerate(zip(files, [(150, 133), (128, 160), (201, 140)], strict=True)):
        Image.fromarray(picture(*size, seed=n)).save(file)
    found = module._compare(model(net, resize), exported, files, None, folder)
    assert found["images"] == 3
    if resize is None:  # else a byte may be rounded otherwise
        assert found["differing_pixels"] < 1e-3 and found["max_difference"] < 1e-2
    assert found["differing_pixels"] < 0.01
    assert len(np.unique(model(net, resize).predict(files[0]))) > 1, "a constant prediction would show nothing"
    assert found["differing_from_predict"] == found["differing_pixels"]


def test_another_network_is_refused(tmp_path: Path) -> None:
    """Two classes swapped: nothing is said to be equal that is not."""
    net = network("tiny", "tiny")
    portable = Portable(net, MEAN, STD, None)
    Image.fromarray(picture(40, 50)).save(tmp_path / "0.png")

    def swapped(images: np.ndarray) -> np.ndarray:
        return portable(torch.from_numpy(images))[:, [1, 0, 3, 2]].numpy()

    with pytest.raises(CheckpointError, match=r"computes something else: 100\.0% of"):
        module._compare(model(net), swapped, [tmp_path / "0.png"], None, tmp_path / "m.onnx")


def test_what_averages_differs_from_the_file(tmp_path: Path) -> None:
    """The file makes one pass; a protocol that adds the mirrored windows gives other classes here and there."""
    net = network("tiny", "tiny")
    portable = Portable(net, MEAN, STD, None)
    Image.fromarray(picture(60, 50)).save(tmp_path / "0.png")
    found = module._compare(
        model(net, protocol="dars-361"), lambda x: portable(torch.from_numpy(x)).numpy(), [tmp_path / "0.png"], None,
        tmp_path,
    )  # fmt: skip
    assert found["differing_pixels"] < 1e-3 < found["differing_from_predict"]


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    graph = module._graph(Portable(network("tiny", "tiny"), MEAN, STD, None), (32, 32))
    with pytest.raises(ConfigError, match=r"onnxruntime is not installed.*fewmask\[onnx\].*torch-export"):
        module._onnx(graph, {})


def test_an_image_of_one_size() -> None:
    image = picture(4, 6)
    assert (module._fitted(image, (3, 5)) == image[:3, :5]).all()
    wide = module._fitted(image, (5, 14))
    assert wide.shape == (5, 14, 3) and (wide[4, 12:] == image[0, :2]).all()
