"""``fewmask pseudolabel``: labels of any images from a finished run; nothing written over, nothing predicted twice."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from PIL import Image

from process.helpers import assert_refused, content, good, popen, run, start, training

IDS = {5, 0, 9}  # of tiny_data's mask files


@pytest.fixture(scope="module")
def trained(unbroken):
    return unbroken("supervised")


def labels(folder):
    return {p.relative_to(folder).as_posix(): np.asarray(Image.open(p)) for p in sorted(folder.rglob("*.png"))}


@pytest.mark.parametrize("rule", ["none", "st", "cbst", "da", "dars"])
def test_labels_in_the_users_own_ids(rule, trained, data, tmp_path, io):
    out = tmp_path / "labels"
    ended = good(run(io, ["pseudolabel", str(trained), str(data / "images/train"), "-o", str(out), "--select", rule,
                          "--ratio", "0.3", "--json"]))  # fmt: skip
    manifest = json.loads(ended.stdout)
    assert manifest == json.loads((out / "manifest.json").read_text())
    found = labels(out)
    assert len(found) == manifest["images"] == 12 and "bare0.png" in found
    assert all(mask.shape == (12, 16) for mask in found.values())
    values, counts = np.unique(np.concatenate([mask.ravel() for mask in found.values()]), return_counts=True)
    assert set(values) <= IDS | {255}
    kept = counts[values != 255].sum()
    assert sum(manifest["kept"]) == kept and sum(manifest["predicted"]) == 12 * 12 * 16
    if rule == "none":
        assert kept == 12 * 12 * 16
        masks = tmp_path / "masks"
        good(run(io, ["predict", str(trained), str(data / "images/train"), "-o", str(masks)]))
        assert all((np.asarray(Image.open(masks / name)) == mask).all() for name, mask in found.items())
    elif rule == "dars":
        n_and_reached = zip(manifest["wanted"], manifest["reached"], strict=True)
        assert manifest["kept"] == [min(n, reached) for n, reached in n_and_reached]
        assert kept <= sum(manifest["wanted"]) <= round(0.3 * 12 * 12 * 16)
        assert "divergence" in manifest
    assert not (out / ".raw").exists()


def test_killed_and_continued(trained, data, tmp_path, io):
    words = ["pseudolabel", str(trained), str(data / "images/train"), "--select", "dars", "--ratio", "0.3", "-o"]
    good(run(io, [*words, str(tmp_path / "whole")]))
    out = tmp_path / "killed"
    assert run(io, [*words, str(out)], "select.inside:7").code == -signal.SIGKILL
    assert len(list((out / ".raw").glob("*.bin"))) == 6 and not labels(out)
    good(run(io, [*words, str(out)]))
    assert content(out).keys() == {out / p.relative_to(tmp_path / "whole") for p in content(tmp_path / "whole")}
    for name, mask in labels(tmp_path / "whole").items():
        assert (mask == labels(out)[name]).all()
    before = content(out)
    good(run(io, [*words, str(out)]))  # finished: it is told again
    assert content(out) == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_asked_to_stop(name, trained, data, tmp_path, io):
    """Sent while it predicts; what is predicted is kept, and the same command makes the same labels."""
    many = tmp_path / "many"
    many.mkdir()
    for n in range(100):
        shutil.copy(data / "images/train" / f"bare{n % 7}.jpg", many / f"{n:03}.jpg")
    words = ["pseudolabel", str(trained), str(many), "--select", "dars", "--ratio", "0.3", "-o"]
    out = tmp_path / "stopped"
    running = start(io, [*words, str(out)])
    while not (done := list((out / ".raw").glob("*.bin"))) and running.process.is_alive():
        time.sleep(0.001)
    running.kill(signal.Signals[name])
    ended = running.wait()
    assert ended.code == 75 and f"stopped by {name} while labelling; what is predicted is kept" in ended.error
    kept = {p: p.stat().st_mtime_ns for p in (out / ".raw").glob("*.bin")}
    assert len(done) <= len(kept) < 100 and not labels(out)
    good(run(io, [*words, str(out)]))
    good(run(io, [*words, str(tmp_path / "whole")]))
    assert all((mask == labels(out)[name]).all() for name, mask in labels(tmp_path / "whole").items())


RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "fewmask"]


@pytest.mark.parametrize("rule", ["dars", "none"])
def test_two_processes_write_the_files_of_one(rule, trained, data, tmp_path, io):
    words = [
        "pseudolabel",
        str(trained),
        str(data / "images/train"),
        "--select",
        rule,
        "--ratio",
        "0.3",
        "--json",
        "-o",
    ]
    alone = good(run(io, [*words, str(tmp_path / "one")]))
    assert popen(io, [sys.executable, *RANKS, *words, str(tmp_path / "two")]).wait(280) == 0, (
        io / "stderr"
    ).read_text()
    one, two = ({p.relative_to(f): b for p, b in content(f).items()} for f in (tmp_path / "one", tmp_path / "two"))
    assert one == two and len(labels(tmp_path / "two")) == 12
    assert json.loads((io / "stdout").read_text()) == json.loads(alone.stdout), "one process prints the manifest"
    assert (io / "stderr").read_text().count("pseudo-labels: ") == 1


def test_lost_processes_are_continued_by_one(trained, data, tmp_path, io):
    words = ["pseudolabel", str(trained), str(data / "images/train"), "--select", "dars", "--ratio", "0.3", "-o"]
    good(run(io, [*words, str(tmp_path / "one")]))
    out = tmp_path / "two"
    assert popen(io, [sys.executable, *RANKS, *words, str(out)], "select.inside:3").wait(280) != 0
    assert 2 <= len(list((out / ".raw").glob("*.bin"))) <= 4 and not labels(out)
    good(run(io, [*words, str(out)]))
    one, two = ({p.relative_to(f): b for p, b in content(f).items()} for f in (tmp_path / "one", out))
    assert one == two


def test_nothing_is_written_over(trained, data, tmp_path, io):
    out = tmp_path / "labels"
    words = ["pseudolabel", str(trained), str(data / "images/train"), "-o", str(out)]
    out.mkdir()
    (out / "03.png").write_bytes(b"mine")
    assert_refused(run(io, words), 2, "the file exists", "03.png")
    (out / "03.png").unlink()
    good(run(io, words))
    before = content(out)
    assert_refused(run(io, [*words, "--ratio", "0.1"]), 4, "made in another way", "select differ")
    assert content(out) == before


def test_wrong_input(trained, data, tmp_path, io):
    images, out = str(data / "images/train"), ["-o", str(tmp_path / "labels")]
    assert_refused(run(io, ["pseudolabel", str(tmp_path), images, *out]), 4, "no finished run")
    assert_refused(run(io, ["pseudolabel", str(trained), str(tmp_path / "none"), *out]), 3, "no such file or folder")
    twice = [str(data / "images/train"), str(shutil.copytree(data / "images/train", tmp_path / "again"))]
    assert_refused(run(io, ["pseudolabel", str(trained), *twice, *out]), 2, "two images would write the same file")
    assert run(io, ["pseudolabel", str(trained), images, *out, "--select", "best"]).code == 2
    assert not (tmp_path / "labels").exists()


def test_ids_of_sixteen_bits(own_data, tmp_path, io):
    """Class 0 is id 300 in 16-bit masks: predictions and labels are such files, and their marks are 255."""
    for file in (own_data / "masks").rglob("*.png"):
        mask = np.asarray(Image.open(file)).astype(np.uint16)
        Image.fromarray(np.where(mask == 0, 300, mask).astype(np.uint16)).save(file)
    (own_data / "data.yaml").write_text("classes: {5: sky, 300: sea, 9: sand}\n")
    out, images = tmp_path / "run", str(own_data / "images/train")
    good(run(io, training(own_data, out, "--method", "supervised")))
    good(run(io, ["predict", str(out), images, "-o", str(tmp_path / "masks")]))
    words = [
        "pseudolabel",
        str(out),
        images,
        "-o",
        str(tmp_path / "labels"),
        "--select",
        "st",
        "--ratio",
        "0.5",
        "--json",
    ]
    manifest = json.loads(good(run(io, words)).stdout)
    masks = {name: mask for name, mask in labels(tmp_path / "masks").items() if "/" not in name}
    found = labels(tmp_path / "labels")
    assert found.keys() == masks.keys()
    kept = {i: 0 for i in (5, 300, 9)}
    for name, mask in masks.items():
        assert mask.dtype == found[name].dtype == np.uint16 and set(np.unique(mask)) <= kept.keys()
        assert ((found[name] == mask) | (found[name] == 255)).all()
        kept = {i: n + int((found[name] == i).sum()) for i, n in kept.items()}
    assert manifest["kept"] == [kept[i] for i in (5, 300, 9)] and sum(kept.values()) > 0
