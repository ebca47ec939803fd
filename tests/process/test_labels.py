"""The labelling loop: suggest, correct, import, train again; and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

import fewmask
from fewmask.engine.log import read_jsonl
from process.helpers import assert_refused, content, good, run, training

IDS = {"sky": 5, "sea": 0, "sand": 9}  # of tiny_data


@pytest.fixture(scope="module")
def trained(unbroken):
    return unbroken("supervised")


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def rows_of_relabel(base, tmp_path, io):
    good(run(io, ["suggest", str(base), "--relabel", "-n", "5", "-o", str(tmp_path / "doubtful")]))
    return rows(tmp_path / "doubtful/doubtful.csv")


def test_the_loop(trained, own_data, tmp_path, io):
    """The run's data, copied: three images are suggested, their masks taken as they are, and trained on."""
    out, next_run = tmp_path / "next", tmp_path / "run"
    base = tmp_path / "first"
    good(run(io, training(own_data, base, "--method", "supervised")))
    looked = rows(base / "doubtful/doubtful.csv")
    assert len(looked) == 5 and len(list((base / "doubtful").glob("*.png"))) == 5, "all five masks, for the report"
    assert looked == rows_of_relabel(base, tmp_path, io)
    before = content(own_data)
    ended = good(run(io, ["suggest", str(base), "-n", "3", "--to", "png", "--to", "cvat", "-o", str(out), "--json"]))
    assert content(own_data) == before, "nothing is written into the data"
    found = json.loads(ended.stdout)
    assert [one["rank"] for one in found] == [1, 2, 3] and all(one["name"].startswith("train/bare") for one in found)
    assert [row["name"] for row in rows(out / "suggestions.csv")] == [one["name"] for one in found]
    again = fewmask.load(base).suggest(2)
    assert [asdict(one) for one in again] == [pytest.approx(one) for one in found[:2]], "the Python twin"
    assert all(one["reason"] and 0 < one["uncertainty"] <= 1 and one["score"] > 0 for one in found)
    for one in found:
        (image,) = (own_data / "images").glob(f"{one['name']}.*")
        assert (out / "images" / image.relative_to(own_data / "images")).read_bytes() == image.read_bytes()
    with zipfile.ZipFile(out / "cvat.zip") as archive:
        assert len([n for n in archive.namelist() if n.startswith("SegmentationClass/")]) == 3
    steps = (out / "NEXT_STEPS.txt").read_text()
    assert f"fewmask labels import {out} {own_data}" in steps and f"--init {base}" in steps

    good(run(io, ["predict", str(base), str(out / "images"), "-o", str(tmp_path / "predicted")]))
    ended = good(run(io, ["labels", "import", str(out), str(own_data), "--empty", "labelled", "--json"]))
    taken = json.loads(ended.stdout)
    assert "3 of them are unchanged guesses of the model" in ended.stderr
    assert sorted(taken["new"]) == sorted(one["name"] for one in found) and not taken["changed"] + taken["unknown"]
    for one in found:
        mask = np.asarray(Image.open(own_data / "masks" / f"{one['name']}.png"))
        assert set(np.unique(mask)) <= set(IDS.values()), "in the ids of the data folder"
        assert (mask == np.asarray(Image.open(tmp_path / "predicted" / f"{one['name']}.png"))).all()
    refused = run(io, training(own_data, base, "--method", "supervised"))
    assert_refused(refused, 4, "--init", first=False)
    ended = good(run(io, training(own_data, next_run, "--method", "supervised", "--init", str(base))))
    assert json.loads((next_run / "metrics.json").read_text())["labelled"] == 8
    old = json.loads((base / "metrics.json").read_text())["delivered"]["val"]
    start = read_jsonl(next_run / "metrics.jsonl")[0]
    assert (start["step"], start["val"]) == (0, old), "with new masks it goes on from where the old model is"
    assert f"before the first step: {old:.1f} mIoU on val" in ended.stderr


@pytest.mark.parametrize("tool", ["png", "cvat", "coco", "labelstudio"])
def test_export_import_export(tool, own_data, tmp_path, io):
    """Into a folder without those masks: the second export is the first, byte by byte."""
    first, again = tmp_path / "first", tmp_path / "again"
    good(run(io, ["labels", "export", str(own_data), "--to", tool, "-o", str(first)]))
    bare = shutil.copytree(own_data, tmp_path / "bare")
    masks = {p.relative_to(own_data): p.read_bytes() for p in (own_data / "masks").rglob("*.png")}
    for path in sorted((bare / "masks" / "train").glob("*.png"))[1:]:
        path.unlink()
    source = first / "cvat.zip" if tool == "cvat" else first / "tasks.json" if tool == "labelstudio" else first
    taken = json.loads(good(run(io, ["labels", "import", str(source), str(bare), "--json"])).stdout)
    assert len(taken["new"]) == 4 and len(taken["same"]) == 6 and not taken["changed"]
    for place, mask in masks.items():
        assert (np.asarray(Image.open(bare / place)) == np.asarray(Image.open(own_data / place))).all(), mask[:0]
    good(run(io, ["labels", "export", str(bare), "--to", tool, "-o", str(again)]))
    assert {p.relative_to(first): p.read_bytes() for p in first.rglob("*") if p.is_file()} == {
        p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()
    }


def test_masks_that_differ_are_kept(own_data, tmp_path, io):
    """Without --replace nothing changes; with it the old one is put aside, and diff says what changed."""
    old = shutil.copytree(own_data, tmp_path / "old")
    good(run(io, ["labels", "export", str(own_data), "--to", "png", "-o", str(tmp_path / "png")]))
    path = tmp_path / "png" / "masks" / "train" / "00.png"
    mask = np.asarray(Image.open(path)).copy()
    was = int((mask[:2] != 1).sum())
    mask[:2] = 1
    Image.fromarray(mask).save(path)
    before = content(own_data)
    refused = run(io, ["labels", "import", str(tmp_path / "png"), str(own_data)])
    assert_refused(refused, 2, "1 masks are there and differ, first 'train/00'", "nothing was written", "--replace")
    assert content(own_data) == before
    changes = json.loads(good(run(io, ["labels", "diff", str(own_data), str(tmp_path / "png"), "--json"])).stdout)
    assert [(c["name"], c["state"], c["pixels"], c["of"]) for c in changes] == [("train/00", "changed", was, 192)]
    assert sum(n for *_, n in changes[0]["moves"]) == was and all(to == "sea" for _, to, _ in changes[0]["moves"])

    ended = good(run(io, ["labels", "import", str(tmp_path / "png"), str(own_data), "--replace", "--json"]))
    taken = json.loads(ended.stdout)
    kept = own_data / "replaced"
    assert taken["changed"] == ["train/00"] and taken["replaced"].startswith(str(kept))
    (one,) = kept.rglob("*.png")
    assert one.read_bytes() == (old / "masks/train/00.png").read_bytes()
    assert (np.asarray(Image.open(own_data / "masks/train/00.png"))[:2] == IDS["sea"]).all()
    assert json.loads(good(run(io, ["labels", "diff", str(own_data), str(tmp_path / "png"), "--json"])).stdout) == []
    text = good(run(io, ["labels", "diff", str(old), str(own_data)])).stdout
    assert "changed train/00" in text and "-> sea" in text


def test_what_is_refused(trained, own_data, tmp_path, io):
    export = ["labels", "export", str(own_data), "--to", "png", "-o"]
    good(run(io, [*export, str(tmp_path / "png")]))
    assert_refused(run(io, [*export, str(tmp_path / "png")]), 2, "the output holds files")
    (tmp_path / "png" / "classes.txt").write_text("land\nsea\nsand\n")
    refused = run(io, ["labels", "import", str(tmp_path / "png"), str(own_data)])
    assert_refused(refused, 3, "class 'land' is none of the data folder's (sky, sea, sand)", "rename it")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../../evil.png", b"x")
    refused = run(io, ["labels", "import", str(tmp_path / "bad.zip"), str(own_data)])
    assert_refused(refused, 3, "leads out of the archive")
    assert not list(tmp_path.parent.glob("evil.png"))
    assert_refused(run(io, ["labels", "import", str(tmp_path / "no"), str(own_data)]), 3, "no such folder or archive")
    assert_refused(run(io, ["suggest", str(trained), "-n", "0", "-o", str(tmp_path / "x")]), 2, "-n")
    assert not (tmp_path / "x").exists()
    ended = good(run(io, ["suggest", str(trained), "-n", "900", "-o", str(tmp_path / "x")]))
    assert "-n 900: only 7 images are unlabelled" in ended.stderr
    again = (tmp_path / "x/NEXT_STEPS.txt").read_text().splitlines()[-1]
    assert again.startswith("fewmask train ") and f" --init {trained} --method " in again
    assert "--crop 12x12" in again and "--arch" not in again, "the network is that of the run"


def test_doubtful_masks(own_data, tmp_path, io):
    """A table, and a picture of each: image, mask and prediction."""
    out, doubtful = tmp_path / "run", tmp_path / "doubtful"
    good(run(io, training(own_data, out, "--method", "supervised")))
    ended = good(run(io, ["suggest", str(out), "--relabel", "-n", "2", "-o", str(doubtful), "--json"]))
    assert not (doubtful / "images").exists() and not (doubtful / "cvat.zip").exists()
    found = json.loads(ended.stdout)
    assert [one["rank"] for one in found] == [1, 2] and found[0]["score"] >= found[1]["score"]
    assert [row["name"] for row in rows(doubtful / "doubtful.csv")] == [one["name"] for one in found]
    with Image.open(doubtful / f"0001-{found[0]['name'].replace('/', '_')}.png") as picture:
        assert picture.size == (3 * 16 + 12, 12)

    tools = ["--to", "cvat", "--to", "labelstudio"]
    again = tmp_path / "again"
    good(run(io, ["suggest", str(out), "--relabel", "-n", "2", *tools, "-o", str(again)]))
    assert len(list((again / "images").rglob("*.*"))) == 2, "for the tool"
    for source in (again / "cvat.zip", again / "tasks.json"):
        ended = good(run(io, ["labels", "import", str(source), str(own_data), "--json"]))
        taken = json.loads(ended.stdout)
        assert sorted(taken["same"]) == sorted(one["name"] for one in found), "the masks as they are"


def unlabelled(tmp_path, data):
    """The photographs of tiny_data in images/, and nothing else."""
    photos = tmp_path / "photos"
    shutil.copytree(data / "images", photos / "images")
    return photos


@pytest.mark.parametrize("tool", ["png", "cvat", "coco", "labelstudio"])
def test_the_first_masks_of_a_folder(tool, data, tmp_path, io):
    """Photographs without any mask take those of a tool, with its classes; then the folder is as any other."""
    photos, out = unlabelled(tmp_path, data), tmp_path / "out"
    good(run(io, ["labels", "export", str(data), "--to", tool, "-o", str(out)]))
    source = out / "cvat.zip" if tool == "cvat" else out
    taken = json.loads(good(run(io, ["labels", "import", str(source), str(photos), "--json"])).stdout)
    there = {p.relative_to(data / "masks").with_suffix("").as_posix() for p in (data / "masks").rglob("*.png")}
    assert set(taken["new"]) == there and not taken["changed"] + taken["same"] + taken["unknown"]
    named = (photos / "classes.txt").read_text().split()
    assert set(named) >= set(IDS) and set(named) - set(IDS) <= {"background"}, "those of the tool"
    assert json.loads(good(run(io, ["labels", "diff", str(data), str(photos), "--json"])).stdout) == []
    again = json.loads(good(run(io, ["labels", "import", str(source), str(photos), "--json"])).stdout)
    assert set(again["same"]) == there and not again["new"]


def test_the_first_masks_in_classes_that_are_declared(data, tmp_path, io):
    photos, out = unlabelled(tmp_path, data), tmp_path / "out"
    (photos / "data.yaml").write_text("classes: {3: sand, 1: sea, 2: sky}\n")
    good(run(io, ["labels", "export", str(data), "--to", "coco", "-o", str(out)]))
    good(run(io, ["labels", "import", str(out), str(photos)]))
    assert not (photos / "classes.txt").exists()
    mask = sorted((photos / "masks").rglob("*.png"))[0]
    theirs = np.asarray(Image.open(data / "masks" / mask.relative_to(photos / "masks")))
    table = {IDS["sand"]: 3, IDS["sea"]: 1, IDS["sky"]: 2}
    assert (np.asarray(Image.open(mask)) == np.vectorize(lambda i: table.get(i, 255))(theirs)).all()


def test_masks_where_255_is_a_class(data, tmp_path, io):
    """Void pixels of another tool's masks may not become that class: the folder must have an id for them."""
    photos, out = unlabelled(tmp_path, data), tmp_path / "out"
    good(run(io, ["labels", "export", str(data), "--to", "coco", "-o", str(out)]))
    (photos / "data.yaml").write_text("classes: {255: sand, 1: sea, 2: sky}\n")
    refused = run(io, ["labels", "import", str(out), str(photos)])
    assert_refused(refused, 3, "255 is a class", "data.yaml", "ignore: [254]")
    assert not (photos / "masks").exists()
    (photos / "data.yaml").write_text("classes: {255: sand, 1: sea, 2: sky}\nignore: [7]\n")
    good(run(io, ["labels", "import", str(out), str(photos)]))
    mask = sorted((photos / "masks").rglob("*.png"))[0]
    theirs = np.asarray(Image.open(data / "masks" / mask.relative_to(photos / "masks")))
    table = {IDS["sand"]: 255, IDS["sea"]: 1, IDS["sky"]: 2}
    assert (np.asarray(Image.open(mask)) == np.vectorize(lambda i: table.get(i, 7))(theirs)).all()


def test_masks_of_other_images(data, tmp_path, io):
    photos = tmp_path / "photos"
    (photos / "images").mkdir(parents=True)
    Image.new("RGB", (9, 8)).save(photos / "images" / "other.png")
    before = content(photos)
    refused = run(io, ["labels", "import", str(data), str(photos)])
    assert_refused(refused, 3, "none of", "is of an image of", "by the name of the file")
    assert content(photos) == before
