"""Every recipe in the repository builds its networks and takes a step, on small images of the right classes.

Recipes that differ in list, schedule and score alone share a network and a step, so each distinct one is done once: the
step of every row on its smallest network here, those of the other networks and data sets in the slow part.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.recipes import make

from fewmask.data.divide import draw_labelled
from fewmask.data.feed import Feed
from fewmask.data.index import DataIndex, Pools
from fewmask.data.layouts import read_folder
from fewmask.data.layouts.published import CITYSCAPES_CLASSES, VOC_CLASSES
from fewmask.data.stream import ItemLoader, StepDataset, plan_slots, to_device
from fewmask.engine.launch import launch
from fewmask.engine.learner import Learner
from fewmask.engine.precision import Format
from fewmask.method import Method, Task
from fewmask.methods import resolve
from fewmask.nets import IMAGENET_MEAN, IMAGENET_STD, Builder
from fewmask.recipe import Recipe, read_recipe
from fixtures_data import blocks, save_image, save_mask

SIZE = {"height": 72, "width": 96}
TRAIN = {
    "VOC": ["2007_000032", "2007_000039", "2007_000063", "2007_000068", "2007_000121", "2007_000170"],
    "CITYSCAPES": [f"train/ulm/ulm_{n:06d}_000019" for n in range(6)],
    "camvid": [f"train/{n}" for n in range(6)],
    "wbc": [f"train/{n}" for n in range(6)],
}
CLASSES = {"VOC": len(VOC_CLASSES), "CITYSCAPES": len(CITYSCAPES_CLASSES), "camvid": 11, "wbc": 3}
SMALLEST = ("", "resnet50", "pspnet50", "hrnet_w48", "resnet101", "deeplabv2")  # "" is MobileNetV2


def distinct(cells: list[make.Cell], *what: str) -> list[make.Cell]:
    """Return the first cell of each kind: those with the same data set and settings of these sections are one."""
    found: dict[str, make.Cell] = {}
    for cell in cells:
        settings = cell.settings()
        kept = {key: value for key, value in settings.items() if key.startswith(("data.dir", *what))}
        found.setdefault(json.dumps(kept, sort_keys=True), cell)
    return list(found.values())


def path(cell: make.Cell) -> str:
    return cell.path.removeprefix("recipes/")


CELLS = sorted(make.cells(), key=lambda cell: SMALLEST.index(cell.network))
NETWORKS = distinct(CELLS, "model.")
STEPS = distinct(CELLS, "model.", "method.", "optim.", "data.augment.")
QUICK = list({(c.row.method, c.row.name, bool(c.network)): c for c in STEPS[::-1]}.values())


def read(cell: make.Cell) -> Recipe:
    """Return the recipe on small crops and batches; steps and all else are the file's."""
    small = {"model.weights": "none", "data.crop": 64, "data.batch": 2, "data.unlabelled_batch": 2}
    return read_recipe(make.ROOT / cell.path, small)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A small data set in each layout, with stripes of all classes, and a list of two images for each."""
    root = tmp_path_factory.mktemp("data")
    images = {"VOC": "JPEGImages/{}.jpg", "CITYSCAPES": "leftImg8bit/{}_leftImg8bit.png"}
    masks = {"VOC": "SegmentationClass/{}.png", "CITYSCAPES": "gtFine/{}_gtFine_labelTrainIds.png"}
    for kind, train in TRAIN.items():
        val = "val/ulm/ulm_000009_000019" if "/" in train[0] else "2007_000999"
        for seed, item in enumerate([*train, val]):
            save_image(root / kind / images.get(kind, "images/{}.jpg").format(item), seed=seed, **SIZE)
            mask = blocks([*range(CLASSES[kind]), 255], **SIZE)
            save_mask(root / kind / masks.get(kind, "masks/{}.png").format(item), mask, palette=False)
        (root / f"{kind}.txt").write_text("\n".join(train[:2]) + "\n")
        if kind in ("camvid", "wbc"):
            (root / kind / "classes.txt").write_text("".join(f"class {n}\n" for n in range(CLASSES[kind])))
    lists = root / "VOC" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "trainaug.txt").write_text("\n".join(TRAIN["VOC"]) + "\n")
    (lists / "val.txt").write_text("2007_000999\n")
    return root


def builder(recipe: Recipe) -> Builder:
    model = recipe.model
    assert model.arch and model.encoder
    return Builder(model.arch, model.encoder, CLASSES[recipe.data.dir], weights="none", seed=0, **model.options)


@pytest.mark.parametrize("cell", NETWORKS, ids=path)
def test_network(cell):
    recipe = read(cell)
    with torch.no_grad():
        out = builder(recipe)("f").eval()(torch.zeros(1, 3, 64, 64))
    assert out.shape == (1, CLASSES[recipe.data.dir], 64, 64)


@pytest.mark.parametrize("cell", QUICK, ids=path)
def test_step(cell, folders):
    take_a_step(read(cell), folders)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [c for c in STEPS if c not in QUICK], ids=path)
def test_step_of_the_others(cell, folders):
    take_a_step(read(cell), folders)


def take_a_step(recipe: Recipe, folders: Path) -> None:
    """Take the step in the middle of the schedule, where no warm-up holds a term back; one for each kind of round."""
    index = read_folder(folders / recipe.data.dir)
    assert len(index.classes) == CLASSES[recipe.data.dir]
    pools = draw_labelled(index, str(folders / f"{recipe.data.dir}.txt"), recipe.data.unlabelled, 0)
    whole = resolve(recipe.method_name)(
        recipe.constants(), Task(len(index.classes), (1 / len(index.classes),) * len(index.classes))
    )
    each = {one.method: bool(one.labels) for one in whole.rounds()} or {whole: False}  # rounds may train one object
    for method, labelled_before in each.items():
        step_of(method, recipe, index, guessed(pools, recipe, folders) if labelled_before else pools)


def guessed(pools: Pools, recipe: Recipe, folders: Path) -> Pools:
    """Return the pools with pseudo-labels, as an earlier round would have made them."""
    height, width = recipe.data.resize or (SIZE["height"], SIZE["width"])
    file = folders / f"{recipe.data.dir}-{height}x{width}.png"
    save_mask(file, blocks([*range(CLASSES[recipe.data.dir]), 255], height=height, width=width), palette=False)
    return Pools(*(tuple(replace(item, pseudo=file) for item in pool) for pool in (pools.labelled, pools.unlabelled)))


def step_of(method: Method, recipe: Recipe, index: DataIndex, pools: Pools) -> None:
    slots = plan_slots(method.streams, pools, recipe.data.batch, recipe.data.unlabelled_batch)
    train, crop = recipe.train, recipe.data.crop
    assert crop
    learner = Learner(
        launch("cpu", "fp32"), method, builder(recipe), recipe.optim, slots, train.steps, train.seed,
        Format("fp32", False, ""),
    )  # fmt: skip
    loader = ItemLoader(index.code, recipe.data.resize)
    data = StepDataset(pools, method.streams, slots, loader, crop, recipe.data.augment, train.seed)
    t, mean, std = train.steps // 2, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    batch = to_device(next(Feed(data, 0, False).steps(t, t + 1)), torch.device("cpu"), mean, std, False)
    learner.train_mode()
    before = {name: next(learner.nets[name].parameters()).clone() for name in learner.trained}
    terms, _ = learner.update(batch, t)
    assert learner.sound(everything=True)
    assert next(iter(terms.values())) > 0
    assert not any(torch.equal(old, next(learner.nets[name].parameters())) for name, old in before.items())
