"""``data.yaml``: what a folder's owner declares about it where the files alone do not say.

================ ========================================================================================
key              meaning
================ ========================================================================================
version          1
images           may also be an index file, ``index.jsonl``, which names the masks too
layout           the name of a layout, where a folder can be read as two: ``coco``, ``folders``, ``voc``, …
images, masks    a folder, or a glob: ``*`` is any part of a name, ``**`` any folders; an image and a mask
                 belong together where their wildcards match the same text, which is the image's name
roles            ``{train: …, val: …, test: …}``: a glob over names, a ``.txt`` list, or several of them
classes          a list of names (position = id in the mask), or ``{id: name}``; ids of one name are merged
ignore           an id, or several, that do not count; 255 is always one of them unless a class has it
unlabelled_id    an id of pixels that nobody has labelled yet, in masks that are finished in part
colours          ``{"r,g,b": id or class name or ignore}`` for masks that spell classes as colours
groups           a regular expression, ``folder``, ``names``, ``time``, or a file of ``name<TAB>group`` lines
channels         ``rgb``; or a list of bands ``{band: 1, name: red, range: [0, 4095]}``: the number in the file, a name
                 (red, green and blue are shown and changed as colours), and the values that become 0 and 255
exif             ``ignore``: pixels count as stored, whatever the EXIF orientation says; ``apply``: they are turned
                 as it says, and masks were drawn on them so
empty_masks      ``labelled`` or ``unlabelled``: what a mask that holds only class 0 means
================ ========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, PrivateAttr, WithJsonSchema, field_validator

from fewmask.batch import IGNORE, MAX_CLASSES, OPEN
from fewmask.data.bands import MOST, Band, Bands, ordered
from fewmask.data.colours import Colour, parse_colour, spelled
from fewmask.data.index import NO_ID, ImageCode, MaskCode, Role
from fewmask.errors import ConfigError, did_you_mean

FILE_NAME = "data.yaml"
_IGNORE_WORD = "ignore"

_TEXT = {"type": "string"}
_ID = {"type": "integer", "minimum": 0, "maximum": 65535}
_IDS = {"anyOf": [_ID, {"type": "array", "items": _ID}]}
_NAMES = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_CLASSES, "uniqueItems": True}
_CLASSES = {"anyOf": [_NAMES, {
    "type": "object", "propertyNames": {"pattern": "^[0-9]{1,5}$"}, "additionalProperties": _TEXT, "minProperties": 1,
}]}  # fmt: skip
_COLOURS = {
    "type": "object", "propertyNames": {"pattern": "^ *[0-9]{1,3} *, *[0-9]{1,3} *, *[0-9]{1,3} *$"},
    "additionalProperties": {"anyOf": [_ID, _TEXT]}, "minProperties": 1,
}  # fmt: skip
_CHANNELS = {"anyOf": [{"const": "rgb"}, {"type": "array", "minItems": 1, "maxItems": MOST, "items": {
    "type": "object", "required": ["band"], "additionalProperties": False,
    "properties": {
        "band": {"type": "integer", "minimum": 1}, "name": _TEXT,
        "range": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    },
}}]}  # fmt: skip
_ROLES = {
    "type": "object", "propertyNames": {"enum": ["train", "val", "test"]}, "minProperties": 1,
    "additionalProperties": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]},
}  # fmt: skip

Layout = Literal[
    "folders", "beside", "voc", "cityscapes", "ade20k", "camvid", "nnunet", "roboflow", "yolo", "datumaro",
    "huggingface", "coco", "labelstudio",
]  # fmt: skip
LAYOUTS: tuple[str, ...] = get_args(Layout)


def _says(description: str, schema: Mapping[str, Any]) -> WithJsonSchema:
    """Return what the published schema says of a key; what is checked here says more, in sentences."""
    return WithJsonSchema({"description": description, **schema})


class DataYaml(BaseModel):
    """The keys of ``data.yaml``, checked; every one is optional (see the table above)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    images: Annotated[str | None, _says("a folder, a glob, or an index file (.jsonl)", _TEXT)] = None
    masks: Annotated[str | None, _says("a folder or a glob", _TEXT)] = None
    layout: Annotated[
        Layout | None, _says("which layout to read, where a folder has the files of two", {"enum": list(LAYOUTS)})
    ] = None
    roles: Annotated[
        Mapping[Role, tuple[str, ...]] | None,
        _says("for each role a glob over names, a .txt list, or several of them", _ROLES),
    ] = None
    classes: Annotated[
        tuple[str, ...] | Mapping[int, str] | None,
        _says("names (position = id in the mask), or {id: name}; ids of one name are merged", _CLASSES),
    ] = None
    ignore: Annotated[tuple[int, ...], _says("ids that do not count, besides 255", _IDS)] = ()
    unlabelled_id: Annotated[int | None, _says("id of pixels that nobody has labelled yet", _ID)] = None
    colours: Annotated[
        Mapping[Colour, int | str] | None,
        _says('{"r,g,b": id, class name or ignore}: masks spell classes so', _COLOURS),
    ] = None
    channels: Annotated[
        Literal["rgb"] | Bands,
        _says("of the images: rgb and no others, or bands: number in the file, name, values for 0 and 255", _CHANNELS),
    ] = "rgb"
    groups: Annotated[
        str | None, _says("a regular expression, folder, names, time, or a file of name<TAB>group lines", _TEXT)
    ] = None
    exif: Annotated[
        Literal["ignore", "apply"] | None,
        _says("does an EXIF orientation turn the pixels?", {"enum": ["ignore", "apply"]}),
    ] = None
    empty_masks: Annotated[
        Literal["labelled", "unlabelled"] | None,
        _says("what a mask of class 0 alone means", {"enum": ["labelled", "unlabelled"]}),
    ] = None
    _aside: Path | None = PrivateAttr(default=None)
    _polygons: Mapping[int, str] | None = PrivateAttr(default=None)
    _places: Mapping[Role, tuple[str, ...]] = PrivateAttr(default_factory=dict)

    @property
    def aside(self) -> Path | None:
        """The file where it is not the data folder's own; the lists that it names may lie beside it, or anywhere."""
        return self._aside

    @property
    def polygons(self) -> Mapping[int, str] | None:
        """The classes of polygons, where it is the file that Ultralytics' tools write of them."""
        return self._polygons

    @property
    def places(self) -> Mapping[Role, tuple[str, ...]]:
        """Folders and lists of each role, where it is the file of Ultralytics' tools."""
        return self._places

    def placed(self, places: Mapping[Role, tuple[str, ...]]) -> DataYaml:
        """Return the same with folders and lists of each role."""
        other = self.model_copy()
        other._places = {role: entries for role, entries in places.items() if entries}
        return other

    def of_polygons(self, names: Mapping[int, str] | None) -> DataYaml:
        """Return the same with classes of polygons."""
        other = self.model_copy()
        other._polygons = names
        return other

    def lying(self, file: Path) -> DataYaml:
        """Return what a file says that lies elsewhere than in the data folder."""
        other = self.model_copy()
        other._aside = file
        return other

    @field_validator("images", "masks", mode="before")
    @classmethod
    def _place(cls, value: object) -> object:
        if isinstance(value, str) and value.lower().endswith((".json", ".csv")):
            raise ValueError("an index file is JSONL, one object a line; else name a folder or a glob")
        return value

    @field_validator("roles", mode="before")
    @classmethod
    def _patterns(cls, value: object) -> object:
        if not isinstance(value, dict) or not value:
            raise ValueError("write {train: PATTERN, val: PATTERN, test: PATTERN}")
        return {role: [p] if isinstance(p, str) else p for role, p in value.items()}

    @field_validator("classes", mode="plain")
    @classmethod
    def _names(cls, value: object) -> object:
        if isinstance(value, list):
            return check_names(value)
        if not isinstance(value, dict):
            raise ValueError("write a list of names, or {id: name}")
        ids = {_id(key): name for key, name in value.items()}
        check_names(list(dict.fromkeys(ids.values())))
        return ids

    @field_validator("ignore", mode="plain")
    @classmethod
    def _ids(cls, value: object) -> tuple[int, ...]:
        return tuple(_id(v) for v in (value if isinstance(value, list) else [value]))

    @field_validator("unlabelled_id", mode="plain")
    @classmethod
    def _partial(cls, value: object) -> int:
        return _id(value)

    @field_validator("channels", mode="plain")
    @classmethod
    def _channels(cls, value: object) -> object:
        if value == "rgb":
            return value
        if not isinstance(value, list) or not 1 <= len(value) <= MOST:
            raise ValueError(f"write rgb, or a list of 1 to {MOST} bands {{band: 1, name: red, range: [0, 255]}}")
        bands = [Band.read(entry) for entry in value]
        for what in ("number", "name"):
            seen = [getattr(band, what) for band in bands]
            if len(set(seen)) < len(seen):
                raise ValueError(f"two bands have one {what}")
        return ordered(bands)

    @field_validator("colours", mode="plain")
    @classmethod
    def _colour_map(cls, value: object) -> object:
        if not isinstance(value, dict) or not value:
            raise ValueError('write {"r,g,b": class, …}')
        colours = {parse_colour(key): target for key, target in value.items()}
        for key, target in colours.items():
            if isinstance(target, bool) or not isinstance(target, int | str):
                raise ValueError(f"{key} leads to {target!r}, must lead to an id, a class name or ignore")
        if len(colours) < len(value):
            raise ValueError("one colour stands there twice")
        return colours

    def image_code(self) -> ImageCode:
        """Return how image files become pixels."""
        if self.channels == "rgb":
            return ImageCode(self.exif == "apply", colours_only="channels" in self.model_fields_set)
        return ImageCode(self.exif == "apply", self.channels)

    def legend(self, names: tuple[str, ...], where: object) -> tuple[tuple[str, ...], MaskCode]:
        """Return (class names, how masks spell them).

        Args:
            names: classes known from elsewhere (``classes.txt``, or a published layout); may be empty.
            where: what errors name.

        Raises:
            ConfigError: classes, ignore and colours contradict each other.
        """
        ids: dict[int, str] = dict(enumerate(names))
        if self.classes is not None:
            ids = dict(self.classes if isinstance(self.classes, Mapping) else enumerate(self.classes))
        for i in self.ignore:
            if i in ids:
                what = f"ignore: id {i} is also class {ids[i]!r}"
                raise ConfigError(what, where=where, todo="write classes as {id: name}, without that id")
        classes = tuple(dict.fromkeys(ids.values()))
        self._check_partial(ids, len(classes), where)
        code = MaskCode(
            ignore=tuple(sorted(set(self.ignore))),
            mapping=tuple((i, classes.index(name)) for i, name in ids.items()),
            colours=None if self.colours is None else self._colour_ids(self.colours, ids, where),
            unlabelled=self.unlabelled_id,
        )
        return classes, code.plain()

    def _check_partial(self, ids: Mapping[int, str], classes: int, where: object) -> None:
        """Refuse an id of unlabelled pixels that means something else, too: padding and void are never unlabelled."""
        i = self.unlabelled_id
        if i is None:
            return
        other = f"class {ids[i]!r}" if i in ids else "one of ignore" if i in self.ignore else None
        other = "void, as always" if i == IGNORE else other
        if other is not None:
            todo = "give pixels that nobody has labelled yet an id of their own"
            raise ConfigError(f"unlabelled_id: {i} is also {other}", where=where, todo=todo)
        if not ids or classes > OPEN:
            what = f"unlabelled_id needs classes with names, 1 to {OPEN} of them"
            raise ConfigError(what, where=where, todo="write classes, in data.yaml or in classes.txt")

    def _colour_ids(
        self, colours: Mapping[Colour, int | str], ids: dict[int, str], where: object
    ) -> tuple[tuple[Colour, int], ...]:
        by_name = {_IGNORE_WORD: NO_ID} | {name: i for i, name in reversed(ids.items())}
        pairs = []
        for colour, target in colours.items():
            if isinstance(target, str) and target not in by_name:
                what = f"colours: {spelled(colour)} leads to unknown class {target!r}"
                raise ConfigError(what, where=where, todo=did_you_mean(target, by_name))
            stored = target if isinstance(target, int) else by_name[target]
            if ids and stored not in ids and stored not in (NO_ID, IGNORE, *self.ignore, self.unlabelled_id):
                what = f"colours: {spelled(colour)} leads to id {stored}, which is no class and not ignored"
                raise ConfigError(what, where=where, todo="declare it under classes, ignore or unlabelled_id")
            pairs.append((colour, stored))
        return tuple(pairs)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of ``data.yaml``, which is published in ``docs/data.schema.json``."""
    found = DataYaml.model_json_schema()
    for key in found["properties"].values():
        key.pop("default", None)
        key.pop("title", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "data.yaml of fewmask", "type": "object",
        "description": "What the files of a data folder alone do not say; every key is optional.",
        "properties": found["properties"], "additionalProperties": False,
    }  # fmt: skip


def check_names(names: Sequence[object]) -> tuple[str, ...]:
    """Return class names if they are usable ones.

    Raises:
        ValueError: none, too many, repeated, empty, or not text (``no`` and ``1`` are not text in YAML).
    """
    if not 1 <= len(names) <= MAX_CLASSES:
        raise ValueError(f"{len(names)} classes; there must be 1 to {MAX_CLASSES}")
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(f"name {i} is {name!r}, must be one line of text (in quotes, if need be)")
        if name in seen:
            raise ValueError(f"name {i} repeats name {seen[name]}: {name!r}")
        seen[name] = i
    return tuple(str(name) for name in names)


def _id(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
        raise ValueError(f"{value!r} is no id, must be a whole number from 0 to 65535")
    return value
