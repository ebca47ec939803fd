"""A delivered model: what ``RUN/model`` holds, ready to predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from fewmask.batch import MAX_CLASSES
from fewmask.data.bands import Band, channels
from fewmask.data.findings import BadFile
from fewmask.data.images import picture_pixels, read_image
from fewmask.data.index import ImageCode
from fewmask.data.sizes import input_size
from fewmask.engine.infer import PROTOCOLS, Protocol, as_logits, image_logits, normalise
from fewmask.engine.rows import rows_on_grid
from fewmask.engine.tiles import Windowed, bands
from fewmask.errors import CheckpointError, ConfigError, DataError
from fewmask.nets import build
from fewmask.nets.options import OPTIONS
from fewmask.nets.weights import read_weights

Picture = np.ndarray | Image.Image | Path | str
"""An image as it is predicted: uint8 [H, W, C] as ``Model.read`` returns it, what Pillow has opened, or a file."""

_LARGE = 16_000_000  # pixels of an image that is predicted in tiles
_SCORES = 2**27  # scores, of all classes, of an image that is predicted in tiles: half a GiB, of which there are copies
_AT_ONCE = 2**26  # probabilities that are made at once where tiles are none
_TILE = 2048
_LEAST = 512
_BAND = 2**28  # numbers of a band of tiles that is in memory: 1 GiB

Side = Annotated[int, Field(ge=1, le=32768)]
Id = Annotated[int, Field(ge=0, le=65535)]
Deviation = Annotated[float, Field(gt=0)]
OneBand = Annotated[Band, PlainValidator(Band.read)]


class ModelCard(BaseModel):
    """What ``model/config.json`` says; nothing in it is taken on trust, for models are handed on.

    Attributes:
        format: of the folder.
        arch, encoder, output_stride, atrous_rates: what the network is built with.
        classes: names.
        ids: the id that mask files use for each class.
        mean, std: of the channels, in 0..1.
        resize: (height, width) of the network's input, or "long:1024": its longer side, the aspect kept; None = an
            image's own size.
        protocol: how an image becomes a prediction.
        upright: image files are turned as their EXIF orientation says: those of the training data were, or none of them
            carried one.
        channels: the bands that were declared of the training data, as data.yaml spells them; empty = RGB.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    format: Literal[1]
    arch: str
    encoder: str
    output_stride: Literal[8, 16, 32] | None = None
    atrous_rates: tuple[Side, Side, Side] | None = None
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CLASSES)]
    ids: tuple[Id, ...]
    mean: tuple[float, ...]
    std: tuple[Deviation, ...]
    resize: tuple[Side, Side] | Annotated[str, Field(pattern="^long:[1-9][0-9]{0,4}$")] | None
    protocol: str
    upright: bool = False
    channels: tuple[OneBand, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> ModelCard:
        if len(self.ids) != len(self.classes):
            raise ValueError(f"{len(self.ids)} ids for {len(self.classes)} classes")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.protocol!r}")
        if not len(self.mean) == len(self.std) == channels(self.channels):
            count = channels(self.channels)
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations of {count} channels")
        return self

    def image_code(self) -> ImageCode:
        """Return how image files become pixels: of one that has more bands than the network, those it knows."""
        return ImageCode(self.upright, self.channels, colours_only=not self.channels)


class Model:
    """One network with everything needed to predict; see ``Model.load``.

    Attributes:
        card: what config.json says.
        classes: names of the classes.
        ids: the id that the user's mask files use for each class.
    """

    def __init__(self, net: torch.nn.Module, card: ModelCard, device: torch.device) -> None:
        self.net, self.card, self.device = net.to(device).eval(), card, device
        self.classes, self.ids = list(card.classes), list(card.ids)
        self.mean = torch.tensor(card.mean, device=device)
        self.std = torch.tensor(card.std, device=device)

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Model:
        """Read a model folder.

        Args:
            folder: RUN/model.
            device: "auto" takes CUDA where there is one.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            card = ModelCard.model_validate_json((folder / "config.json").read_bytes())
        except OSError as error:
            raise CheckpointError("no delivered model here", where=folder, todo="give a finished run") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise CheckpointError(
                f"config.json of the model is damaged ({'.'.join(map(str, first['loc']))}: {first['msg']})",
                where=folder, todo="copy or train it again",
            ) from error  # fmt: skip
        options = {name: getattr(card, name) for name in OPTIONS}
        inputs = channels(card.channels)
        net = build(card.arch, card.encoder, len(card.classes), weights="none", channels=inputs, **options)
        tensors = read_weights(folder / "model.safetensors")
        try:
            net.load_state_dict(tensors)
        except RuntimeError as error:
            raise CheckpointError(
                "model.safetensors does not fit config.json", where=folder, todo="the folder was changed: train again"
            ) from error
        name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return cls(net, card, torch.device(name))

    def read(self, file: Path | str) -> np.ndarray:
        """Return an image file as uint8 [H, W, C]: RGB, or the bands of the training data; turned as those were.

        Raises:
            DataError: it cannot be read.
        """
        with self.refusing():
            return read_image(Path(file), self.card.image_code())

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Of pixels that are refused say what the model reads: it is finished, and nothing can be declared for it."""
        try:
            yield
        except BadFile as error:
            if error.kind not in ("pixel_format", "transparency"):
                raise
            bands = ", ".join(f"{band.number} ({band.name})" for band in self.card.channels)
            todo = f"this model reads the bands {bands}" if bands else "this model reads opaque 8-bit RGB: convert it"
            raise BadFile(error.kind, error.what, where=error.where, todo=todo, value=error.value) from error

    def pixels(self, image: Picture) -> np.ndarray:
        """Return an image as uint8 [H, W, C], as ``read`` returns a file; what Pillow has opened is read alike.

        Raises:
            DataError: it cannot be read, or is an array of another kind: what its numbers mean is not guessed.
        """
        if isinstance(image, Path | str):
            return self.read(image)
        if isinstance(image, Image.Image):
            with self.refusing():
                return picture_pixels(image, self.card.image_code())
        count = len(self.card.mean)
        if not isinstance(image, np.ndarray):
            what = f"{type(image).__name__} is no image"
        elif image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == count and image.size:
            return image
        else:
            what = f"an array {image.dtype} {list(image.shape)} is no image of {count} channels"
        todo = f"give uint8 [H, W, {count}], values 0 to 255, as Model.read returns it; or a file or a Pillow image"
        raise DataError(what, where="image", todo=todo)

    def views(self, flip: bool = False, scales: Sequence[float] | None = None) -> Protocol:
        """Return the model's protocol with more views of an image, whose probabilities are averaged.

        Args:
            flip: the mirror image too.
            scales: the image in these sizes, 1 = the one that the network was scored at; None = as the protocol says.

        Raises:
            ConfigError: a scale that is not positive.
        """
        protocol = PROTOCOLS[self.card.protocol]
        wanted = protocol.scales if scales is None else tuple(scales)
        try:
            return protocol.but(flip=protocol.flip or flip, scales=wanted)
        except ValidationError as error:
            raise ConfigError(
                f"{list(wanted)} are no scales", where="scales", todo="give positive numbers: 0.75, 1, 1.25"
            ) from error

    def logits(self, image: Picture, protocol: Protocol | None = None) -> Tensor:
        """Return logits float32 [1, K, H, W] on the image's own grid.

        Args:
            image: of any size.
            protocol: how an image becomes a prediction; None = the model's own.

        Raises:
            DataError: see ``pixels``.
        """
        pixels = self.pixels(image)
        ((_, whole),) = self._logits(pixels, protocol, pixels.size * len(self.classes))
        return whole

    @torch.no_grad()
    def _logits(
        self, pixels_HWC: np.ndarray, protocol: Protocol | None, most: int
    ) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
        """Yield (row, logits [1, K, rows, W]) from the top to the bottom, at most so many numbers at once."""
        protocol = PROTOCOLS[self.card.protocol] if protocol is None else protocol
        tensor = torch.from_numpy(np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1)))
        height, width = tensor.shape[1:]
        if self.card.resize is not None:
            tensor = TF.resize(tensor, list(input_size(self.card.resize, (height, width))), antialias=True)
        scores = image_logits(self.net, normalise(tensor, self.mean, self.std, self.device), protocol)
        for row, part in rows_on_grid(scores, (height, width), most):
            yield row, as_logits(part, protocol)

    def probabilities(self, image: Picture, temperature: float = 1.0, protocol: Protocol | None = None) -> np.ndarray:
        """Return class probabilities float32 [K, H, W] on the image's own grid.

        Args:
            image: of any size.
            temperature: divides the logits before the softmax.
            protocol: how an image becomes a prediction, as ``views`` returns it; None = the model's own.

        Raises:
            DataError: see ``pixels``.
        """
        return _softmax(self.logits(image, protocol), temperature)

    def bands(
        self, pixels: Windowed, tile: int | None = None, temperature: float = 1.0, protocol: Protocol | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (row, class probabilities float32 [K, rows, W]) from the top of an image to its bottom.

        Args:
            pixels: uint8 [H, W, C], as an array or as what returns windows of one.
            tile: side of tiles, which share an eighth; None = ``tile_for`` it.
            temperature: divides the logits before the softmax.
            protocol: how an image, or a tile, becomes a prediction, as ``views`` returns it; None = the model's own.
        """
        side = self.tile_for(pixels, protocol) if tile is None else tile
        if side:
            yield from bands(lambda part: self.probabilities(part, temperature, protocol), pixels, side, side // 8)
            return
        whole = self.pixels(np.ascontiguousarray(pixels[slice(None), slice(None)]))
        for row, part in self._logits(whole, protocol, _AT_ONCE):
            yield row, _softmax(part, temperature)

    def tile_for(self, pixels: Windowed, protocol: Protocol | None = None) -> int:
        """Return the side of the tiles that an image is predicted in, 0 = as a whole.

        Above 16 million pixels of the largest scale, or 134 million scores of all classes, a forward pass over the
        whole takes more memory than most machines have. Tiles of wide images with many classes are smaller, since a
        band of them is held across the image's width. A model that resizes its images, or slides a window over them,
        needs no tiles.
        """
        protocol = PROTOCOLS[self.card.protocol] if protocol is None else protocol
        larger = max(1.0, *protocol.scales)
        area = pixels.shape[0] * pixels.shape[1] * larger**2
        large = area > _LARGE or area * len(self.classes) > _SCORES
        whole = self.card.resize is None and protocol.window is None and protocol.long_side is None
        if not (large and whole):
            return 0
        least, held = min(_TILE, _LEAST), _BAND // (len(self.classes) * pixels.shape[1])
        return max(1, int(max(least, min(_TILE, held)) / larger))

    def predict(
        self, image: Picture, tile: int | None = None, *, flip: bool = False, scales: Sequence[float] | None = None
    ) -> np.ndarray:
        """Return class indices uint8 [H, W] on the image's own grid.

        Args:
            image: of any size.
            tile: see ``bands``.
            flip: see ``views``.
            scales: see ``views``.

        Raises:
            ConfigError: a scale that is not positive.
            DataError: see ``pixels``.
        """
        pixels, how = self.pixels(image), self.views(flip, scales)
        return np.concatenate([p.argmax(0).astype(np.uint8) for _, p in self.bands(pixels, tile, protocol=how)])


def _softmax(logits_1KHW: Tensor, temperature: float) -> np.ndarray:
    """Return class probabilities float32 [K, H, W]."""
    logits = logits_1KHW if temperature == 1 else logits_1KHW / temperature  # a copy of what may be large
    return logits.softmax(1)[0].cpu().numpy()
