"""Finished run folders, written without a training: what the report and comparisons read."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser

import numpy as np
import yaml

from fewmask.report.pictures import save_png, side_by_side


def score(matrix, names):
    """Return S of a confusion matrix, worked out here."""
    hit, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = {
        n: None if t == 0 else 100 * h / (t + p - h) for n, h, t, p in zip(names, hit, truth, predicted, strict=True)
    }
    known = [v for v in iou.values() if v is not None]
    return {"miou": math.fsum(known) / len(known), "iou": iou, "pixel_accuracy": 100 * hit.sum() / matrix.sum()}


def matrices(classes, images, skill, seed=0, absent=()):
    """Return a random confusion matrix an image, int64 [N, K, K]; a class is right with a chance around ``skill``."""
    rng = np.random.default_rng(seed)
    prior = 1 / np.arange(1, classes + 1) ** 1.1
    prior[list(absent)] = 0
    right = np.clip(skill + 0.25 * np.sin(7.0 * np.arange(classes)) - 0.3 * np.arange(classes) / classes, 0.02, 0.99)
    wrong = rng.dirichlet(np.full(classes, 0.15), classes) * prior
    np.fill_diagonal(wrong, 0)
    wrong /= wrong.sum(1, keepdims=True) + 1e-12
    wrong[wrong.sum(1) == 0] = prior
    out = np.zeros((images, classes, classes), np.int64)
    for n in range(images):
        # many classes: an image holds a few of them
        there = prior * (rng.random(classes) < (1 if classes < 12 else 0.2))
        there[0] = 1
        own = np.clip(right + rng.normal(0, 0.08), 0.01, 0.995)
        rows = np.eye(classes) * own[:, None] + wrong * (1 - own)[:, None]
        truth = np.rint(there / there.sum() * 172_800)  # does not depend on the skill, as that of real images
        out[n] = np.floor(rows * truth[:, None])
        out[n][np.diag_indices(classes)] += truth.astype(np.int64) - out[n].sum(1)
    return out


def write_evaluation(folder, found, groups=None):
    """Write evaluation.npz of role → matrices [N, K, K]."""
    arrays = {}
    for role, each in found.items():
        names = [f"{role}/{n:03d}" for n in range(len(each))]
        counts = np.stack((np.einsum("nkk->nk", each), each.sum(2), each.sum(1)), 1)
        arrays |= {
            f"{role}_matrix": each.sum(0), f"{role}_names": np.array(names), f"{role}_counts": counts,
            f"{role}_groups": np.array(groups[: len(each)] if groups else [""] * len(each)),
        }  # fmt: skip
    np.savez_compressed(folder / "evaluation.npz", **arrays)


def log_lines(names, method, steps, final, seed=0, pseudo=True, vanished=()):
    """Return the lines of a metrics.jsonl."""
    rng = np.random.default_rng(seed)
    prior = 1 / np.arange(1, len(names) + 1) ** 1.1
    lines = []
    for step in range(10, steps + 1, 10):
        at = step / steps
        line = {"step": step, "lr": 5e-4 * (1 - at) ** 0.9, "sup": 0.3 + 1.2 * math.exp(-5 * at) + 0.2 * rng.random()}
        if method != "supervised":
            line |= {
                "unsup": 0.1 * (1 - math.exp(-3 * at)) + 0.05 * rng.random(),
                "kept": 0.7 * at**0.4 * rng.random() ** 0.1,
            }
            row = prior.copy()
            row[list(vanished)] *= np.exp(-8 * at)
            row *= rng.uniform(0.6, 1.4, len(names))
            line |= {"pseudo": (row / row.sum()).tolist()} if pseudo else {}
        lines.append({**line, "loss": line["sup"] + line.get("unsup", 0), "data_wait": 0.02})
        if step % (steps // 6) == 0:
            iou = dict.fromkeys(names, final * (0.6 + 0.4 * at))
            lines.append({"step": step, "val": final * (0.6 + 0.4 * at**0.5), "val_iou": iou})
    return lines


def recipe(method, seed, steps, **keys):
    """Return a config.yaml; dotted keys are set on top."""
    tree = {
        "version": 1, "data": {"dir": "photos", "labelled": "16", "resize": None, "crop": [96, 128], "batch": 4,
        "unlabelled_batch": 4, "split_seed": 0}, "model": {"arch": "deeplabv3plus", "encoder": "mobilenet_v2",
        "weights": "imagenet", "init": None}, "method": {"name": method} | ({"tau": 0.95} if method == "fixmatch"
        else {}), "optim": {"name": "adamw", "lr": 5e-4, "weight_decay": 0.01}, "train": {"steps": steps,
        "seed": seed}, "machine": {"devices": "auto", "precision": "fp32"}, "protocol": "whole",
    }  # fmt: skip
    for key, value in keys.items():
        section, _, leaf = key.partition("__")
        tree[section][leaf] = value
    return tree


def write_pictures(folder, classes, height=60, width=80, kinds=("best", "median", "worst"), each=3):
    """Write pictures/ with circles as truth and shifted ones as prediction."""
    y, x = np.mgrid[:height, :width]
    for k, kind in enumerate(kinds):
        for n in range(1, each + 1):
            truth = ((np.hypot(y - height / 2, x - width / 2) // (4 + n)) % classes).astype(np.uint8)
            image = np.stack([(4 * x + 30 * n) % 256, 3 * y % 256, np.full_like(x, 90 * k)], -1).astype(np.uint8)
            drawn = side_by_side(image, truth, np.roll(truth, 3 * k + 1, 1))
            save_png(drawn, folder / "pictures" / f"{kind}-{n}-{60 - 20 * k - n}-val_{n:03d}.png")


def write_doubtful(folder, names, shares=(0.31, 0.04)):
    """Write doubtful/: masks called ``names`` of which ``shares`` are disputed, with a picture of each but the last."""
    rows = ["rank,name,score,against,reason"]
    made = folder / "doubtful"
    write_pictures(made, 3, kinds=("best",), each=len(shares) - 1)
    for n, (share, name) in enumerate(zip(shares, names, strict=False), start=1):
        reason = f"the model is sure of another class at {100 * share:.1f}% of the pixels"
        rows.append(f'{n},"{name.replace(chr(34), 2 * chr(34))}",{2 - n},{share},"{reason}"')
        if n < len(shares):
            drawn = next((made / "pictures").glob(f"best-{n}-*"))
            drawn.rename(made / f"{n:04d}-{name.replace('/', '_')}.png")
    (made / "doubtful.csv").write_text("\n".join(rows) + "\n")


def write_run(
    folder, names, *, method="fixmatch", seed=0, steps=1200, skill=0.7, matrix=None, protocol="whole",
    data_hash="d" * 16, labelled=("train/a", "train/b"), new=True, log=True, vanished=(), absent=(), pictures=False,
    metrics=None, environment=None, **keys,
):  # fmt: skip
    """Write a finished run; return its metrics.

    Args:
        folder: made here.
        names: of the classes.
        matrix: confusion matrix of val; drawn with ``skill`` where it is None.
        new: with the keys and files of newer versions.
        metrics: keys of metrics.json on top.
        keys: recipe keys, ``section__key``.
    """
    folder.mkdir(parents=True)
    each = matrices(len(names), 24, skill, 1, absent) if matrix is None else np.asarray(matrix)[None]
    held = matrices(len(names), 12, skill - 0.1, 2)
    val, test = score(each.sum(0), names), score(held.sum(0), names)
    content = {
        "method": method, "seed": seed, "steps": steps, "protocol": protocol, "labelled": len(labelled),
        "unlabelled": 0 if method == "supervised" else 300, "val": val, "test": test,
        "best": {"step": steps // 2, "val": val, "test": test}, "predictors": {"student": val}, "baseline": None,
        "gain": None, "delivered": {"run": "method", "checkpoint": "last"}, "seconds": 1500.0,
        "images_per_second": 8.0, "peak_memory_mb": 1257.4,
    } | ({"interval": {"val": {"low": val["miou"] - 2, "high": val["miou"] + 2, "covers": ["images"]}, "test": None}}
         if new else {}) | (metrics or {})  # fmt: skip
    prior = np.rint(1e6 / np.arange(1, len(names) + 1) ** 1.1)
    manifest = {
        "root": "photos", "classes": list(names), "labelled": len(labelled), "unlabelled": content["unlabelled"],
        "val": 24, "test": 12, "data_hash": data_hash, "split_hash": "5" * 16,
        "labelled_pixels": dict(zip(names, prior.astype(int).tolist(), strict=True)), "labelled_names": list(labelled),
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe(method, seed, steps, **keys), allow_unicode=True))
    (folder / "data.yaml").write_text(yaml.safe_dump(manifest, allow_unicode=True, sort_keys=False))
    (folder / "environment.json").write_text(json.dumps(environment or {
        "fewmask": "0.1.0", "python": "3.11.7", "packages": {"torch": "2.15.0"}, "platform": "Linux", "cpu": "x86_64",
        "cores": 2, "threads": 1, "cuda": None, "command": ["fewmask", "train", "my photos", "--method", method],
    }))  # fmt: skip
    if log:
        lines = log_lines(names, method, steps, val["miou"], seed, new, vanished)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "NEXT_STEPS.txt").write_text(
        "# What people do next; every line can be pasted.\n\n# predict on images of any size\n"
        "fewmask predict runs/x FOLDER_OF_IMAGES -o predictions\n\n"
        "# the validation images with the lowest scores\n#   val/007\n"
    )
    if new:
        groups = [f"video {n // 8}" for n in range(24)]
        write_evaluation(folder, {"val": each, "test": held}, groups if len(each) > 1 else None)
    if pictures:
        write_pictures(folder, len(names))
    return content


def write_compared(
    folder, names, *, vanished=(), absent=(), pictures=True, verdict="helped", skill=0.7, covers=None, seed=0
):
    """Write a run with every new key, and its supervised baseline inside; return the metrics of both."""
    ours = write_run(folder, names, seed=seed, skill=skill, vanished=vanished, absent=absent, pictures=pictures)
    theirs = write_run(
        folder / "baseline",
        names,
        method="supervised",
        seed=seed,
        skill=skill + (0.03 if verdict == "hurt" else -0.03),
        absent=absent,
    )
    change = {
        n: None if v is None else {
            "gain": v - theirs["val"]["iou"][n], "low": v - theirs["val"]["iou"][n] - 1.5 - k % 3,
            "high": v - theirs["val"]["iou"][n] + 1.5 + k % 4,
        }
        for k, (n, v) in enumerate(ours["val"]["iou"].items())
    }  # fmt: skip
    moved = ours["val"]["miou"] - theirs["val"]["miou"]
    low, high = (-0.4 if verdict == "not shown" else moved - 1), moved + 1.2
    start = (
        "Not shown whether the unlabelled images help" if verdict == "not shown" else f"The unlabelled images {verdict}"
    )
    gain = {
        "miou": moved, "low": low, "high": high, "verdict": verdict, "covers": covers or ["images"], "iou": change,
        "text": f"{start}: {moved:+.1f} mIoU over supervised training (95 % interval {low:+.1f} to {high:+.1f}).",
    }  # fmt: skip
    more = {
        "baseline": {"val": theirs["val"], "test": theirs["test"]}, "gain": gain, "baseline_run": "baseline",
        "predictors": {"teacher": ours["val"], "student": theirs["val"]},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(ours | more))
    return ours | more, theirs


def write_seeds(folder, names, seeds=(0, 1, 2), **keys):
    """Write a run of several seeds, each with its supervised baseline, as `train --seeds` leaves it."""
    each, theirs = [], []
    for n in seeds:
        ours, other = write_compared(
            folder / "seeds" / str(n), names, seed=n, pictures=n == seeds[0], skill=0.68 + 0.01 * n, **keys
        )
        each.append(ours)
        theirs.append(other)
    scores = [m["val"]["miou"] for m in each]
    mean = {**each[0]["val"], "miou": float(np.mean(scores))}
    gain = {**each[0]["gain"], "verdict": "helped", "covers": ["images", "seeds"]}
    baseline = {"val": {**theirs[0]["val"], "miou": float(np.mean([m["val"]["miou"] for m in theirs]))}, "test": None}
    content = {k: v for k, v in each[0].items() if k != "interval"} | {
        "seeds": list(seeds), "val": mean, "spread": {"val": float(np.std(scores, ddof=1)), "test": None},
        "gain": gain, "baseline": baseline, "baseline_run": None,
        "delivered": {"run": "method", "checkpoint": "best", "step": 600, "val": max(scores), "seed": seeds[-1]},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(content))
    return content


class Page(HTMLParser):
    """What an HTML file is made of: tags, (tag, name, value) of attributes, and its text."""

    def __init__(self, source: bytes) -> None:
        super().__init__()
        self.tags, self.attributes, self.words, self.source = [], [], [], source.decode()
        self._silent = False
        self.feed(self.source)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self._silent = tag == "style"

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        self.words.append("" if self._silent else data)

    def images(self) -> list[str]:
        return [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]
