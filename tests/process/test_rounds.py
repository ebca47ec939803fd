"""A method of several rounds: its folders, what it tells, and what one does with it."""

from __future__ import annotations

import json
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_networks

from process.helpers import STEPS, VARIANTS, assert_refused, content, good, metrics_of, popen, run, training


@pytest.fixture(scope="module")
def rounds(unbroken):
    return unbroken("dars")


def test_each_round_is_a_run_of_its_own(rounds):
    folders = sorted((rounds / "rounds").iterdir())
    assert [f.name for f in folders] == ["0-labelled", "1-dars-1", "2-dars-2"]
    for folder in folders:
        assert json.loads((folder / "DONE").read_text())["steps"] == metrics_of(folder)["steps"] == 4
        assert (folder / "model/model.safetensors").is_file() and (folder / "config.yaml").is_file()
    assert not (folders[0] / "pseudo").exists()
    for n, folder in enumerate(folders[1:], start=1):
        made = json.loads((folder / "pseudo/manifest.json").read_text())
        assert made["source"]["round"] == folders[n - 1].name.partition("-")[2] and made["source"]["step"] == 4
        assert made["select"]["ratio"] == (0.2, 0.5)[n - 1] and made["turn"] == n and made["images"] == 7
        masks = [np.asarray(Image.open(p)) for p in sorted((folder / "pseudo").rglob("*.png"))]
        assert len(masks) == 7 and sum((m != 255).sum() for m in masks) == sum(made["kept"])
        assert {int(v) for m in masks for v in np.unique(m)} <= {0, 1, 2, 255}  # learned indices, not file ids


def test_the_run_tells_what_its_last_round_has_reached(rounds):
    metrics, last = metrics_of(rounds), metrics_of(rounds / "rounds/2-dars-2")
    assert metrics["steps"] == STEPS and metrics["val"] == last["val"] and metrics["test"] == last["test"]
    assert (
        metrics["best"]["step"] == 8 + last["best"]["step"] and metrics["delivered"]["step"] == metrics["best"]["step"]
    )
    assert [r["name"] for r in metrics["rounds"]] == ["labelled", "dars-1", "dars-2"]
    assert metrics["rounds"][0]["labels"] is None and 0 < metrics["rounds"][1]["labels"]["kept"] <= 0.2
    assert metrics["seconds"] == pytest.approx(sum(r["seconds"] for r in metrics["rounds"]), abs=0.11)
    lines = [json.loads(line) for line in (rounds / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert {line["round"] for line in lines if line["step"] > 8} == {2}
    for name in ("model/model.safetensors", "evaluation.npz"):
        assert (rounds / name).read_bytes() == (rounds / "rounds/2-dars-2" / name).read_bytes()
    assert (rounds / "report.html").stat().st_size > 10_000


def passes(folder, key="net.encoder.1"):
    """Return how many training passes a layer of a round's last networks has seen, over all their lives."""
    metrics = metrics_of(folder)
    file = folder / "checkpoints" / f"step-{metrics['steps']:08d}" / "networks.safetensors"
    return int(load_file(file)[f"{key}.num_batches_tracked"])


def test_a_round_continues_the_one_before_where_the_method_says_so(rounds, unbroken):
    """Four steps of labelled images; then two passes a step on top of those, or from scratch."""
    assert [passes(f) for f in sorted((rounds / "rounds").iterdir())] == [4, 4 + 8, 4 + 8 + 8]
    assert [passes(f) for f in sorted((unbroken("self_training") / "rounds").iterdir())] == [5, 2 * 7]


def test_stages_continue_in_both_networks_with_a_fresh_branch(data, tmp_path, io):
    """Four steps a stage, one training pass in each; the branch has another form in each; the rate halves."""
    words = ["--method", "three_stage", "method.init=continue", "method.rates=[1, 0.5, 0.25]"]
    good(run(io, training(data, tmp_path / "run", *words)))
    first, second, third = sorted((tmp_path / "run/rounds").iterdir())
    assert [passes(first), passes(second, "student.encoder.1"), passes(third, "student.encoder.1")] == [4, 8, 12]
    assert [passes(second, "student.branch_decoder.1"), passes(third, "student.decoders.1.1")] == [4, 4]
    assert passes(third, "student.decoders.0.1") == 12
    rates = [json.loads((f / "metrics.jsonl").read_text().splitlines()[0])["lr"] for f in (first, second, third)]
    assert rates == [rates[0], pytest.approx(rates[0] / 2), pytest.approx(rates[0] / 4)] and rates[0] > 0


def test_a_round_has_its_own_batch(data, tmp_path, io):
    words = ["--method", "st_plus_plus", "method.first_batch=3"]
    assert_refused(run(io, training(data, tmp_path / "run", *words, "--devices", "cpu:2")), 2, "a global batch of 3")
    good(run(io, training(data, tmp_path / "run", *words)))
    recipes = [yaml.safe_load((f / "config.yaml").read_text()) for f in sorted((tmp_path / "run/rounds").iterdir())]
    assert [recipe["data"]["batch"] for recipe in recipes] == [3, 2, 2]


def test_students_continue_their_teachers(data, tmp_path, io):
    good(run(io, training(data, tmp_path / "run", "--method", "st_plus_plus", "method.init=continue")))
    assert [passes(folder) for folder in sorted((tmp_path / "run/rounds").iterdir())] == [4, 8, 12]


def test_stable_images_first_and_the_others_by_their_student(unbroken):
    """ST++: half of the seven images for the second round, ranked by the kept networks of the first; then all."""
    teacher, stable, everything = sorted((unbroken("st_plus_plus") / "rounds").iterdir())
    ranking = json.loads((teacher / "ranking.json").read_text())
    assert [n["step"] for n in ranking["networks"]] == [1, 3, 4]
    assert {f"step-{step:08d}" for step in (1, 3, 4)} <= {f.name for f in (teacher / "checkpoints").iterdir()}
    ranked = sorted(ranking["stability"], key=lambda name: -ranking["stability"][name])
    assert len(ranked) == 7 and all(0 <= s <= 100 for s in ranking["stability"].values())
    assert len(set(ranking["stability"].values())) > 1

    def labelled(folder):
        made = json.loads((folder / "pseudo/manifest.json").read_text())
        names = {p.relative_to(folder / "pseudo").with_suffix("").as_posix() for p in folder.glob("pseudo/**/*.png")}
        assert made["images"] == len(names) and made["source"]["views"]["flip"]
        return made["source"]["round"], names

    assert labelled(stable) == ("teacher", set(ranked[:4])) and labelled(everything) == ("stable", set(ranked[4:]))
    assert not (teacher / "pseudo").exists()


def test_what_is_damaged_between_rounds_is_named(data, unbroken, tmp_path, io):
    out = tmp_path / "run"
    words = training(data, out, "--method", "st_plus_plus")
    assert run(io, words, "round.labelled:1").code == -signal.SIGKILL
    ranking, manifest = out / "rounds/0-teacher/ranking.json", out / "rounds/1-stable/pseudo/manifest.json"
    right = json.loads(ranking.read_text())
    for wrong in ({}, {"stability": []}, right | {"stability": {}}, right | {"networks": right["networks"][::-1]}):
        ranking.write_text(json.dumps(wrong))
        assert_refused(run(io, words), 4, "ranking cannot be read", "ranking.json", "remove it")
    ranking.write_text(json.dumps(right))
    text = manifest.read_text()
    manifest.write_text("[]")
    assert_refused(run(io, words), 4, "manifest of the pseudo-labels is damaged", "remove the folder")
    manifest.write_text(text)
    mask = next((out / "rounds/1-stable/pseudo").rglob("*.png"))
    pixels = mask.read_bytes()
    mask.unlink()
    assert_refused(run(io, words), 4, "a pseudo-label is missing", mask.name, "they are made again")
    mask.write_bytes(pixels)
    good(run(io, words))
    same = "rounds/2-all/model/model.safetensors"
    assert (out / same).read_bytes() == (unbroken("st_plus_plus") / same).read_bytes()


def test_a_lost_network_is_named_with_the_round_that_makes_it(data, tmp_path, io):
    out = tmp_path / "run"
    words = training(data, out, "--method", "st_plus_plus")
    assert run(io, words, "rank.inside:1").code == -signal.SIGKILL
    (out / "rounds/0-teacher/checkpoints/step-00000001/networks.safetensors").write_bytes(b"")
    assert_refused(run(io, words), 4, "a network that images are ranked with is lost", "rounds/0-teacher")


def test_stability_is_that_of_the_kept_networks(unbroken, data):
    """Recomputed from the three checkpoints: agreement of the first two with the last one."""
    from fewmask.data.layouts import read_folder
    from fewmask.ops.metrics import agreement, confusion
    from fewmask.run.model import Model

    teacher = unbroken("st_plus_plus") / "rounds/0-teacher"
    told = json.loads((teacher / "ranking.json").read_text())["stability"]
    maps = []
    for step in (1, 3, 4):
        model = Model.load(teacher / "model", "cpu")
        tensors = load_networks(teacher / f"checkpoints/step-{step:08d}/networks.safetensors")
        model.net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items()})
        maps.append({i.name: model.predict(i.image) for i in read_folder(data).items["train"] if i.name in told})
    for name, value in told.items():
        first, second, last = (torch.from_numpy(m[name]) for m in maps)
        same = [agreement(confusion(one, last, 3)) for one in (first, second)]
        assert value == pytest.approx(sum(same) / 2, abs=1e-5), name


def test_labels_are_the_mean_over_sizes_and_mirror_images(unbroken, data, tmp_path, io):
    """They differ from the plain prediction's somewhere, else nothing would show that they are made so."""
    plain = tmp_path / "run"
    keys = ["method.scales=[1.0]", "method.flip=false"]
    good(run(io, training(data, plain, "--method", "st_plus_plus", *keys)))
    folders = (unbroken("st_plus_plus") / "rounds/1-stable/pseudo", plain / "rounds/1-stable/pseudo")
    both = [{p.name: np.asarray(Image.open(p)) for p in f.rglob("*.png")} for f in folders]
    assert both[0].keys() == both[1].keys() and any((both[0][k] != both[1][k]).any() for k in both[0])


@pytest.mark.parametrize("which", ["delivered", "last", "best"])
def test_evaluate_finds_the_networks_of_the_last_round(which, rounds, io):
    ended = good(run(io, ["evaluate", str(rounds), "--split", "val", "--which", which, "--json"]))
    metrics = metrics_of(rounds)
    score, step = {
        "last": (metrics["val"], STEPS),
        "best": (metrics["best"]["val"], metrics["best"]["step"]),
        "delivered": (metrics["best"]["val"], metrics["best"]["step"]),
    }[which]
    found = json.loads(ended.stdout)
    assert found["step"] == step and found["miou"] == pytest.approx(score["miou"])


def test_the_same_command_again(rounds, data, tmp_path, io):
    out = shutil.copytree(rounds, tmp_path / "run")
    before = content(out)
    ended = good(run(io, training(data, out, *VARIANTS["dars"])))
    assert "already finished" in ended.stderr and content(out) == before
    assert_refused(run(io, training(data, out, *VARIANTS["dars"], "method.select=st")), 4, "method.select")


def test_beside_a_baseline_and_over_seeds(data, tmp_path, io):
    out = tmp_path / "run"
    ended = good(run(io, training(data, out, "--method", "self_training", "--seeds", "2", "--json")))
    metrics = metrics_of(out)
    assert json.loads(ended.stdout) == metrics and metrics["seeds"] == [0, 1]
    assert metrics["gain"] is not None and metrics["baseline"]["val"]["miou"] is not None
    assert metrics_of(out / "seeds/1")["steps"] == metrics_of(out / "seeds/1/baseline")["steps"] == STEPS
    assert (out / "seeds/1/rounds/1-all-1/DONE").is_file()
    assert "round 2 of 2: all-1, 7 steps" in ended.stderr


def test_labels_of_another_method(data, tmp_path, io):
    """CPS trains first and its first network labels: CPS's Table 7."""
    out, keys = tmp_path / "run", ["method.teacher=cps", "method.teacher_constants.lam=0.5"]
    good(run(io, training(data, out, "--method", "self_training", *keys)))
    made = json.loads((out / "rounds/1-all-1/pseudo/manifest.json").read_text())
    assert made["source"]["round"] == "cps" and (out / "rounds/0-cps/DONE").is_file()
    assert '"cps"' in (out / "rounds/0-cps/metrics.jsonl").read_text()
    assert_refused(
        run(io, training(data, tmp_path / "two", "--method", "self_training", "method.teacher=csp")), 2, "cps"
    )


def test_too_few_steps_for_the_rounds(data, tmp_path, io):
    words = training(data, tmp_path / "run", *VARIANTS["dars"], "--steps", "2")
    assert_refused(run(io, words), 2, "2 steps are too few for 3 rounds", "train.steps")
    ended = run(io, [w for w in words if w != "--no-baseline"])
    assert_refused(ended, 2, "2 steps are too few for 3 rounds")
    assert "training 1 of" not in ended.stderr, "said before anything is trained"
    assert not (tmp_path / "run").exists()


def test_without_unlabelled_images(data, tmp_path, io):
    words = training(data, tmp_path / "run", *VARIANTS["dars"], "--unlabelled", "none")
    assert_refused(run(io, words), 3, "unlabelled images and there are none")


def test_two_processes_share_the_labelling(data, tmp_path, io):
    out = tmp_path / "run"
    words = training(data, out, "--method", "three_stage", "method.stages=2", "--devices", "cpu:2")
    assert popen(io, [sys.executable, "-m", "fewmask", *words]).wait(200) == 0, (io / "stderr").read_text()
    made = json.loads((out / "rounds/1-stage-2/pseudo/manifest.json").read_text())
    assert made["images"] == 12 == len(list((out / "rounds/1-stage-2/pseudo").rglob("*.png")))
    assert sum(made["kept"]) == 12 * 12 * 16
    assert metrics_of(out)["steps"] == STEPS and (io / "stderr").read_text().count("round 2 of 2") == 1


def test_two_processes_select_what_one_does(data, tmp_path, io):
    """The same network labels again, alone: the thresholds, the random drop and every byte of the labels are equal."""
    out = tmp_path / "run"
    words = training(data, out, *VARIANTS["dars"], "--devices", "cpu:2")
    assert popen(io, [sys.executable, "-m", "fewmask", *words]).wait(200) == 0, (io / "stderr").read_text()
    labels = out / "rounds/1-dars-1/pseudo"
    together = content(labels)
    assert len([p for p in together if p.suffix == ".png"]) == 7
    made = json.loads((labels / "manifest.json").read_text())
    assert sum(made["kept"]) < sum(made["reached"]) < sum(made["predicted"]), "thresholds and the drop have a say"
    for folder in ("1-dars-1", "2-dars-2"):
        shutil.rmtree(out / "rounds" / folder)
    (out / "metrics.json").unlink()
    ended = good(run(io, training(data, out, *VARIANTS["dars"])))
    assert "round 1 of 3" not in ended.stderr and content(labels) == together
