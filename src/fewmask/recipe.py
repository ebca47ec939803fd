"""A recipe: one complete run as data. Flat YAML, validated, no inheritance."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, Field, PositiveInt, ValidationError, field_validator, model_validator

from fewmask.config import Config, load_yaml
from fewmask.data.sizes import Resize, parse_resize, parse_size
from fewmask.data.views import Augment
from fewmask.engine.infer import PROTOCOLS
from fewmask.engine.optim import OptimConfig
from fewmask.engine.train import TrainConfig
from fewmask.errors import ConfigError, did_you_mean
from fewmask.methods import METHODS, resolve
from fewmask.nets.options import OPTIONS

T = TypeVar("T", bound=BaseModel)


class DataConfig(Config):
    """The ``data`` section.

    Attributes:
        dir: the folder of images and masks.
        data_yaml: a file that takes the place of the folder's data.yaml; null = its own, if it has one.
        labelled: N, N%, a fraction such as 1/16, or a list file; none = every mask there is.
        unlabelled: N, a list file, an index file (.jsonl), N:FILE for that many of it, or "none"; none (null) = every
            training image without a usable mask.
        unlabelled_by: which N: "random", "near-labelled" or "diverse".
        outside: the index file may name images outside of its own folder and of ``dir``.
        split_seed: which images a drawn labelled set, or a drawn val set, holds.
        group_by: regular expression, "folder", "names", "time", or a file: images of one group stay together.
        resize: (height, width) of the network's input, or "long:1024": its longer side, the aspect kept; null = native
            sizes.
        crop: (height, width) of training crops; null = chosen from the images.
        batch: labelled images a step, over all processes.
        unlabelled_batch: unlabelled images a step, over all processes.
        on_bad_unlabelled: "stop" before step 0, or "skip" unlabelled images that cannot be read: those found before are
            left out of the pool, and the next image of the order takes the place of one found later.
        allow_leaks: names of images that may stand in two roles; any other picture that does is an error.
        augment: constants of the views.
    """

    dir: str
    data_yaml: str | None = None
    labelled: str | None = None
    unlabelled: str | None = None
    unlabelled_by: Literal["random", "near-labelled", "diverse"] = "random"
    outside: bool = False
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    group_by: str | None = None
    resize: Resize = None
    crop: tuple[int, int] | None = None
    batch: int = Field(default=4, ge=1)
    unlabelled_batch: int = Field(default=4, ge=1)
    on_bad_unlabelled: Literal["stop", "skip"] = "stop"
    allow_leaks: tuple[str, ...] = ()
    augment: Augment = Augment()

    @field_validator("dir", "data_yaml")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        return value and str(Path(value))  # photos/ and ./photos are photos: no reason to refuse to continue

    @property
    def words(self) -> list[str]:
        """The folder, and what takes the place of its data.yaml, as a command line names them."""
        return [self.dir, *(["--data-yaml", self.data_yaml] if self.data_yaml is not None else [])]

    @field_validator("labelled", "unlabelled", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("crop", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return parse_size(value) if isinstance(value, str | int) else value

    @field_validator("resize", mode="before")
    @classmethod
    def _input(cls, value: Any) -> Any:
        return parse_resize(value) if isinstance(value, str | int) else value


class ModelConfig(Config):
    """The ``model`` section.

    Attributes:
        arch: architecture; null = chosen for the machine.
        encoder: encoder; null = chosen for the machine.
        weights: "imagenet", "none", or a .safetensors file of encoder tensors; ``FILE#sha256=…`` takes no other file.
        init: networks to start from instead: a run folder, whose network, resize and protocol count where none is
            given, or a .safetensors file of networks; null = none.
        output_stride: pixels a cell of the encoder's last map, where the architecture can dilate it; null = its own.
        atrous_rates: of ASPP, where the architecture has one; null = its own.
    """

    arch: str | None = None
    encoder: str | None = None
    weights: str = "imagenet"
    init: str | None = None
    output_stride: Literal[8, 16, 32] | None = None
    atrous_rates: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What a network is built with beside names and weights: keyword arguments of ``nets.build``."""
        return {name: getattr(self, name) for name in OPTIONS}


class MachineConfig(Config):
    """The ``machine`` section: where it runs; precision, memory format and determinism change what is computed.

    Attributes:
        devices: "auto", "cpu", "cpu:N" processes, or a number of CUDA devices.
        precision: "auto" probes which of fp32 and bf16 is faster here, in which memory format.
        channels_last: memory format; null = as probed.
        workers: loader processes for each rank; null = chosen for the machine.
        loader_timeout: seconds without a batch after which a loader process is given up; 0 = never.
        rank_timeout: seconds that a process waits for the others of the run before it gives up.
        cache_mb: memory for decoded images, over all loader processes of a rank.
        deterministic: on CUDA only operations that add in a fixed order: slower, and the same bits every time.
    """

    devices: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool | None = None
    workers: int | None = Field(default=None, ge=0)
    loader_timeout: float = Field(default=300, ge=0)
    rank_timeout: float = Field(default=1800, gt=0)
    cache_mb: float = Field(default=1024, ge=0)
    deterministic: bool = False


FREE = ("devices", "workers", "loader_timeout", "rank_timeout", "cache_mb")
"""Keys of the ``machine`` section that change nothing that is computed: a run may be continued with others."""


class Recipe(Config):
    """One complete run.

    Attributes:
        version: of this format.
        data, model, method, optim, train, machine: the sections; ``method`` holds ``name`` and the method's constants.
        protocol: how it is scored.
        baseline: train a matched supervised run beside it, and say whether the unlabelled images helped; or the folder
            of a finished one.
        seeds: how many seeds are trained, from ``train.seed`` on; three or more can show a gain.
        folds: cross-fitting, where the data have no val images: so many parts of the labelled images are scored by
            networks that have not seen them, and one more is trained on all. 1 = a part is held out instead; null =
            chosen from their number.
        halving: with the method "auto": a handful of methods are tried in short runs, and the best is trained; else
            one is chosen from what the data are.
        fold: train one of these alone: 1 to ``folds``, or 0 = on all labelled images, scored on none; null = every one.
    """

    version: Literal[1] = 1
    data: DataConfig
    model: ModelConfig = ModelConfig()
    method: dict[str, Any] = {"name": "auto"}
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    machine: MachineConfig = MachineConfig()
    protocol: str = "whole"
    baseline: bool | str = True
    seeds: int = Field(default=1, ge=1)
    halving: bool = False
    folds: int | None = Field(default=None, ge=1)
    fold: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_of_them(self) -> Recipe:
        if self.fold is not None and not (self.folds is not None and 1 < self.folds >= self.fold):
            raise ConfigError(
                f"fold {self.fold} of {self.folds} folds", where="fold", todo="give folds=3 fold=1, and the like"
            )
        if self.data.resize is not None and PROTOCOLS[self.protocol].native:
            raise ConfigError(
                f"the protocol {self.protocol!r} is of images in their own size, data.resize gives them another",
                where="protocol", todo="leave data.resize out, or take --protocol whole",
            )  # fmt: skip
        if self.train.seed + self.seeds > 2**63:
            raise ConfigError(f"seed {self.train.seed} is too large", where="train.seed", todo="stay below 2**63")
        return self

    @property
    def cross_fitted(self) -> bool:
        """Whether the run trains every fold, and then on all labelled images."""
        return self.folds is not None and self.folds > 1 and self.fold is None

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, value: str) -> str:
        if value not in PROTOCOLS:
            raise ConfigError(f"unknown protocol {value!r}", where="protocol", todo=did_you_mean(value, PROTOCOLS))
        return value

    @property
    def method_name(self) -> str:
        """Registry name or dotted path; "auto" until the data have been seen."""
        return str(self.method.get("name", "auto"))

    def constants(self) -> Config:
        """Return the method's Config with the constants of this recipe.

        Raises:
            ConfigError: unknown method or constant, or a value out of range.
        """
        cls = resolve(self.method_name)
        values = {k: v for k, v in self.method.items() if k != "name"}
        return _validated(cls.Config, values, prefix="method.")

    def replace(self, section: str, **values: Any) -> Recipe:
        """Return a copy with values of one section changed."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})

    def without(self, section: str, key: str) -> Recipe:
        """Return a copy in which nobody has given a key of a section."""
        given = getattr(self, section)
        values = given.model_dump(include=given.model_fields_set - {key})
        return self.model_copy(update={section: type(given)(**values)})

    def complete(self) -> dict[str, Any]:
        """Return plain data with every default filled in, the method's constants too; what config.yaml holds."""
        out = self.model_dump(mode="json")
        if self.method_name != "auto":
            out["method"] = {"name": self.method_name} | self.constants().model_dump(mode="json")
        return out


_MAX_BYTES = 1_000_000  # of a recipe file

SHORT = 20_000
"""Steps below which ``Method.short`` counts; the papers take 40,000 and more."""


def for_its_length(recipe: Recipe) -> Recipe:
    """Return the recipe with the method's constants for short runs, where it is one and says nothing else.

    A complete recipe says everything, one with ``authors_code`` asks for published constants: both stay as they are.
    """
    if recipe.method_name == "auto" or recipe.train.steps >= SHORT or "authors_code" in recipe.method:
        return recipe
    return recipe.model_copy(update={"method": {**resolve(recipe.method_name).short, **recipe.method}})


def read_recipe(file: Path | None, overrides: Mapping[str, Any], settings: Sequence[str] = ()) -> Recipe:
    """Return a recipe from a file, dotted keys that override it, and ``key=value`` words that override both.

    Args:
        file: YAML, or None for the defaults.
        overrides: dotted key to value; entries that are None are left out.
        settings: ``optim.lr=0.01`` and the like; values are read as YAML.

    Raises:
        ConfigError: the file cannot be read; an unknown key (with the nearest known one); a value out of range.
    """
    tree: dict[str, Any] = _read_yaml(file) if file is not None else {}
    for key, value in overrides.items():
        if value is not None:
            _set(tree, key, value)
    for word in settings:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"{word!r} is not key=value", where="command line", todo="write for example optim.lr=0.01"
            )
        try:
            _set(tree, key, load_yaml(text))
        except ValueError as error:
            raise ConfigError(f"the value of {word!r} is not YAML", where=key, todo="quote it") from error
    if isinstance(tree.get("method"), str):
        tree["method"] = {"name": tree["method"]}
    if isinstance(method := tree.get("method"), dict) and method.get("name") == "auto":
        tree.setdefault("halving", True)  # who leaves the method out has not asked for it
    recipe = _validated(Recipe, tree)
    if recipe.method_name != "auto":
        recipe.constants()
    elif recipe.method.keys() - {"name"}:
        raise ConfigError("method constants need a method", where="method.name", todo=f"one of {', '.join(METHODS)}")
    return recipe


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as handle:
            tree = load_yaml(handle.read(_MAX_BYTES + 1), _MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read the recipe ({error.strerror})", where=file, todo="check the path") from error
    except ValueError as error:
        raise ConfigError(f"the recipe is no plain YAML ({error})", where=file, todo="mend the file") from error
    if not isinstance(tree, dict):
        raise ConfigError("the recipe is not a mapping of sections", where=file, todo="see `fewmask recipes`")
    return tree


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, leaf = key.split(".")
    for section in sections:
        if isinstance(tree.get(section), str) and section == "method":
            tree[section] = {"name": tree[section]}
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{section!r} holds a value, not keys", where=key, todo="check the key")
    tree[leaf] = value


def _validated(model: type[T], values: Any, prefix: str = "") -> T:
    """Validate, with pydantic's first complaint reworded: what, at which key, what to do."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = (prefix + ".".join(str(p) for p in first["loc"])).removesuffix(".")
        if first["type"] == "extra_forbidden":
            name = str(first["loc"][-1])
            known = _fields_at(model, first["loc"][:-1])
            raise ConfigError(f"unknown key {key!r}", where="recipe", todo=did_you_mean(name, known)) from error
        if isinstance(inner := first.get("ctx", {}).get("error"), ConfigError):
            raise inner from error
        raise ConfigError(
            f"{key} = {first.get('input')!r}: {first['msg']}", where=key or "recipe", todo="change the value"
        ) from error


def _fields_at(model: type[BaseModel], path: Sequence[Any]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        options = [] if field is None else [field.annotation, *get_args(field.annotation)]
        nested = [o for o in options if isinstance(o, type) and not isinstance(o, types.GenericAlias)]
        model = next((o for o in nested if issubclass(o, BaseModel)), model)
    return list(model.model_fields)
