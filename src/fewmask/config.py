"""Base of every configuration section, and the YAML that configurations are written in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

MAX_BYTES = 10_000_000
"""Largest YAML text that is parsed; keeps a hostile file from being parsed for hours."""


class Config(BaseModel):
    """A frozen section of a recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def load_yaml(text: str | bytes, most: int = MAX_BYTES) -> Any:
    """Return plain data: no tags that build objects, no aliases (a small file could become huge), no repeated keys.

    Args:
        text: the YAML; bytes are UTF-8.
        most: bytes or characters that are parsed at most.

    Raises:
        ValueError: it is larger, no YAML, or not plain; its text is one line.
    """
    if len(text) > most:
        raise ValueError(f"larger than {most} bytes")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split()) or "nested too deeply") from error


def load_json(text: str | bytes) -> Any:
    """Return what a JSON file of somebody else holds.

    Raises:
        ValueError: it is no JSON, no UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dump_yaml(tree: Any) -> str:
    """Return YAML that ``load_yaml`` reads back: keys in their order, nothing written as an alias of something else."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            keys = Counter(self.construct_object(key, deep=True) for key, _ in node.value)
            twice = keys.most_common(1)[0][0]
            raise yaml.YAMLError(f"key {twice!r} stands there twice, line {node.start_mark.line + 1}")
        return mapping


def _number(construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a constructor that leaves 1:30:00 a text, which YAML 1.1 takes for a number to the base of 60."""

    def made(loader: Any, node: Any) -> Any:
        text = loader.construct_scalar(node)
        return text if ":" in text else construct(loader, node)

    return made


_Loader.add_constructor("tag:yaml.org,2002:int", _number(yaml.SafeLoader.construct_yaml_int))
_Loader.add_constructor("tag:yaml.org,2002:float", _number(yaml.SafeLoader.construct_yaml_float))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True
