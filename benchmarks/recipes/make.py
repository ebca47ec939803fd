"""From ``tables.yaml`` to the text of every file below ``recipes/``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fewmask.config import Config
from fewmask.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[2]
TABLES = Path(__file__).with_name("tables.yaml")
NOT_RUN = "not run"

Settings = dict[str, Any]
"""Recipe keys, dotted, to values; None takes a weaker setting back."""


class Family(Config):
    """A data set and how it is divided: ``recipes/<family>/``.

    Attributes:
        title: of the data set.
        word: what stands for its folder in commands.
        about: which folder that is.
        scored: the role whose mIoU the header gives.
        settings: recipe keys.
    """

    title: str
    word: str
    about: str
    scored: str = "val"
    settings: Settings


class Network(Config):
    """A network that the rows of a table differ in.

    Attributes:
        title: for the first line.
        settings: recipe keys.
    """

    title: str
    settings: Settings


class Row(Config):
    """A row of a table: one method, on every network and split for which there is a number.

    Attributes:
        method: registry name.
        name: of the file, before the network; by default the method.
        title: for the first line.
        table: where the paper has the numbers; may differ between networks.
        targets: network to the paper's mIoU for each split; None = none there. Without, the file names no network.
        ours: measured scores, in words, for each split (under the network where there are some).
        time: hardware and time of those.
        hardware: of the paper or its code, where it is not the block's.
        init: name of the row whose run this one starts from.
        steps, iterations: where they are not the block's.
        settings: recipe keys.
        notes: what was read how.
    """

    method: str
    name: str = ""
    title: str
    table: str | dict[str, str] = ""
    targets: dict[str, list[float | None]] | None = None
    ours: list[str | None] | dict[str, list[str | None]] = []
    time: str = NOT_RUN
    hardware: str = ""
    init: str = ""
    steps: int | None = None
    iterations: list[int] | None = None
    settings: Settings = {}
    notes: list[str] = []


class Block(Config):
    """Rows that share data, schedule and optimiser.

    Attributes:
        family: key of the families.
        labelled: number of labelled images to the list that names them, or to an amount.
        rows: the rows.
        paper: whose tables.
        lists: where the lists come from.
        weights: what the command's ``--weights`` takes; "" = it has none.
        tail: ends the first line of files that name no network.
        epochs, iterations: their product are the steps, for each split.
        hardware: of the paper or its code.
        settings: recipe keys.
        notes: what was read how.
    """

    family: str
    labelled: dict[int, str]
    rows: list[Row]
    paper: str = ""
    lists: str = ""
    weights: str = ""
    tail: str = ""
    epochs: list[int] | None = None
    iterations: list[int] | None = None
    hardware: str = ""
    settings: Settings = {}
    notes: list[str] = []


class Tables(Config):
    """The whole file."""

    families: dict[str, Family]
    networks: dict[str, Network]
    blocks: list[Block]


@dataclass(frozen=True)
class Cell:
    """One number of a table: one file.

    Attributes:
        tables: the whole file.
        block: where it stands.
        row: where it stands.
        network: key of the networks; "" = the block has one.
        split: position among the splits.
    """

    tables: Tables
    block: Block
    row: Row
    network: str
    split: int

    @property
    def family(self) -> Family:
        """Its data set."""
        return self.tables.families[self.block.family]

    @property
    def labelled(self) -> int:
        """Number of labelled images."""
        return list(self.block.labelled)[self.split]

    def file(self, name: str) -> str:
        """Return the path of a row's file for this split and network, below the repository."""
        stem = f"{name}-{self.network}" if self.network else name
        return f"recipes/{self.block.family}/{self.labelled}/{stem}.yaml"

    @property
    def path(self) -> str:
        """Of the recipe, below the repository."""
        return self.file(self.row.name or self.row.method)

    def schedule(self) -> tuple[Settings, str]:
        """Return the steps and how they come about; nothing where the family's settings have them."""
        row, block = self.row, self.block
        iterations = row.iterations or block.iterations
        if row.steps is not None:
            steps, why = row.steps, ""
        elif block.epochs and iterations:
            epochs, each = block.epochs[self.split], iterations[self.split]
            steps, why = epochs * each, f"train.steps: {epochs} epochs of {each} iterations."
        else:
            return {}, ""
        scores = -(-steps // 40)
        return {"train.steps": steps, "train.eval_every": scores, "train.save_every": scores}, why

    def settings(self) -> Settings:
        """Return the recipe keys, the strongest last."""
        out = dict(self.family.settings) | self.block.settings
        if self.network:
            out |= self.tables.networks[self.network].settings
        labelled = list(self.block.labelled.values())[self.split]
        own = {"method.name": self.row.method, "data.labelled": labelled}
        return out | self.schedule()[0] | own | self.row.settings

    def header(self) -> Iterator[str]:
        """Yield the comment's lines, without their sign."""
        family, block, row = self.family, self.block, self.row
        tail = self.tables.networks[self.network].title if self.network else block.tail
        yield f"{family.title}, {self.labelled} labelled images: {row.title}, {tail}"
        command = f"command: fewmask train {family.word} --recipe {self.path}"
        if block.lists:
            command += f" --labelled {self.settings()['data.labelled']}"
        if block.weights:
            command += " --weights WEIGHTS"
        yield command + (" --init RUN" if row.init else "")
        for line in (family.about, block.lists, block.weights):
            yield from _wrapped(f"  {line}" if line else "")
        if row.init:
            yield f"  RUN: the run of {self.file(row.init)}"
        for line in (f"paper: {block.paper}" if block.paper else "", *row.notes, self.schedule()[1], *block.notes):
            yield from _wrapped(line)
        where = row.hardware or block.hardware
        yield f"hardware and time: {row.time}" + (f"; {where}" if where else "")
        yield f"mIoU on {family.scored}: paper: {self._paper()}; ours: {self._ours()}"

    def _paper(self) -> str:
        if self.row.targets is None:
            return "none reports this setting"
        table = self.row.table if isinstance(self.row.table, str) else self.row.table[self.network]
        return f"{self.row.targets[self.network][self.split]:.2f} ({table})"

    def _ours(self) -> str:
        ours = self.row.ours if isinstance(self.row.ours, list) else self.row.ours.get(self.network, [])
        return (ours[self.split] if ours else None) or NOT_RUN

    def text(self) -> str:
        """Return the whole file: the comment, and the recipe as ``fewmask recipes expand`` prints it."""
        recipe = read_recipe(None, self.settings()).complete()
        comment = "".join(f"# {line}\n" for line in self.header())
        return comment + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)


def cells() -> list[Cell]:
    """Return every number of every table, in the order of the file."""
    tables = Tables.model_validate(yaml.safe_load(TABLES.read_text(encoding="utf-8")))
    out = []
    for block in tables.blocks:
        for row in block.rows:
            everywhere: list[float | None] = [0.0] * len(block.labelled)
            for network, targets in (row.targets or {"": everywhere}).items():
                assert len(targets) == len(block.labelled), f"{block.family}, {row.title}, {network}: {targets}"
                out += [Cell(tables, block, row, network, k) for k, v in enumerate(targets) if v is not None]
    return out


def recipes() -> dict[str, str]:
    """Return path below the repository to the text of every recipe."""
    found = cells()
    out = {cell.path: cell.text() for cell in found}
    assert len(out) == len(found), "two cells have one file"
    return out


def _wrapped(line: str) -> list[str]:
    """Break a line of the comment; what continues it is indented."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
