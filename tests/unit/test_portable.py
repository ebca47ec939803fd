"""fewmask.nets.portable and fewmask.run.export: the exported network is the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fewmask.errors import CheckpointError, ConfigError
from fewmask.nets import build
from fewmask.nets.portable import MatrixPool, Portable
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
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
        net.eval()
        last = [m for m in net.head.modules() if isinstance(m, nn.Conv2d)][-1]
        assert last.bias is not None
        x = torch.from_numpy(picture(160, 160).transpose(2, 0, 1)[None].copy())
        last.bias -= Portable(net, MEAN, STD, None)(x).mean((0, 2, 3))
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
    """On sides that the stride does not divide; the run's own network stays as it was."""
    net = network(arch, encoder)
    had = [type(m) for m in net.modules()]
    portable, image = Portable(net, MEAN, STD, resize), picture(45, 71)
    found = portable(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))
    torch.testing.assert_close(
        found, model(net, resize).logits(image), rtol=1e-3, atol=1e-4 if resize is None else 0.02
    )
    assert [type(m) for m in net.modules()] == had
    assert not any(isinstance(m, TrimmedConv2d | nn.AdaptiveAvgPool2d) for m in portable.modules())
    assert not any(p.requires_grad for p in portable.parameters()) and not portable.training


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


def test_to_onnx(tmp_path: Path) -> None:
    assert_exports(network("tiny", "tiny"), tmp_path)


def assert_exports(net: Segmenter, folder: Path) -> None:
    graph = module._graph(Portable(net, MEAN, STD, None), None)
    _, exported = module._onnx(graph, {})
    files = [folder / f"{n}.png" for n in range(3)]
    for n, (file, size) in enumerate(zip(files, [(150, 133), (128, 160), (201, 140)], strict=True)):
        Image.fromarray(picture(*size, seed=n)).save(file)
    found = module._compare(model(net), exported, files, None, folder)
    assert found["differing_pixels"] < 1e-3 and found["images"] == 3 and found["max_difference"] < 1e-2
    assert len(np.unique(model(net).predict(files[0]))) > 1, "a constant prediction would show nothing"
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
