"""What ``data.yaml`` could say of a folder as it was read: for a person to edit, and read back as the same data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewmask.config import dump_yaml, load_yaml
from fewmask.data.colours import spelled
from fewmask.data.datayaml import DataYaml, json_schema
from fewmask.data.findings import Finding
from fewmask.data.index import NO_ID, DataIndex, MaskCode
from fewmask.errors import ConfigError, printable


def describe(
    index: DataIndex, declared: DataYaml, groups: str | None = None, questions: Sequence[Finding] = (),
    aside: bool = False,
) -> str:  # fmt: skip
    """Return the text of a ``data.yaml``: every key that says something, under a comment on what it means.

    Args:
        index: with its classes.
        declared: what was declared while it was read.
        groups: the rule that was given instead of a declared one.
        questions: what the owner alone can say; each becomes a comment with the possible answers.
        aside: it will lie elsewhere than in the folder: it may name a file of groups anywhere.

    Raises:
        ConfigError: read back, it would say something else.
    """
    keys: dict[str, Any] = {"version": 1}
    kept = ("layout", "images", "masks", "roles", "exif", "empty_masks")
    keys |= declared.model_dump(mode="json", include=set(kept), exclude_none=True)
    if index.classes:
        keys["classes"] = _classes(index.classes, index.code)
    keys |= _code(index.code)
    if index.images.bands:
        keys["channels"] = [band.told() for band in index.images.bands]
    elif index.images.colours_only:
        keys["channels"] = "rgb"
    if (rule := groups or declared.groups) is not None:
        keys["groups"] = _rule(rule, index.root, aside)
    about = {key: told.get("description") for key, told in json_schema()["properties"].items()}
    asked = "".join(map(_question, questions))
    text = "".join(_comment(about[key]) + dump_yaml({key: value}) for key, value in keys.items())
    again = DataYaml(**load_yaml(text.encode("utf-8", "surrogateescape")))
    classes, code = again.legend((), index.root)
    same = classes == index.classes and _sorted(code) == _sorted(index.code) and again.image_code() == index.images
    if index.classes and not same:
        raise ConfigError(
            f"how the {index.layout} layout spells its masks cannot be said in a data.yaml", where=index.root,
            todo="the folder is read without one",
        )  # fmt: skip
    return text + asked


def _question(one: Finding) -> str:
    what, where, todo = map(printable, (one.what, one.where, one.todo))
    return f"\n# TO SETTLE: {what}\n#   {where}\n#   {todo}\n"


def _classes(names: tuple[str, ...], code: MaskCode) -> list[str] | dict[int, str]:
    """Return the names, by id where the position is not the id; classes keep their order."""
    if code.mapping is None:
        return list(names)
    ids = {i: names[learned] for i, learned in code.mapping}
    if tuple(dict.fromkeys(ids.values())) == names:
        return ids
    return {i: names[learned] for i, learned in sorted(code.mapping, key=lambda pair: (pair[1], pair[0]))}


def _sorted(code: MaskCode) -> MaskCode:
    """The same, comparable: the order of its ids says nothing."""
    return replace(code, mapping=code.mapping and tuple(sorted(code.mapping)))


def _rule(rule: str, root: Path, aside: bool) -> str:
    """Return a group rule as a data.yaml in ``root``, or elsewhere, says it."""
    if not os.path.isfile(rule):
        return rule
    file = Path(rule).resolve()
    if not file.is_relative_to(root.resolve()):
        if aside:
            return str(file)
        raise ConfigError("data.yaml names files below its folder only", where=file, todo="move the file there")
    return file.relative_to(root.resolve()).as_posix()


def _code(code: MaskCode) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    if code.ignore:
        keys["ignore"] = list(code.ignore)
    if code.unlabelled is not None:
        keys["unlabelled_id"] = code.unlabelled
    if code.colours is not None:
        keys["colours"] = {
            spelled(colour).strip('"'): "ignore" if i == NO_ID else i for colour, i in code.colours
        }  # fmt: skip
    return keys


def _comment(about: str | None) -> str:
    return f"# {about}\n" if about else ""
