"""Partial masks: pixels of ``unlabelled_id`` are void to the supervised side, and the only ones to the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fewmask.batch import IGNORE, OPEN
from fewmask.contract.toys import STEPS, Case, all_terms, case_batch, toy_networks
from fewmask.data.check import check
from fewmask.data.datayaml import DataYaml
from fewmask.data.index import MaskCode, Pools
from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.data.scan import scan
from fewmask.data.stream import ItemLoader, StepDataset, plan_slots, to_device
from fewmask.data.views import Augment, apply_geometry, draw_geometry
from fewmask.method import Task
from fewmask.methods import resolve
from fewmask.methods.fixmatch import FixMatch
from fewmask.ops.rng import Draws, Purpose
from fixtures_data import make_folder, save_mask

LATER = 9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six masked images of two classes, two of them finished in part, and one without a mask."""
    make_folder(tmp_path, [f"{i}" for i in range(6)], ["bare"], classes="sea\nsand\n")
    (tmp_path / "data.yaml").write_text(f"unlabelled_id: {LATER}\n")
    for name, rows in (("1", slice(0, 5)), ("4", slice(6, None))):
        ids = np.zeros((12, 16), np.uint8)
        ids[:, 8:], ids[0, 0], ids[rows, 3:] = 1, 255, LATER
        save_mask(tmp_path / "masks" / f"{name}.png", ids)
    return tmp_path


def test_reading(folder: Path) -> None:
    """Void unless one asks; 255 stays void."""
    code = read_folder(folder).code
    assert code == MaskCode(unlabelled=LATER)
    plain, asked = (read_mask(folder / "masks/1.png", code, unlabelled=u) for u in (IGNORE, OPEN))
    assert (plain[:5, 3:] == IGNORE).all() and (asked[:5, 3:] == OPEN).all()
    assert plain[0, 0] == asked[0, 0] == IGNORE and (plain[5:] == asked[5:]).all() and (plain[5:, 8:] == 1).all()


def test_colours() -> None:
    """A colour may lead to the id."""
    declared = DataYaml(classes=["sea"], unlabelled_id=LATER, colours={"0,0,0": "sea", "9,9,9": LATER})  # pyright: ignore
    assert declared.legend((), "x")[1].colours == (((0, 0, 0), 0), ((9, 9, 9), LATER))


def test_the_scan_counts_them_apart(folder: Path) -> None:
    """Among the ignored pixels, and by themselves; a mask with class 0 and unlabelled pixels is not empty."""
    index = read_folder(folder, val_fraction=0)
    found = scan(index.items["train"], len(index.classes), index.code, cache=False)
    assert not found.problems and found.names == ("0", "1", "2", "3", "4", "5", "bare")
    assert found.open.tolist() == [0, 5 * 13, 0, 0, 6 * 13, 0, 0] and not found.empty_masks
    assert found.counts[1].tolist() == [7 * 8 + 5 * 3 - 1, 7 * 8, 5 * 13 + 1]
    assert [found.open_of(item) for item in index.items["train"]] == found.open.tolist()
    notes = " ".join(check(folder, val_fraction=0, cache=False).notes)
    assert "2 of 6 masks are finished in part: nobody has labelled 37% of their pixels yet" in notes


def test_hashes_of_other_data_stay() -> None:
    """Results and runs that are older than the key name the data by this text."""
    assert repr(MaskCode(ignore=(1,))) == "MaskCode(ignore=(1,), mapping=None, colours=None)"
    assert repr(MaskCode(unlabelled=3)) == "MaskCode(ignore=(), mapping=None, colours=None, unlabelled=3)"


@pytest.fixture
def pools(folder: Path) -> Pools:
    items = read_folder(folder, val_fraction=0).items["train"]
    labelled = tuple(i for i in items if i.mask is not None)
    partial = tuple(i.as_partial() for i in labelled if i.name in ("1", "4"))
    return Pools(labelled, tuple(i for i in items if i.mask is None), partial=partial)


def test_the_stream(folder: Path, pools: Pools) -> None:
    """Unlabelled pixels are valid, others of the image are seen and do not count."""
    method = FixMatch(FixMatch.Config(), Task(2))
    slots = plan_slots(method.streams, pools, 4, 6)
    assert slots["u"].items == 3 and slots["l"].items == 6
    augment = Augment(scale=(0.8, 1.5), flip=0.5)
    data = StepDataset(pools, method.streams, slots, ItemLoader(MaskCode(unlabelled=LATER), None), (14, 14), augment, 0)
    seen = set()
    for t in range(6):
        items = data[t]["u"]
        assert items.mask is None and items.pseudo is None and items.inside is not None
        batch = to_device({"u": items}, torch.device("cpu"), torch.zeros(3), torch.ones(3), False)["u"]
        for n, slot in enumerate(slots["u"]):
            name = data.item("u", int(items.index[n])).name
            seen.add(name)
            if name == "bare":
                assert (items.valid[n] == items.inside[n]).all()
                continue
            _, stored, planes = data._read("u", t, slot)
            assert planes is not None and set(planes.unique().tolist()) == {0, 1, OPEN, IGNORE}
            share = items.valid[n].sum() / items.inside[n].sum()
            assert 0 < share < 1 and not (items.valid[n] & ~items.inside[n]).any()
            bright = batch.weak[n].abs().sum(0) > 0
            assert bright[items.inside[n]].float().mean() > 0.99, "context is seen"
            assert (batch.weak[n][:, ~items.inside[n]] == 0).all()
    assert seen == {"1", "4", "bare"}


def test_what_moves(pools: Pools) -> None:
    """The valid pixels are those of the mask after the same geometry: a mask as image, by the stream's own slots."""
    method = FixMatch(FixMatch.Config(), Task(2))
    slots, augment = plan_slots(method.streams, pools, 4, 6), Augment(scale=(0.8, 1.5))
    data = StepDataset(pools, method.streams, slots, ItemLoader(MaskCode(unlabelled=LATER), None), (14, 14), augment, 3)
    items = data[5]["u"]
    for n, slot in enumerate(slots["u"]):
        item = data.item("u", int(items.index[n]))
        if item.open is None:
            continue
        raw = torch.from_numpy(read_mask(item.open, MaskCode(mapping=tuple((i, i) for i in range(12)))))
        draws = Draws(3, Purpose.GEOMETRY, 5, slot, slots["u"].view(0))
        geometry = draw_geometry(draws, *raw.shape, (14, 14), augment)
        _, moved, _ = apply_geometry(torch.zeros(3, *raw.shape, dtype=torch.uint8), raw, geometry, (14, 14))
        assert moved is not None and (items.valid[n] == (moved == LATER)).all()


@pytest.mark.parametrize(
    ("name", "constants", "terms"),
    [
        ("fixmatch", {"tau": 0.0}, ["unsup"]),
        ("mean_teacher", {}, ["con"]),
        ("cps", {"on": "unlabelled"}, ["cps"]),
        ("ucc", {"paste": "none"}, ["unsup"]),
        ("u2pl", {"lam_c": 0.0}, ["unsup"]),
    ],
)
def test_pixels_that_are_not_valid_teach_nothing(name: str, constants: dict, terms: list[str]) -> None:
    """Where no pixel of the unlabelled images counts, their terms are 0; where some do, they are not."""
    assert resolve(name).partial
    method = Case(name, constants).make()
    nets = toy_networks(method)
    for valid, zero in ((False, True), (True, False)):
        batch = dict(case_batch(method, 1))
        u = batch["u"]
        batch["u"] = replace(u, valid=u.valid & valid, inside=u.valid)
        out = all_terms(method, nets, batch, STEPS - 1)
        assert [bool(out[term] == 0) for term in terms] == [zero] * len(terms), out
