"""Before step 0: read and check the data, fill the recipe, claim the run folder. All of it on the first process."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from fewmask.config import dump_yaml
from fewmask.data.bands import are_coloured, channels
from fewmask.data.check import remarks
from fewmask.data.declared import read_mapping
from fewmask.data.index import DataIndex, Pools, manifest_hash
from fewmask.data.scan import Scan
from fewmask.data.sizes import input_size
from fewmask.data.stream import plan_slots
from fewmask.engine.determinism import is_deterministic
from fewmask.engine.files import write_atomic, write_json
from fewmask.engine.launch import placement
from fewmask.engine.precision import Format
from fewmask.errors import CheckpointError, ConfigError
from fewmask.method import Method, Round, Task
from fewmask.methods import resolve
from fewmask.nets import statistics
from fewmask.recipe import FREE, Recipe
from fewmask.run.data import Data, read_data
from fewmask.run.environment import check_weights, environment, warn_of_differences
from fewmask.run.fill import fill, tell_of_classes
from fewmask.run.fingerprint import fingerprint, told
from fewmask.run.folder import RunFolder
from fewmask.run.layout import choose_layout
from fewmask.run.notes import Say
from fewmask.supervision import Supervision

_TOLD = 5  # doubts about the data that are said


@dataclass(frozen=True)
class Fold:
    """What a fold differs in from its run.

    Attributes:
        index: the data set; its "val" are the images of the fold.
        pools: without these, and without what belongs to them.
        task: of the images that are left.
        manifest: what data.yaml of the fold holds.
    """

    index: DataIndex
    pools: Pools
    task: Task
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """What every process needs to train; sent from the first one to the others.

    Attributes:
        recipe: with everything chosen that was left open.
        folder: the run folder.
        index: the data set, with classes.
        pools: what may be learned from.
        task: what the method may know.
        layout: precision and memory format.
        manifest: what data.yaml of the run holds.
        largest: (height, width) of the largest picture that will be predicted, at the network's input.
        fingerprint: what the choices rest on.
        plan: what plan.json of a new run holds; None = it has none.
        folds: of a run that is cross-fitted.
        twins: names of images that show the same, in sets.
        weights: what the encoder comes from, {"source", "sha256"}; None = it is drawn.
        upright: the delivered model turns photos as their EXIF orientation says: as it is declared, or since no image
            that was looked at carries one, so that nothing was decided.
    """

    recipe: Recipe
    folder: Path
    index: DataIndex
    pools: Pools
    task: Task
    layout: Format
    manifest: dict[str, Any]
    largest: tuple[int, int] = (1, 1)
    fingerprint: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    folds: tuple[Fold, ...] = ()
    twins: Sequence[Sequence[str]] = ()
    weights: dict[str, str] | None = None
    upright: bool = False

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel that networks see, in 0..1."""
        bands = self.index.images.bands
        return statistics(channels(bands), are_coloured(bands))


def prepare(
    asked: Recipe, folder: RunFolder, say: Say, like: RunFolder | None = None, timed: bool = False
) -> Prepared:  # fmt: skip
    """Check everything that can be checked before networks are built; nothing is written.

    Args:
        asked: the recipe as given.
        folder: claimed (locked) by this process.
        say: receives one sentence for each decision.
        like: a run whose folds, and whose choice of unlabelled images, a new run takes over.
        timed: the steps are chosen later, to fit a time.

    Raises:
        DataError: the data are unusable.
        ConfigError: the recipe is.
        CheckpointError: the folder's run has another configuration or other data.
    """
    if folder.started:
        folder.check_same(asked)
    data = read_data(asked, say, folder if folder.started else like)
    index, pools, counts = data.index, data.pools, data.counts
    manifest = _manifest(data, asked)
    if asked.data.unlabelled != "none":
        pools = replace(pools, partial=tuple(i.as_partial() for i in pools.labelled if counts.open_of(i)))
    if folder.started:
        _check_data(manifest, folder)
        warn_of_differences(folder.environment, placement(asked.machine.devices), say)
        recipe = folder.recipe()
        # what may differ is as asked now, where it was said
        said = {key: getattr(asked.machine, key) for key in FREE if key in asked.machine.model_fields_set}
        recipe = recipe.replace("machine", **{key: value for key, value in said.items() if value is not None})
    else:
        notes, doubts = remarks(index, counts)
        manifest |= {"notes": notes, "doubts": doubts}
        for doubt in doubts[:_TOLD]:
            say(f"doubt: {doubt}")
        if len(doubts) > _TOLD:
            say(f"doubt: and {len(doubts) - _TOLD} more: {shlex.join(['fewmask', 'check', *asked.data.words])}")
        say(told(fingerprint(index, pools, counts)))
        recipe = fill(asked, pools, counts, say, timed).model_copy(update={"folds": max(1, len(data.folds))})
        _tell_of_repeats(recipe, pools, say)
        if (parts := recipe.train.accumulate) > 1:
            say(f"accumulate: each step in {parts} parts, BatchNorm and what losses divide by are a part's own")
    pools = _partial_for(recipe, pools, say)
    data = replace(data, pools=pools)
    task = _task(data)
    if not folder.started:
        tell_of_classes(recipe, task, say)
    _check_weights(recipe, task)
    _check_batches(recipe, task, pools)
    beside = Path(recipe.baseline).parent if isinstance(recipe.baseline, str) else folder.path.parent
    layout, weights = choose_layout(recipe, len(index.classes), channels(index.images.bands), beside)
    say(f"precision: {layout.why}")
    if folder.started:
        check_weights(folder.environment, weights)
    recipe = recipe.replace("machine", precision=layout.precision, channels_last=layout.channels_last)
    seen = fingerprint(index, pools, counts)
    largest, folds = _largest(recipe, counts), _each_fold(data, asked) if recipe.cross_fitted else ()
    return Prepared(
        recipe, folder.path, index, pools, task, layout, manifest, largest, seen, folds=folds, weights=weights,
        twins=data.twins, upright=index.images.upright or (index.exif is None and not counts.tagged),
    )  # fmt: skip


def _task(data: Data) -> Task:
    """Return what a method may know: how often each class is among the labelled pixels."""
    counts = data.counts.counts[data.counts.rows(data.pools.labelled), : len(data.index.classes)]
    return Task.of(counts.sum(axis=0).tolist())


def _each_fold(data: Data, asked: Recipe) -> tuple[Fold, ...]:
    parts = [data.fold(n) for n in range(1, len(data.folds) + 1)]
    return tuple(Fold(part.index, part.pools, _task(part), _manifest(part, asked)) for part in parts)


def _partial_for(recipe: Recipe, pools: Pools, say: Say) -> Pools:
    """Return the pools with the images that are labelled in part where the method learns from the rest of them."""
    if not pools.partial:
        return pools
    many = f"{len(pools.partial)} of {len(pools.labelled)} labelled images are labelled in part"
    if resolve(recipe.method_name).partial:
        say(f"{many}: their other pixels join the unlabelled images")
        return pools
    say(f"{many}: {recipe.method_name} does not learn from their other pixels")
    return replace(pools, partial=())


def _largest(recipe: Recipe, counts: Scan) -> tuple[int, int]:
    """Return the size of the largest picture, of whatever role: rounds predict unlabelled ones too."""
    sizes = {(height, width) for height, width in counts.sizes.tolist() if height}
    return max((input_size(recipe.data.resize, size) for size in sizes), key=lambda size: (size[0] * size[1], size))


def confirm(asked: Recipe, folder: RunFolder, say: Say) -> None:
    """Check that a finished run is the one that was asked for.

    Raises:
        CheckpointError: it has another configuration or other data.
    """
    folder.check_same(asked)
    _check_data(_manifest(read_data(asked, say, folder), asked), folder)


def begin(prepared: Prepared) -> None:
    """Write data.yaml, environment.json and config.yaml, unless a run is continued.

    Called when networks, weights and devices have proved to be there: what fails before leaves no run behind, whose
    configuration would stand in the way of the corrected command.
    """
    folder, recipe = RunFolder(prepared.folder), prepared.recipe
    if not folder.started:
        folder.path.mkdir(parents=True, exist_ok=True)  # an arm's, inside the run's folder
        write_atomic(folder.data, dump_yaml(prepared.manifest))
        here = placement(recipe.machine.devices)
        place = {"accelerator": here.accelerator, "processes": here.world}
        more = {"deterministic": is_deterministic(here.accelerator), "weights": prepared.weights,
                "timed": prepared.layout.timed}  # fmt: skip
        write_json(folder.environment, environment() | place | more)
        if recipe.data.unlabelled_by != "random":
            write_json(folder.part, [item.name for item in prepared.pools.unlabelled])
        if prepared.plan is not None:
            write_json(folder.plan, prepared.plan)
        # last: a folder with config.yaml is a run that can be continued
        write_atomic(folder.config, dump_yaml(recipe.complete()))


def _check_batches(recipe: Recipe, task: Task, pools: Pools) -> None:
    """Divide the batches among the processes that there will be: before these are started, and for the first one."""
    method = resolve(recipe.method_name)(recipe.constants(), task)
    steps_of(method.rounds(), recipe.train.steps)
    world = placement(recipe.machine.devices).world
    for own, one in parts_of(recipe, method):
        plan_slots(one.streams, pools, own.data.batch, own.data.unlabelled_batch, 0, world, own.train.accumulate)


def parts_of(recipe: Recipe, method: Method) -> list[tuple[Recipe, Method]]:
    """Return what is trained one after the other, each with its recipe, but for the steps; one part without rounds."""
    return [(recipe_of(recipe, one), one.method) for one in method.rounds()] or [(recipe, method)]


def recipe_of(recipe: Recipe, one: Round) -> Recipe:
    """Return the recipe of a round, but for its steps: its rate, its batch, its scales."""
    scale = recipe.data.augment.scale
    if one.scale != (1.0, 1.0):  # of values to choose from, too, the smallest and the largest move
        low, high = min(scale), max(scale)
        scale = (low * one.scale[0], *(value for value in scale if low < value < high), high * one.scale[1])
    augment, batch = recipe.data.augment.model_copy(update={"scale": scale}), one.batch or recipe.data.batch
    return recipe.replace("data", augment=augment, batch=batch).replace("optim", lr=recipe.optim.lr * one.rate)


def steps_of(rounds: Sequence[Round], total: int) -> list[int]:
    """Divide the steps of a run among its rounds; without any it is one.

    Raises:
        ConfigError: there are fewer steps than rounds.
    """
    if not rounds:
        return [total]
    ends = [round(total * share) for share in accumulate(r.share for r in rounds)]
    ends[-1] = total  # shares that a person writes sum to nearly 1
    steps = [end - start for start, end in pairwise([0, *ends])]
    if min(steps) < 1:
        raise ConfigError(
            f"{total} steps are too few for {len(rounds)} rounds", where="train.steps", todo="train longer"
        )
    return steps


def _tell_of_repeats(recipe: Recipe, pools: Pools, say: Say) -> None:
    """Say where a batch is larger than its pool: an image then stands in it several times, each time another view."""
    batches = {"labelled": recipe.data.batch, "unlabelled": recipe.data.unlabelled_batch}
    for kind, batch in batches.items():
        count = len(getattr(pools, kind))
        if 0 < count < batch and not (kind == "unlabelled" and recipe.method_name == "supervised"):
            say(f"{count} {kind} images are fewer than a batch of {batch}: some stand in it twice, as different views")


def _check_weights(recipe: Recipe, task: Task) -> None:
    """Find class weights that do not fit the classes before step 0, not in it."""
    sup = getattr(recipe.constants(), "sup", None)
    if isinstance(sup, Supervision):
        try:
            sup.weights(task)
        except ValueError as error:
            raise ConfigError(str(error), where="method.sup.class_weights", todo="give one weight a class") from error


def _manifest(data: Data, asked: Recipe) -> dict[str, Any]:
    index, pools, counts = data.index, data.pools, data.counts
    skip = asked.data.on_bad_unlabelled == "skip" and not pools.digest
    may_break = {i.name for i in pools.unlabelled} if skip else ()
    labelled = counts.counts[counts.rows(pools.labelled)].sum(axis=0)
    truth = counts.counts[counts.rows([*pools.labelled, *index.items["val"], *index.items["test"]])]
    return {
        "root": str(index.root), "place": str(index.root.resolve()), "layout": index.layout,
        "classes": list(index.classes),
        "labelled": len(pools.labelled), "unlabelled": len(pools.unlabelled),
        "val": len(index.items["val"]), "test": len(index.items["test"]),
        "data_hash": manifest_hash(index, may_break=may_break), "split_hash": pools.hash(),
        "pixels_hash": hashlib.sha256(counts.counts.tobytes()).hexdigest()[:16],
        "truth_hash": hashlib.sha256(truth.tobytes()).hexdigest()[:16],  # without unlabelled images
        "labelled_pixels": {name: int(n) for name, n in zip(index.classes, labelled, strict=False)},
        "labelled_names": [i.name for i in pools.labelled],
        **({"declared": _noted(Path(asked.data.data_yaml))} if asked.data.data_yaml is not None else {}),
        **({"channels": [band.told() for band in index.images.bands]} if index.images.bands else {}),
        **({"set_aside": counts.aside} if counts.aside else {}),
        **({"folds": [list(names) for names in data.folds]} if data.folds else {}),
        **({"val_names": [i.name for i in index.items["val"]]} if index.drawn else {}),
    }  # fmt: skip


def _noted(file: Path) -> dict[str, Any]:
    """Return what a run notes of a file in place of the folder's data.yaml: later commands need it no more."""
    return {"file": str(file.resolve()), "keys": read_mapping(file)}


def _check_data(now: dict[str, Any], folder: RunFolder) -> None:
    then = folder.manifest()
    keys = ("classes", "labelled", "unlabelled", "val", "test", "data_hash", "split_hash", "pixels_hash")
    diff = [f"{k}: {then.get(k)!r} in the run, {now[k]!r} now" for k in keys if then.get(k) != now[k]]
    said, says = (tree.get("declared", {}).get("keys", {}) for tree in (then, now))
    if said != says:
        changed = sorted(str(key) for key in said.keys() | says.keys() if said.get(key) != says.get(key))
        diff.append(f"{', '.join(changed)} in {now['declared']['file']}")
    if diff:
        raise CheckpointError(
            f"the data have changed since the run began: {'; '.join(diff[:3])}", where=folder.path,
            todo=f"start another run from its networks: --out NEW --init {folder.path}",
        )  # fmt: skip
