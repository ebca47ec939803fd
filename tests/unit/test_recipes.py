"""Recipes in the repository, and the pages that describe the keys of a recipe."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from benchmarks.recipes import make

from fewmask.config import leaves
from fewmask.data.lists import read_list
from fewmask.methods import METHODS
from fewmask.recipe import read_recipe
from fixtures_data import SHARED

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
PUBLISHED = [p for p in RECIPES if p.parent.parent.name not in ("camvid", "wbc")]
assert PUBLISHED and len(PUBLISHED) < len(RECIPES), "nothing would be tested"
ROW = re.compile(r"^\| `([\w.]+)` \| `([^`]+)` \|", re.MULTILINE)


def relative(path):
    return path.relative_to(ROOT).as_posix()


@cache
def recipe(path):
    return read_recipe(path, {})


@cache
def cells():
    return {cell.path: cell for cell in make.cells()}


def header(path):
    return "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))


def rows(page):
    """Return key to default of the tables of a page whose rows open with | `key` | `default` |."""
    found = ROW.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(found) == len({key for key, _ in found}), f"{page} has a key twice"
    return {key: yaml.safe_load(default) for key, default in found}


def defaults(method):
    """Return key to default of a method's own constants."""
    tree = read_recipe(None, {"data.dir": "photos", "method.name": method}).complete()["method"]
    return {key: value for key, value in leaves(tree) if key != "name"}


def test_recipes_are_what_the_table_makes():
    made = make.recipes()
    assert [relative(p) for p in RECIPES] == sorted(made), "python -m benchmarks.recipes says which are too many"
    changed = [relative(p) for p in RECIPES if p.read_text(encoding="utf-8") != made[relative(p)]]
    assert not changed, "change benchmarks/recipes/tables.yaml, and run python -m benchmarks.recipes"


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_recipe_is_complete(path):
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == recipe(path).complete()


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_recipe_is_of_the_method_in_its_name(path):
    method, _, rest = path.stem.partition("-")
    assert method in METHODS
    assert recipe(path).method_name == method
    assert bool(rest) == (path in PUBLISHED)  # variant and network


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_header_says_command_time_and_score(path):
    said = header(path)
    assert f"--recipe {relative(path)}" in said
    for word in ("# command: fewmask train", "hardware", "time", "mIoU", "paper:", "ours:"):
        assert word in said, word


@pytest.mark.parametrize("path", PUBLISHED, ids=relative)
def test_header_of_a_published_number_says_where_it_stands_and_which_list_it_takes(path):
    said, asked = header(path), recipe(path)
    cell = cells()[relative(path)]
    assert re.search(r"mIoU on val: paper: \d\d\.\d\d \((Table [\dI]|UniMatch's README)[^)]*\); ours: \S", said)
    assert (f" --labelled {asked.data.labelled}" in said) == bool(cell.block.lists) and "# paper: " in said
    assert cell.block.lists or asked.data.labelled == path.parent.name  # a number of images is drawn
    steps = re.search(r"train\.steps: (\d+) epochs of (\d+) iterations", said)
    assert asked.train.steps == (int(steps[1]) * int(steps[2]) if steps else cell.row.steps)
    assert f", {path.parent.name} labelled images: " in said


def test_iterations_are_those_of_the_published_code():
    """CPS: floor(max(L, U) / 8), L = floor(pool / 16 .. 2). U2PL: floor(ceil(U / W) / (16 / W)), or ceil(L / 16)."""
    seen = 0
    for cell in make.cells():
        pool, ranks = (2975, 8) if cell.block.family.startswith("cityscapes") else (10582, 4)
        each = cell.row.iterations or cell.block.iterations
        if not each or cell.row.steps is not None:
            continue
        few = pool // round(pool / cell.labelled)
        expected = max(few, pool - few) // 8
        if cell.block.family == "voc-classic":
            expected = pool // 8  # CPS's issue 22
        if cell.block.paper.startswith("U2PL"):
            rest = -(-(pool - cell.labelled) // ranks)
            expected = -(-cell.labelled // 16) if cell.row.method == "supervised" else rest // (16 // ranks)
        assert each[cell.split] == expected, cell.path
        seen += 1
    assert seen > 100


def test_rounds_of_dars_are_as_long_as_the_paper_says():
    """200 epochs (VOC: 50) a round of floor(L / 16) iterations, then of floor(U / 8).

    DeepLabV2: the first epochs are of labelled images repeated to U; then batches of half the size.
    """
    seen = 0
    for cell in make.cells():
        if not cell.block.paper.startswith("DARS"):
            continue
        pool, epochs = (2975, 200) if cell.block.family == "cityscapes-dars" else (10582, 50)
        bare, deeplab = pool - cell.labelled, cell.network == "deeplabv2"
        first, later = epochs * ((bare if deeplab else cell.labelled) // 16), epochs * (bare // (4 if deeplab else 8))
        rounds = [first] if cell.row.method == "supervised" else [first, later, later]
        assert cell.row.steps == sum(rounds), cell.path
        shares = cell.settings().get("method.shares", [1.0])
        assert [round(cell.row.steps * share) for share in shares] == pytest.approx(rounds, abs=1), cell.path
        seen += 1
    assert seen == 8


@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "splits").is_dir(), reason="no ../shared/data/splits")
def test_published_lists_name_as_many_images_as_the_folder_says():
    """Those that are at hand; a name there has __ for /."""
    seen = set()
    for path in PUBLISHED:
        name = recipe(path).data.labelled.removeprefix("LISTS/").replace("/", "__")
        where = ("cps/DATA__", "u2pl/data__splits__", "unimatch/splits__", "dars/data_split__")
        for file in (SHARED / "splits" / f"{folder}{name}" for folder in where):
            if file.is_file():
                assert len(read_list(file).entries) == int(path.parent.name), path
                seen.add(file)
    assert len(seen) >= 12


@pytest.mark.parametrize("path", [p for p in RECIPES if p.parent.parts[-2:] == ("camvid", "16")], ids=relative)
def test_camvid_recipe_is_the_command_with_flags(path):
    """And with the constants of its row, if it has any of its own."""
    flags = {
        "data.labelled": "16", "model.arch": "deeplabv3plus", "model.encoder": "mobilenet_v2",
        "data.resize": "120x160", "data.crop": "96x128", "train.steps": 3000, "method.name": path.stem,
        "optim.lr": 1e-3, "method.sup.class_weights": "balanced",
    }  # fmt: skip
    flags |= next(cell.row.settings for cell in make.cells() if cell.path == relative(path))
    given = {"data.dir": "elsewhere", "model.weights": "mobilenet_v2.safetensors"}
    assert read_recipe(path, given).complete() == read_recipe(None, given | flags).complete()


def test_page_on_recipes_lists_every_key_with_its_default():
    tree = read_recipe(None, {"data.dir": "photos"}).complete()
    expected = {key: value for key, value in leaves(tree) if key != "data.dir"}
    assert rows("docs/recipes.md") == expected


@pytest.mark.parametrize("method", METHODS)
def test_page_of_a_method_lists_every_constant_with_its_default(method):
    expected = defaults(method)
    if method != "supervised":  # whose page describes the loss that all share
        expected = {key: value for key, value in expected.items() if not key.startswith("sup.")}
    assert rows(f"docs/methods/{method}.md") == expected
