"""Reading ``data.yaml``: that of a data folder, or a file that takes its place where nothing can be put there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fewmask.config import load_yaml
from fewmask.data.datayaml import FILE_NAME, DataYaml
from fewmask.data.index import ROLES
from fewmask.errors import ConfigError, did_you_mean

_MAX_BYTES = 1_000_000  # far above any real one; keeps a hostile file from being parsed for hours


def load_data_yaml(root: Path) -> DataYaml | None:
    """Return what ``root/data.yaml`` declares; None where there is no such file.

    Raises:
        ConfigError: it is no plain YAML mapping, repeats a key, or has an unknown key or a wrong value.
    """
    path = root / FILE_NAME
    return declared_by(read_mapping(path), path) if os.path.lexists(path) else None


def read_data_yaml(file: Path) -> DataYaml:
    """Return what a file declares that takes the place of a data folder's own.

    Raises:
        ConfigError: there is no such file; else see ``load_data_yaml``.
    """
    return declared_by(read_mapping(file), file).lying(file.resolve())


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the keys and values of a ``data.yaml`` as they stand there.

    Raises:
        ConfigError: there is no such file, or it is no plain YAML mapping, or repeats a key.
    """
    if path.exists() and not path.is_file():
        raise ConfigError("is no regular file", where=path, todo="remove it, or write a file of that name")
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as e:
        raise ConfigError(f"cannot be read: {e.strerror}", where=path, todo="check the path") from e
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"is larger than {_MAX_BYTES} bytes", where=path)
    try:
        value = load_yaml(raw)
    except ValueError as e:
        raise ConfigError(f"is no valid YAML: {e}", where=path) from e
    if value is None:  # nothing but comments: every key is optional
        return {}
    if not isinstance(value, dict):
        raise ConfigError("is no mapping of keys to values", where=path, todo=_known())
    return value


def declared_by(value: Mapping[Any, Any], path: Path) -> DataYaml:
    """Return what such keys and values declare; that of Ultralytics' tools is understood.

    Args:
        value: as ``read_mapping`` returns it.
        path: what errors name.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    if is_ultralytics(value):
        return _from_ultralytics(value, path)
    try:
        return DataYaml(**{str(key): v for key, v in value.items()})
    except ValidationError as e:
        raise _reworded(e, path) from None


def is_ultralytics(value: Mapping[object, object]) -> bool:
    """Return whether a data.yaml is the one that Ultralytics' tools and Roboflow write."""
    return "names" in value and bool(value.keys() & {"train", "val", "nc", "masks_dir"})


_THEIRS = frozenset({"path", "train", "val", "test", "names", "nc", "masks_dir"})
_OURS = DataYaml.model_fields.keys() - {"version", "images", "masks", "layout"}
"""What may stand beside Ultralytics' keys: an owner who was asked for it writes it into the file that is there."""


def _from_ultralytics(value: Mapping[object, object], path: Path) -> DataYaml:
    """Return what it says in our words: ``masks_dir`` takes the place of "images" in an image's path."""
    ours: dict[str, Any] = {
        str(k): v for k, v in value.items() if k in _OURS and (k != "channels" or not isinstance(v, int))
    }
    for key in map(str, value.keys() - _OURS - _THEIRS):  # other tools add what they like, but no slip of ours
        if close := get_close_matches(key, _OURS, n=1, cutoff=0.8):
            raise ConfigError(f"unknown key {key!r}", where=path, todo=f"did you mean {close[0]!r}?")
    try:
        if "masks_dir" not in value:
            found = DataYaml(**ours).of_polygons(polygon_names(value))  # of which data.layouts.yolo takes care
        else:
            masks, names = value["masks_dir"], value["names"]
            if not isinstance(masks, str) or ".." in Path(masks).parts or not isinstance(names, list | dict):
                what = "masks_dir leads away, or names is no list and no {id: name}"
                raise ConfigError(what, where=path, todo="mend it")
            found = DataYaml(**({"images": "**/images/**", "masks": f"**/{masks}/**", "classes": names} | ours))
    except ValidationError as e:
        raise _reworded(e, path) from None
    return found.placed({role: _entries(value.get(role)) for role in ROLES})


def _entries(value: object) -> tuple[str, ...]:
    return tuple(str(one) for one in (value if isinstance(value, list) else [value]) if one)


def polygon_names(value: object) -> dict[int, str] | None:
    """Return the classes that Ultralytics' data.yaml gives polygons; None where it is none, or has masks."""
    if not isinstance(value, Mapping) or not is_ultralytics(value) or "masks_dir" in value:
        return None
    names = value["names"]
    try:
        return dict(enumerate(map(str, names))) if isinstance(names, list) else {int(i): str(names[i]) for i in names}
    except (ValueError, TypeError):
        return None


def _known() -> str:
    return f"known: {', '.join(DataYaml.model_fields)}"


def _reworded(e: ValidationError, path: Path) -> ConfigError:
    """Return pydantic's first complaint in our words."""
    first = e.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        return ConfigError(f"unknown key {key!r}", where=path, todo=did_you_mean(key, DataYaml.model_fields))
    context, message = first.get("ctx", {}), first["msg"]
    if first["type"] == "value_error":
        message = str(context["error"])
    elif first["type"] == "literal_error":
        message = f"is {first['input']!r}, must be {context['expected']}"
    return ConfigError(f"{key}: {message[:1].lower()}{message[1:]}", where=path)
