"""Images of other bands than 8-bit red, green and blue."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from PIL import Image
from rasterio.transform import from_origin
from torch import nn

from fewmask import nets
from fewmask.data import geo
from fewmask.data.bands import Band, are_coloured, channels, for_all, ordered, proposal, shown
from fewmask.data.check import check
from fewmask.data.datayaml import DataYaml
from fewmask.data.declared import load_data_yaml
from fewmask.data.describe import describe
from fewmask.data.images import georeference, image_header, item_size, loses_place, read_image, read_item
from fewmask.data.index import ImageCode, Item, MaskCode
from fewmask.data.layouts import read_folder
from fewmask.data.mosaic import opened_mosaic
from fewmask.data.perturb import NineOps
from fewmask.data.randaugment import RandAugmentCutout
from fewmask.data.scan import scan
from fewmask.data.views import Augment, as_pictures, from_pictures, photometry
from fewmask.errors import ConfigError, DataError
from fewmask.nets.weights import load_encoder
from fewmask.ops.rng import Draws, Purpose

RED, GREEN, BLUE, NIR = (Band(n, name, 0, 1000) for n, name in enumerate(("red", "green", "blue", "nir"), start=1))
WORLD = {"crs": "EPSG:32632", "transform": from_origin(500000, 5400000, 10, 10)}


def tiff(path: Path, values_CHW: np.ndarray, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values_CHW.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=values_CHW.dtype.name, **more
    ) as file:
        file.write(values_CHW)
    return path


def test_ranges_by_hand():
    """0..1000 to 0..255: 500 is 127.5, which rounds to the even 128; outside is cut off; no value is 0."""
    values = np.array([-5, 0, 2, 500, 1000, 60000], np.int32)
    assert NIR.stretch(values).tolist() == [0, 0, 1, 128, 255, 255]
    assert Band(1, "x", -1, 1).stretch(np.array([-1, 0, np.nan, np.inf, -np.inf])).tolist() == [0, 128, 0, 255, 0]
    assert Band(1, "x", 0, 10).stretch(np.ma.masked_equal(np.array([5, -9999]), -9999)).tolist() == [128, 0]
    assert Band(1, "x", 100, 300).stretch(np.array([100, 200, 300], np.uint16)).tolist() == [0, 128, 255]


def test_colours_come_first():
    mixed = ordered([NIR, BLUE, GREEN, RED])
    assert mixed == (RED, GREEN, BLUE, NIR) and are_coloured(mixed) and channels(mixed) == 4
    assert ordered([NIR, RED]) == (NIR, RED) and not are_coloured((NIR, RED))
    assert are_coloured(()) and channels(()) == 3
    image = np.arange(2 * 2 * 4, dtype=np.uint8).reshape(2, 2, 4)
    assert (shown(image, mixed) == image[..., :3]).all()
    assert (shown(image[..., :2], (NIR, RED)) == image[..., [0, 0, 0]]).all()


def test_a_raster_of_any_bands(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1001, (5, 7, 9)).astype(np.uint16)
    path = tiff(tmp_path / "a.tif", values, compress="deflate", nodata=7, **WORLD)
    code = ImageCode(bands=(NIR, RED))
    image = read_image(path, code)
    assert image.shape == (7, 9, 2) and image.dtype == np.uint8
    for channel, band in enumerate(code.bands):
        known = values[band.number - 1] != 7
        want = np.where(known, np.round(values[band.number - 1] * np.float32(0.255)), 0)
        np.testing.assert_array_equal(image[..., channel], want)
    assert item_size(Item("a", path, code=code)) == (7, 9)
    assert image_header(path, code).bits == 16
    place = geo.georeference(path)
    assert place["crs"].to_epsg() == 32632 and place["transform"] == WORLD["transform"]
    assert geo.georeference(tiff(tmp_path / "b.tif", values)) == {}


@pytest.mark.parametrize("kind", ["uint16", "float32", "int16", "uint8"])
def test_types(tmp_path, kind):
    values = np.arange(6, dtype=kind).reshape(1, 2, 3)
    code = ImageCode(bands=(Band(1, "x", 0, 5),))
    assert read_image(tiff(tmp_path / "a.tif", values), code)[..., 0].tolist() == [[0, 51, 102], [153, 204, 255]]


def test_what_pillow_reads(tmp_path):
    grey = np.array([[0, 4095], [1000, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    code = ImageCode(bands=(Band(1, "grey", 0, 4095),))
    assert read_image(tmp_path / "grey.png", code)[..., 0].tolist() == [[0, 255], [62, 255]]
    four = np.random.default_rng(0).integers(0, 256, (3, 5, 4)).astype(np.uint8)
    Image.fromarray(four, "RGBA").save(tmp_path / "four.png")
    code = ImageCode(bands=(Band(4, "nir"), Band(2, "green")))
    assert (read_image(tmp_path / "four.png", code) == four[..., [3, 1]]).all()


def test_files_that_say_what_to_declare(tmp_path):
    values = np.zeros((5, 4, 4), np.uint16)
    values[3] = 3000
    five = tiff(tmp_path / "five.tif", values)
    with pytest.raises(DataError, match=r"band: 4, name: band4, range: \[0, 4095\]"):
        read_image(five)
    with pytest.raises(DataError, match=r"band: 4, name: band4, range: \[0, 4095\]"):
        image_header(five)
    Image.fromarray(np.full((2, 2), 700, np.uint16)).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"16-bit .* channels: \[{band: 1, name: grey, range: \[0, 1023\]}\]"):
        read_image(tmp_path / "grey.png")
    share = tiff(tmp_path / "share.tif", np.full((4, 2, 2), 0.25, np.float32))
    with pytest.raises(DataError, match=r"band: 1, name: band1, range: \[0, 1\]"):
        read_image(share)
    with pytest.raises(DataError, match=r"transparent pixels.* name: alpha|transparent pixels.*name: A"):
        Image.fromarray(np.zeros((2, 2, 4), np.uint8), "RGBA").save(tmp_path / "clear.png")
        read_image(tmp_path / "clear.png")
    with pytest.raises(DataError, match="has 5 bands, band 9 is declared"):
        read_image(five, ImageCode(bands=(Band(9, "x"),)))


def test_what_to_declare_suits_all_images_alike(tmp_path):
    """Each image alone would ask for the bits that its own values need, and cut off those of the others."""
    (tmp_path / "masks").mkdir()
    for name, bands, most in (("a", 2, 300), ("b", 2, 4000), ("c", 2, 9), ("d", 5, 70), ("e", 5, 60)):
        values = np.full((bands, 4, 5), most, np.uint16)
        values[0] = 1
        tiff(tmp_path / f"images/{name}.tif", values)
        Image.fromarray(np.array(4 * [[0, 1, 0, 1, 1]], np.uint8)).save(tmp_path / f"masks/{name}.png")
    (tmp_path / "data.yaml").write_text("classes: [x, y]\n")
    report = check(tmp_path, cache=False)
    todos = {Path(one.where).stem: one.todo for one in report.problems}
    assert [p.kind for p in report.problems] == 5 * ["pixel_format"]
    assert len(set(todos.values())) == 2
    assert todos["a"].endswith("[{band: 1, name: band1, range: [0, 1]}, {band: 2, name: band2, range: [0, 4095]}]")
    lines = [line for line in report.lines() if "channels: [" in line]
    assert [line.split(":")[0] for line in lines] == ["  for these 3", "  for these 2"], "once, not once an image"
    for name, count in (("a", 2), ("d", 5)):
        (tmp_path / "data.yaml").write_text(f"classes: [x, y]\n{todos[name].partition('ranges: ')[2]}\n")
        assert len(read_folder(tmp_path).images.bands) == count


@pytest.mark.parametrize("name", ["no", "near infrared", "über", "😀", "a\nb", "\x1b[2J", " ", 'x"]}, {band: 1', "#"])
@pytest.mark.parametrize("span", [(0, 0), (-1e-5, 1e-5), (12345.6, 12345.6), (1e30, 1e30), (-3, 1e9), (-0.5, 300.25)])
def test_what_is_proposed_can_be_read_again(name, span):
    """Files name their bands as they like; errors that propose them travel between processes."""
    remedy = proposal([(name, np.dtype("float64"), *span), ("red", np.dtype("uint16"), 0, 9)])
    assert for_all([remedy, "another"]) == [copy.copy(remedy), "another"]
    first, second = map(Band.read, yaml.safe_load(remedy.partition("channels: ")[2]))
    assert first.name == (name if name.isprintable() and name.strip() else "band1")
    assert first.low <= span[0] + 1e-3 * abs(span[0]) and first.high >= span[1] - 1e-3 * abs(span[1])
    assert first.stretch(np.array(span)).dtype == np.uint8 and second == Band(2, "red", 0, 15)


def test_damaged_and_missing_files(tmp_path):
    code = ImageCode(bands=(RED,))
    whole = tiff(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 999, (2, 64, 64)).astype(np.uint16))
    half = tmp_path / "half.tif"
    half.write_bytes(whole.read_bytes()[:6000])
    for path in (half, tmp_path / "none.tif"):
        with pytest.raises(DataError):
            read_image(path, code)
    with pytest.raises(DataError, match="more than the limit of 100"):
        read_image(whole, code, max_pixels=100)
    lure = tmp_path / "lure.tif"  # GDAL's virtual format reads whatever other files it names
    lure.write_text(f'<VRTDataset rasterXSize="1" rasterYSize="1"><!-- {whole} --></VRTDataset>')
    with pytest.raises(DataError):
        read_image(lure, code)


def test_without_the_extra(tmp_path, monkeypatch):
    path = tiff(tmp_path / "a.tif", np.zeros((4, 2, 2), np.uint16))
    monkeypatch.setattr(geo, "_rasterio", lambda: None)
    with pytest.raises(ConfigError, match=r"pip install 'fewmask\[geo\]'"):
        read_image(path, ImageCode(bands=(RED,)))
    with pytest.raises(DataError, match=r"pip install 'fewmask\[geo\]', and declare"):
        read_image(path)
    plain = np.zeros((3, 2, 2), np.uint8)
    placed = tiff(tmp_path / "placed.tif", plain, photometric="RGB", **WORLD)
    assert read_image(placed).shape == (2, 2, 3) and georeference(placed) == {} and loses_place(placed)
    assert not loses_place(tiff(tmp_path / "plain.tif", plain, photometric="RGB"))
    monkeypatch.undo()
    assert not loses_place(placed) and georeference(placed)["crs"].to_epsg() == 32632


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grey", "list of 1 to 64 bands"),
        ("[]", "list of 1 to 64 bands"),
        ("[{name: red}]", "is no band"),
        ("[{band: 0}]", "count from 1"),
        ("[{band: true}]", "count from 1"),
        ("[{band: 1, nane: red}]", "is no band"),
        ("[{band: 1, range: [5, 5]}]", "low < high"),
        ("[{band: 1, range: [0, .inf]}]", "low < high"),
        ("[{band: 1, range: 5}]", "low < high"),
        ("[{band: 1, name: 3}]", "one line of text"),
        ("[{band: 1}, {band: 1, name: x}]", "one number"),
        ("[{band: 1, name: x}, {band: 2, name: x}]", "one name"),
    ],
)
def test_declarations_that_are_none(tmp_path, text, says):
    (tmp_path / "data.yaml").write_text(f"channels: {text}\n")
    with pytest.raises(ConfigError, match=says):
        load_data_yaml(tmp_path)


def test_declarations(tmp_path):
    (tmp_path / "data.yaml").write_text("channels: [{band: 3}, {band: 1, name: nir, range: [0, 0.5]}]\n")
    declared = load_data_yaml(tmp_path)
    assert declared is not None
    assert declared.image_code() == ImageCode(bands=(Band(3, "band 3"), Band(1, "nir", 0, 0.5)))
    (tmp_path / "data.yaml").write_text("channels: rgb\n")
    declared = load_data_yaml(tmp_path)
    assert declared is not None and declared.image_code() == ImageCode(colours_only=True)


@pytest.mark.parametrize("bands", [(RED, GREEN, BLUE, NIR), (NIR, RED), (NIR,)], ids=["colour", "two", "one"])
def test_bands_as_pictures(bands):
    """Colours go through an operation together, other bands as grey pictures; the same draws move all alike."""
    image = torch.randint(0, 256, (len(bands), 24, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pictures = as_pictures(image, bands)
    assert len(pictures) == (2 if len(bands) == 4 else len(bands))
    assert torch.equal(from_pictures(pictures, bands), image)
    warp, strong = RandAugmentCutout(chance=1.0, side=6), NineOps(n=3)
    for t in range(12):
        drawn = lambda t=t: Draws(3, Purpose.PHOTOMETRY, t)  # noqa: E731
        moved = [warp(picture, drawn()) for picture in pictures]
        assert all(torch.equal(moved[0][1], source) for _, source in moved)
        for change in (strong, lambda x, d: photometry(x, d, Augment())):
            out = from_pictures([change(picture, drawn()) for picture in pictures], bands)
            assert out.shape == image.shape and out.dtype == torch.uint8
            alone = change(image[-1:].expand(3, -1, -1), drawn())
            assert torch.equal(out[-1], alone[0])


def test_a_photograph_is_one_picture():
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    (only,) = as_pictures(image, ())
    assert only is image and from_pictures([only], ()) is image


@pytest.mark.parametrize(("count", "factor"), [(1, None), (2, 1.5), (5, 0.6)])
def test_pretrained_weights_for_other_channels(count, factor):
    """A file's weights of three channels: summed for one, else repeated and 3/C as strong."""
    three = nets.build("unet", "resnet18", 2, weights="none").encoder
    stored = {name: tensor.clone() for name, tensor in three.state_dict().items()}
    other = nets.build("unet", "resnet18", 2, weights="none", channels=count).encoder
    load_encoder(other, stored, "file", count)
    found, first = other.state_dict()["conv1.weight"], stored["conv1.weight"]
    want = first.sum(1, keepdim=True) if factor is None else factor * first[:, [n % 3 for n in range(count)]]
    torch.testing.assert_close(found, want)
    assert torch.equal(other.state_dict()["layer1.0.conv1.weight"], stored["layer1.0.conv1.weight"])
    with pytest.raises(ConfigError, match="conv1.weight"):
        load_encoder(other, stored, "file")


def test_statistics_of_channels():
    mean, std = nets.statistics(4)
    assert mean == (*nets.IMAGENET_MEAN, 0.449) and std == (*nets.IMAGENET_STD, 0.226)
    assert nets.statistics(2, coloured=False) == ((0.449, 0.449), (0.226, 0.226))
    assert nets.statistics(3) == (nets.IMAGENET_MEAN, nets.IMAGENET_STD)


def test_branches_see_the_channels():
    """A network's own small picture has as many channels as its first convolution takes."""
    from fewmask.nets.branch import last_maps

    net = nets.build("unet", "resnet18", 2, weights="none", channels=5)
    before, last = last_maps(net)
    assert before.shape[1] == 256 and last.shape[1] == 512 and isinstance(net.encoder, nn.Module)


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_several_bands_are_never_read_as_one_grey_image(tmp_path, count, interleave, compress):
    """Pillow opens some of these files as grey images of their first band."""
    path, more = tmp_path / "x.tif", {"interleave": interleave, "compress": compress, "photometric": "MINISBLACK"}
    with rasterio.open(path, "w", driver="GTiff", height=4, width=5, count=count, dtype="uint8", **more) as file:
        file.write(np.arange(20 * count, dtype=np.uint8).reshape(count, 4, 5))
    with pytest.raises(DataError, match="bands of a kind") as refused:
        read_image(path)
    assert f"{{band: {count}, " in refused.value.todo
    bands = tuple(Band(n + 1, f"b{n}") for n in range(count))
    found = read_image(path, ImageCode(bands=bands))
    assert (found == np.arange(20 * count).reshape(count, 4, 5).transpose(1, 2, 0)).all()


@pytest.mark.parametrize("more", [1, 2])
def test_bands_beside_colours_are_not_dropped_unasked(tmp_path, more):
    """Pillow opens red, green, blue and infrared as RGB."""
    values, root = np.arange(20 * (3 + more), dtype=np.uint8).reshape(3 + more, 4, 5), tmp_path / "data"
    (root / "masks").mkdir(parents=True)
    image = tiff(root / "images/x.tif", values, photometric="RGB", alpha="UNSPECIFIED")
    Image.fromarray(np.array(4 * [5 * [1]], np.uint8)).save(root / "masks/x.png")
    with Image.open(image) as opened:
        assert opened.mode == "RGB", "else nothing is shown here"
    assert image_header(image).width == 5, "only the pixels are in doubt"
    with pytest.raises(DataError, match=f"{more} more band.* channels: rgb in data.yaml.*band: {3 + more}, "):
        read_image(image)
    (root / "data.yaml").write_text("classes: [a, b]\n")
    refused = scan(read_folder(root).labelled, 2, MaskCode(), cache=tmp_path)
    assert [p.kind for p in refused.problems] == ["pixel_format"]
    (root / "data.yaml").write_text("classes: [a, b]\nchannels: rgb\n")
    index = read_folder(root)
    assert scan(index.labelled, 2, MaskCode(), cache=tmp_path).problems == ()
    assert (read_item(index.labelled[0]) == values[:3].transpose(1, 2, 0)).all()
    with opened_mosaic(image, index.images) as mosaic:
        assert (mosaic[:4, :5] == values[:3].transpose(1, 2, 0)).all()
    with pytest.raises(DataError, match="not read without declaration"), opened_mosaic(image, ImageCode()):
        pass
    (root / "data.yaml").write_text(describe(index, DataYaml(channels="rgb"), None))
    assert read_folder(root).images == index.images


def test_the_script_for_channels_in_files_of_their_own(tmp_path):
    """docs/data.md: nnU-Net's CASE_0000.png and CASE_0001.png, by hand, become two bands of one image."""
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    (script,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "_0000.png" in code)
    root = tmp_path / "Dataset001"
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (root / part).mkdir(parents=True)
    (root / "dataset.json").write_text('{"labels": {"background": 0, "tumour": 1}}')
    values = {
        ("Tr", "a"): ([[1, 2]], [[30, 40]]),
        ("Tr", "b"): ([[5, 6]], [[70, 80]]),
        ("Ts", "c"): ([[9, 0]], [[0, 9]]),
    }
    for (part, case), each in values.items():
        for n, channel in enumerate(each):
            Image.fromarray(np.array(channel, np.uint8)).save(root / f"images{part}" / f"{case}_000{n}.png")
    for case in "ab":
        Image.fromarray(np.array([[0, 1]], np.uint8)).save(root / f"labelsTr/{case}.png")
    with pytest.raises(DataError, match="'a_0001', which are not read"):
        read_folder(root)
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    with pytest.raises(DataError) as refused:
        read_image(tmp_path / "together/imagesTr/a_0000.tif")
    declaration = refused.value.todo[refused.value.todo.index("channels:") :]
    (tmp_path / "together/data.yaml").write_text(declaration.replace(", 63]", ", 255]").replace(", 3]", ", 255]"))
    index = read_folder(tmp_path / "together")
    assert index.layout == "nnunet" and len(index.images.bands) == 2
    items = [*index.items["train"], *index.items["val"]]
    assert len(items) == 3
    for item in items:
        each = values["Ts" if item.name == "c" else "Tr", item.name]
        assert read_item(item).transpose(2, 0, 1).tolist() == list(each)
