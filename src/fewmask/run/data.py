"""Which images a run learns from and is scored on: every file that it may open is looked at before step 0."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewmask.data.check import duplicate_images, empty_mask_doubt, leaks
from fewmask.data.datayaml import DataYaml
from fewmask.data.declared import read_data_yaml
from fewmask.data.divide import draw_labelled, parse_part
from fewmask.data.folds import assign, folds_for, hold_out, units_of
from fewmask.data.index import DataIndex, Item, Pools
from fewmask.data.layouts import VAL_FRACTION, read_folder, with_classes, with_val, without_empty_masks
from fewmask.data.scan import Scan, scan
from fewmask.engine.progress import Ticker
from fewmask.errors import CheckpointError, ConfigError, DataError
from fewmask.recipe import Recipe
from fewmask.run.choose import choose
from fewmask.run.folder import RunFolder
from fewmask.run.notes import Say


@dataclass(frozen=True)
class Data:
    """What a run learns from and is scored on.

    Attributes:
        index: the data set.
        pools: of this run.
        counts: a scan of every file that it may open.
        folds: names of the labelled images of each fold; none where there are val images.
        twins: names of images that show the same, in sets.
    """

    index: DataIndex
    pools: Pools
    counts: Scan
    folds: Sequence[Sequence[str]] = ()
    twins: Sequence[Sequence[str]] = ()

    def fold(self, number: int) -> Data:
        """Return what one fold, from 1, learns from and is scored on."""
        index, pools = hold_out(self.index, self.pools, self.folds[number - 1], self.twins)
        return replace(self, index=index, pools=pools)


def read_data(asked: Recipe, say: Say, begun: RunFolder | None = None) -> Data:
    """Look at every file that a run may open.

    Args:
        asked: the recipe.
        say: receives one sentence for each decision.
        begun: the run that is continued: what it chose and left out is not decided again.

    Raises:
        CheckpointError: the continued run has lost what it chose.
        ConfigError: folds where there are val images, or more than there are groups.
        DataError: something is unreadable, or a mask is not what it should be.
    """
    data = asked.data
    recipe = asked if begun is None else asked.model_copy(update={"folds": begun.recipe().folds})
    index, folds = open_folder(recipe, begun)
    for note in index.notes:
        say(note)
    pools = make_pools(index, asked, say, begun)
    _warn_of_seen(index, asked, begun, say)
    if pools.digest:
        say(f"{len(pools.unlabelled)} unlabelled images of {data.unlabelled} are not opened before their turn comes")
    scanned = () if pools.digest else pools.unlabelled
    items: list[Item] = [*pools.labelled, *scanned, *index.items["val"], *index.items["test"]]
    with Ticker("looking at the files") as tick:
        counts = scan(items, len(index.classes) or None, index.code, exif=index.exif, tick=tick)
    if data.on_bad_unlabelled == "skip" and scanned:
        pools, counts = _set_aside(pools, counts, None if begun is None else begun.set_aside, say)
        index = replace(index, items=index.items | {"train": _without(index.items["train"], counts.aside)})
    counts.raise_first()
    same = duplicate_images(index, counts)
    doubts = [empty_mask_doubt(counts, index), *leaks(same, data.allow_leaks)]
    for doubt in doubts:
        if doubt is not None:
            raise DataError(doubt.what, where=doubt.where, todo=doubt.todo)
    twins = [[item.name for _, item in every] for every in same]
    parts = begun.folds if begun is not None else _folds(asked, pools, folds, twins, say)
    found = Data(with_classes(index, counts), pools, counts, parts, twins)
    return found.fold(asked.fold) if asked.fold else found


def open_folder(recipe: Recipe, run: RunFolder | None = None) -> tuple[DataIndex, int]:
    """Return the data set of a recipe with its roles, and the number of folds; 1 = there are val images, or none.

    Where val images are drawn, those of a run remain val, however many masks there are by now: of the run itself, or of
    the one whose networks it starts from.

    Args:
        recipe: names the folder, and how it is divided.
        run: the run of this recipe, if it was begun.

    Raises:
        ConfigError: folds are asked for where there are val images; see also ``read_folder``.
        DataError: see ``read_folder``.
    """
    data = recipe.data
    declared = _declared(recipe, run)
    index = masked_index(
        read_folder(
            Path(data.dir), val_fraction=None, split_seed=data.split_seed, groups=data.group_by, declared=declared
        )
    )  # fmt: skip
    if index.items["val"]:
        if (recipe.folds or 1) > 1:
            raise ConfigError(
                f"{recipe.folds} folds are asked for, and the data have {len(index.items['val'])} val images",
                where="folds", todo="leave --folds away, or take the val images out of that role",
            )  # fmt: skip
        return index, 1
    folds = recipe.folds
    if folds is None and data.labelled is not None:
        folds = 1  # of so many masks there are more to be scored on
    elif folds is None:
        before = _run_before(recipe)
        folds = folds_for(index.labelled, VAL_FRACTION) if before is None else max(1, len(before.folds))
    if folds > 1:
        return index, folds
    train = [item.without_mask() for item in index.items["train"]]  # decoded once: the scan before step 0 knows them
    with Ticker("looking for equal pictures") as tick:
        twins = duplicate_images(index, scan(train, None, index.code, tick=tick))
    together = [[item.name for _, item in same] for same in twins]
    before = run if run is not None and run.data.is_file() else _run_before(recipe)
    kept = set() if before is None else set(before.manifest().get("val_names", ()))
    return with_val(index, VAL_FRACTION, data.split_seed, together, kept), 1


def _declared(recipe: Recipe, run: RunFolder | None) -> DataYaml | None:
    """Return what takes the place of the folder's data.yaml; a run has noted what it said. None = nothing does."""
    noted = run.declared if run is not None and run.data.is_file() else None
    if noted is not None or recipe.data.data_yaml is None:
        return noted
    return read_data_yaml(Path(recipe.data.data_yaml))


def masked_index(index: DataIndex, unmasked: bool = False) -> DataIndex:
    """Return a data set without the masks that its data.yaml calls not annotated: those that hold class 0 only.

    Args:
        index: the data set.
        unmasked: as in ``read_folder``.
    """
    if index.empty_masks != "unlabelled":
        return index
    masked = [i for items in index.items.values() for i in items if i.mask is not None]
    counts = scan(masked, len(index.classes) or None, index.code, images=False)
    return without_empty_masks(index, counts, unmasked)


def _warn_of_seen(index: DataIndex, asked: Recipe, begun: RunFolder | None, say: Say) -> None:
    """Warn where val images were drawn that the networks which a run starts from have learned from."""
    before = None if begun is not None else _run_before(asked)
    if before is None or not index.drawn:
        return
    seen = {i.name for i in index.items["val"]} & set(before.manifest().get("labelled_names", ()))
    if seen:
        _tell_of_seen(before, say)


def _tell_of_seen(before: RunFolder, say: Say) -> None:
    say(f"WARNING: {before.path} has trained on images that are scored here: the scores will be too good")


def _run_before(recipe: Recipe) -> RunFolder | None:
    """Return the run whose networks a run starts from; None where it starts from none, or from a file."""
    folder = RunFolder(recipe.model.init or "")
    return folder if recipe.model.init and folder.data.is_file() else None


def _folds(asked: Recipe, pools: Pools, folds: int, twins: Sequence[Sequence[str]], say: Say) -> list[list[str]]:
    """Put the labelled images into folds; those that the run before has scored stay where they were."""
    if folds == 1:
        return []
    before, old = _run_before(asked), dict[str, int]()
    if before is not None and len(before.folds) == folds:
        old = {name: n for n, names in enumerate(before.folds) for name in names}
    elif before is not None and {i.name for i in pools.labelled} & set(before.manifest().get("labelled_names", ())):
        _tell_of_seen(before, say)
    if asked.folds is None:
        folds = max(2, min(folds, len(units_of(pools.labelled, twins))))
    out = assign(pools.labelled, folds, asked.data.split_seed, twins, old)
    if asked.fold is None:
        sizes = ", ".join(str(len(names)) for names in out)
        say(
            f"no val images: {folds} folds of {sizes} labelled images, each scored by networks that have not seen it, "
            "and the model is trained on all (--folds 1 holds some out instead)"
        )
    return out


def by_fold(run: RunFolder, items: Sequence[Item]) -> list[tuple[Path, Item]]:
    """Return, in a cross-fitted run, labelled images with the model folder of their fold, which has not seen them.

    Args:
        run: a finished run; of several seeds, the one that delivered its model speaks.
        items: labelled images; others than those of the folds are left out.
    """
    if not run.recipe().cross_fitted:
        return []
    run = run.delivering
    fold = {name: k for k, names in enumerate(run.folds, start=1) for name in names}
    return [(run.fold(fold[item.name]).model, item) for item in items if item.name in fold]


def make_pools(index: DataIndex, asked: Recipe, say: Say, begun: RunFolder | None = None) -> Pools:
    """Return the pools: drawn by a seed, read from lists, or chosen by what the images show.

    Args:
        index: the data set.
        asked: the recipe.
        say: receives sentences.
        begun: see ``read_data``.

    Raises:
        CheckpointError: the continued run has lost what it chose.
        ConfigError: amounts, lists or the rule are none, or do not go together.
        DataError: an image that is looked at cannot be read.
    """
    data = asked.data
    if data.unlabelled_by == "random":
        return draw_labelled(index, data.labelled, data.unlabelled, data.split_seed, data.outside)
    part = parse_part(data.unlabelled)
    if part.count is None:
        raise ConfigError(
            f"unlabelled images chosen {data.unlabelled_by} need a number", where="data.unlabelled",
            todo="write --unlabelled 1000, or 1000:FILE for a list or an index file",
        )  # fmt: skip
    pools = draw_labelled(index, data.labelled, part.pool, data.split_seed, data.outside)
    if begun is not None:
        return _chosen(pools, begun)
    return choose(pools, part.count, asked, say)


def _chosen(pools: Pools, begun: RunFolder) -> Pools:
    """Return the pools with the unlabelled images that a run has chosen."""
    names = set(begun.chosen)
    items = tuple(item for item in pools.unlabelled if item.name in names)
    if len(items) != len(names):
        raise CheckpointError(
            f"{len(names) - len(items)} of {len(names)} chosen unlabelled images are gone", where=begun.part,
            todo=f"start another run from its networks: --out NEW --init {begun.path}",
        )  # fmt: skip
    return replace(pools, unlabelled=items, digest="")


def _set_aside(pools: Pools, counts: Scan, aside: Mapping[str, str] | None, say: Say) -> tuple[Pools, Scan]:
    """Leave unlabelled images that cannot be read out of the pool; of a continued run those that it left out before."""
    names = {item.name for item in pools.unlabelled}
    bad = {p.name: p.what for p in counts.problems if p.name in names}
    if aside is None and bad:
        first = next(iter(bad))
        say(f"WARNING: {len(bad)} unlabelled images cannot be read and are left out, such as {first} ({bad[first]})")
    out = bad if aside is None else aside
    # one that went bad since the run began is passed over when its turn comes
    problems = tuple(p for p in counts.problems if p.name not in names)
    kept = _without(pools.unlabelled, out)
    return replace(pools, unlabelled=kept), replace(counts, problems=problems, aside=dict(out))


def _without(items: Sequence[Item], names: Collection[str]) -> tuple[Item, ...]:
    return tuple(item for item in items if item.name not in names)
