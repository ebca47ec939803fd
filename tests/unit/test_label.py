"""fewmask.engine.label: a labelling pass writes what the selection says, once, for any number of ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewmask.data.index import Item
from fewmask.engine.evaluate import Pictures
from fewmask.engine.infer import Protocol
from fewmask.engine.label import confident, read_manifest, write_labels
from fewmask.engine.label_pass import Share
from fewmask.errors import CheckpointError, DataError, Interrupted, NonFiniteError
from fewmask.ops.select import Selection, keys
from labelling import CLASSES, RULES, SHARE, guess, in_ranks, label, pool, written
from oracles import select as oracle


@pytest.mark.parametrize("how", RULES, ids=lambda h: f"{h.rule}-{h.drop}")
def test_what_is_written_is_what_the_rule_keeps(how: Selection, tmp_path: Path) -> None:
    items = pool()
    manifest = label(tmp_path, how)
    guesses = [guess(item) for item in items]
    found = written(tmp_path, items)
    flat = np.concatenate([f.ravel() for f in found])
    labels = np.concatenate([v.ravel() for v, _ in guesses])
    confidence = np.concatenate([c.ravel() for _, c in guesses]).astype(np.float16)
    assert ((flat == labels) | (flat == 255)).all()
    assert manifest["kept"] == np.bincount(flat[flat != 255], minlength=3).tolist()
    assert manifest["predicted"] == np.bincount(labels, minlength=3).tolist()
    if how.rule == "none":
        assert (flat == labels).all()
    elif how.drop == "dataset":
        every_key = np.concatenate([keys(3, n, v.size) for n, (v, _) in enumerate(guesses)])
        pixels = [(int(v), float(c)) for v, c in zip(labels, confidence, strict=True)]
        stay = oracle.kept(pixels, [int(k) for k in every_key], how.rule, 40, [50, 20, 30])
        assert ((flat != 255) == stay).all()
    else:  # every image loses its own share, rounded down: at most one pixel a class and image more than wanted
        for kept, wanted in zip(manifest["kept"], manifest["wanted"], strict=True):
            assert wanted <= kept <= wanted + len(items)
    assert not (tmp_path / ".raw").exists()


def test_the_manifest_tells_what_was_done(tmp_path: Path) -> None:
    said: list[str] = []
    manifest = label(tmp_path, Selection("dars", 0.4), source={"sha256": "ab"}, turn=2, say=said.append)
    assert manifest == read_manifest(tmp_path) and json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert manifest["images"] == 7 and manifest["classes"] == list(CLASSES) and manifest["source"] == {"sha256": "ab"}
    assert manifest["select"]["rule"] == "dars" and manifest["turn"] == 2
    total = sum(manifest["predicted"])
    assert manifest["wanted"] == [int(0.4 * total * r) for r in SHARE] == manifest["kept"]
    assert manifest["reached"][0] > manifest["wanted"][0] and 0 <= manifest["divergence"] <= 5e-4
    assert "never" in manifest and manifest["never"] == [] and "%" in said[0]


def test_the_manifest_tells_what_could_not_be_had(tmp_path: Path) -> None:
    """At α = 1 a class that is predicted too rarely wants more pixels than there are: n_j, not min(n_j, ñ_j)."""
    manifest = label(tmp_path, Selection("dars", 1.0))
    total = sum(manifest["predicted"])
    assert manifest["wanted"] == [int(total * r) for r in SHARE]
    assert manifest["kept"] == [
        min(n, reached) for n, reached in zip(manifest["wanted"], manifest["reached"], strict=True)
    ]
    assert any(kept < n for kept, n in zip(manifest["kept"], manifest["wanted"], strict=True))


@pytest.mark.parametrize("how", RULES[:3], ids=lambda h: h.rule)
def test_no_label_is_no_class(how: Selection, tmp_path: Path) -> None:
    """A class has the id 255, as 0/255 masks have: what gets no label gets an id that is free."""
    said: list[str] = []
    plain, spelt = label(tmp_path / "plain", how), label(tmp_path / "spelt", how, ids=(0, 255, 254), say=said.append)
    assert (plain["nothing"], spelt["nothing"]) == (255, 253) and "253 = no label" in said[0]
    for one, other in zip(written(tmp_path / "plain", pool()), written(tmp_path / "spelt", pool()), strict=True):
        assert (np.array([0, 255, 254, *[253] * 253])[one] == other).all()


def test_what_a_killed_pass_left_is_removed(tmp_path: Path) -> None:
    """Killed after the manifest was written, before the raw predictions were removed."""
    label(tmp_path, Selection("dars", 0.4))
    (tmp_path / ".raw").mkdir()
    (tmp_path / ".raw" / "0.bin").write_bytes(b"0")
    label(tmp_path, Selection("dars", 0.4))
    assert not (tmp_path / ".raw").exists()


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "video", tmp_path / ".raw"):
        folder.mkdir(exist_ok=True)
        (folder / ".tmp-4711-01234567").write_bytes(b"half")
    label(tmp_path, Selection("dars", 0.4))
    assert list(tmp_path.rglob(".tmp-*")) == []


def test_a_confidence_that_is_no_number_is_named(tmp_path: Path) -> None:
    """As an fp16 pattern it would be counted as one of another class."""

    def broken(item: Item, least_K: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        predicted, confidence = guess(item)
        confidence[0, 0] = np.nan if item.name == "video/3" else 1.0
        return predicted, confidence

    with pytest.raises(NonFiniteError, match=r"no number; .*3\.png"):
        label(tmp_path, Selection("dars", 0.4), broken)


@pytest.mark.parametrize("names", [("a", "../b"), ("a", "/b"), ("a", "a")])
def test_names_that_would_harm_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    """Of an index file of somebody else: labels are written under the names of the images."""
    items = [Item(name, Path(f"{n}.png")) for n, name in enumerate(names)]
    with pytest.raises(DataError, match=r"leads out of a folder|two images are called 'a'"):
        write_labels(guess, items, tmp_path / "in", Selection("none"), CLASSES)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_relabelled_by_the_largest_ratio(tmp_path: Path) -> None:
    """Two pixels a class are predicted: (0.9, 0.8), (0.6, 0.7). Half of them stay: t = 0.9 and 0.7.

    0.8/0.9 < 0.2/0.7 is wrong, so the second pixel has its largest ratio, 0.889, below 1: no label. The third has
    0.4/0.9 and 0.6/0.7. The fourth, at its threshold in fp16, stays.
    """
    p = np.float32([[0.9, 0.8, 0.4, 0.3], [0.1, 0.2, 0.6, 0.7]])[:, None]

    def predict(item: Item, least_K: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        q = p if least_K is None else p.astype(np.float16).astype(np.float32) / least_K[:, None, None]
        return q.argmax(0).astype(np.uint8), q.max(0)

    found = write_labels(predict, [Item("a", Path("a"))], tmp_path, Selection("cbst", 0.5, relabel=True), ("x", "y"))
    assert written(tmp_path, [Item("a", Path("a"))])[0].tolist() == [[0, 255, 255, 1]] and found["kept"] == [1, 1]
    assert found["least"] == pytest.approx([0.9, 0.7], abs=5e-4)


def test_a_rarer_class_may_win_a_pixel(tmp_path: Path) -> None:
    """Half of four road and of two pole pixels stay: t = (0.9, 0.4). The fifth is 0.5/0.9 road and 0.45/0.4 pole.

    A class that is predicted nowhere, sky, is never a label.
    """
    road, pole = [0.9, 0.95, 0.3, 0.3, 0.5, 0.55], [0.05, 0.05, 0.4, 0.36, 0.45, 0.1]
    p = np.float32([road, pole, [1 - a - b for a, b in zip(road, pole, strict=True)]])[:, None]
    p = np.maximum(p, 1e-6)
    forward = torch.from_numpy(p).log().unsqueeze(0)
    item = Item("a", Path("a"))
    predict = confident(lambda x: forward, reader(torch.zeros(3, 1, 6, dtype=torch.uint8)), Protocol())
    found = write_labels(predict, [item], tmp_path, Selection("cbst", 0.5, relabel=True), CLASSES)
    assert written(tmp_path, [item])[0].tolist() == [[0, 0, 1, 255, 1, 255]]
    assert found["predicted"] == [4, 2, 0] and found["kept"] == [2, 2, 0] and found["least"][2] is None
    with pytest.raises(ValueError, match="belongs to the rule cbst"):
        Selection("st", 0.5, relabel=True)


@pytest.mark.parametrize(("classes", "scale", "seed"), [(3, 3, 19), (150, 5, 6)])
def test_a_pixel_at_the_threshold_of_its_class_keeps_its_label(
    classes: int, scale: int, seed: int, tmp_path: Path
) -> None:
    """Of the n pixels predicted as a class the floor(n/2) most confident ones stay, at least, whatever is rounded.

    With the second draw ``softmax`` rounds a pixel at its threshold down to the next fp16 number.
    """
    z = torch.randn(1, classes, 60, 60, generator=torch.Generator().manual_seed(seed)) * scale
    predict = confident(lambda x: z, reader(torch.zeros(3, 60, 60, dtype=torch.uint8)), Protocol())
    item, names = Item("a", Path("a")), [str(k) for k in range(classes)]
    label, confidence = predict(item)
    found = write_labels(predict, [item], tmp_path, Selection("cbst", 0.5, relabel=True), names)
    least = np.array([np.inf if t is None else t for t in found["least"]], dtype=np.float32)
    surest = confidence.astype(np.float16).astype(np.float32) >= least[label]
    kept = written(tmp_path, [item])[0]
    assert surest.sum() >= sum(n // 2 for n in found["predicted"]) > 100 and (kept[surest] != 255).all()


@pytest.mark.parametrize("how", RULES, ids=lambda h: f"{h.rule}-{h.drop}")
def test_the_number_of_ranks_changes_nothing(how: Selection, tmp_path: Path) -> None:
    alone = label(tmp_path / "one", how)
    together = in_ranks(3, lambda share: label(tmp_path / "three", how, share=share))
    assert all(found == alone for found in together)
    for a, b in zip(written(tmp_path / "one", pool()), written(tmp_path / "three", pool()), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("how", RULES[:3], ids=lambda h: h.rule)
def test_files_may_use_ids_of_their_own(how: Selection, tmp_path: Path) -> None:
    plain, spelt = label(tmp_path / "plain", how), label(tmp_path / "spelt", how, ids=(7, 0, 30))
    assert spelt["kept"] == plain["kept"]
    table = np.full(256, 255, np.uint8)
    table[:3] = (7, 0, 30)
    for a, b in zip(written(tmp_path / "plain", pool()), written(tmp_path / "spelt", pool()), strict=True):
        assert (table[a] == b).all()


class Killed(Exception):
    pass


@pytest.mark.parametrize("how", [Selection("none"), Selection("dars", 0.4)], ids=lambda h: h.rule)
def test_an_interrupted_pass_predicts_no_image_twice(how: Selection, tmp_path: Path) -> None:
    seen: list[str] = []

    def until(stop: int) -> Callable[[Item], Any]:
        def predict(item: Item) -> Any:
            if len(seen) == stop:
                raise Killed
            seen.append(item.name)
            return guess(item)

        return predict

    whole = label(tmp_path / "whole", how)
    with pytest.raises(Killed):
        label(tmp_path / "part", how, until(4))
    assert not (tmp_path / "part" / "manifest.json").exists()
    assert label(tmp_path / "part", how, until(99)) == whole
    assert sorted(seen) == sorted(item.name for item in pool())
    for a, b in zip(written(tmp_path / "whole", pool()), written(tmp_path / "part", pool()), strict=True):
        assert (a == b).all()
    assert label(tmp_path / "part", how, until(0)) == whole  # finished: nothing is predicted


@pytest.mark.parametrize("how", [Selection("none"), Selection("dars", 0.4)], ids=lambda h: h.rule)
def test_asked_to_stop(how: Selection, tmp_path: Path) -> None:
    """After the image that is being predicted; on all ranks, whichever was asked."""
    seen: list[str] = []

    def predict(item: Item) -> Any:
        seen.append(item.name)
        return guess(item)

    with pytest.raises(Interrupted, match="stopped by SIGTERM while labelling"):
        label(tmp_path / "one", how, predict, stop=lambda: "SIGTERM" if len(seen) == 3 else "")
    assert len(seen) == 3
    whole = label(tmp_path / "one", how, predict)
    assert sorted(seen) == sorted(item.name for item in pool())
    assert whole == label(tmp_path / "unbroken", how)

    def rank(share: Share) -> str:
        with pytest.raises(Interrupted) as stopped:
            label(tmp_path / "two", how, share=share, stop=lambda: "SIGINT" if share.rank == 1 else "")
        return stopped.value.what

    assert in_ranks(2, rank) == ["stopped by another process while labelling", "stopped by SIGINT while labelling"]
    assert in_ranks(2, lambda share: label(tmp_path / "two", how, share=share)) == [whole, whole]


def test_what_another_network_left_is_not_continued(tmp_path: Path) -> None:
    def fail_at_3(item: Item) -> Any:
        if item.name.endswith("3"):
            raise Killed
        return np.full((2, 2), 2, np.uint8), np.ones((2, 2), np.float32)

    for how in (Selection("none"), Selection("st", 0.4)):
        folder = tmp_path / how.rule
        with pytest.raises(Killed):
            label(folder, how, fail_at_3, source={"sha256": "old"})
        label(folder, how, source={"sha256": "new"})
        assert [f.shape for f in written(folder, pool())] == [guess(item)[0].shape for item in pool()]


def test_finished_labels_of_another_kind_are_not_written_over(tmp_path: Path) -> None:
    label(tmp_path, Selection("st", 0.4))
    with pytest.raises(CheckpointError, match="another way .select differ"):
        label(tmp_path, Selection("st", 0.5))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="no readable manifest"):
        label(tmp_path, Selection("st", 0.4))


def forward(x: torch.Tensor) -> torch.Tensor:
    """Two classes: logits 0 and the red channel's value."""
    return torch.stack((torch.zeros_like(x[:, 0]), x[:, 0]), 1)


def reader(pixels: torch.Tensor) -> Pictures:
    one = torch.ones(3)
    return Pictures(
        lambda item: pixels, lambda item: pixels[0], torch.zeros(3), one / 255, torch.device("cpu"), nullcontext
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_confidence_is_the_softmax_at_a_temperature(temperature: float) -> None:
    pixels = torch.tensor([0, 1, 3]).view(1, 1, 3).expand(3, 1, 3).to(torch.uint8)
    item = Item("a", Path("a.png"))
    found, confidence = confident(forward, reader(pixels), Protocol(), temperature)(item)
    odds = np.exp(np.array([0, 1, 3]) / temperature)
    assert found.tolist() == [[0, 1, 1]] and found.dtype == np.uint8  # of equals the first class
    assert confidence[0] == pytest.approx(odds / (1 + odds))
    flipped, again = confident(forward, reader(pixels), Protocol(flip=True), temperature)(item)
    assert (flipped == found).all() and again == pytest.approx(confidence)
