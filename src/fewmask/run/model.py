"""A delivered model: what ``RUN/model`` holds, ready to predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from fewmask.data.masks import read_image
from fewmask.engine.infer import PROTOCOLS, as_logits, image_logits, normalise
from fewmask.errors import CheckpointError
from fewmask.nets import build
from fewmask.nets.options import OPTIONS
from fewmask.nets.weights import read_weights


class Model:
    """One network with everything needed to predict; see ``Model.load``.

    Attributes:
        config: content of config.json.
        classes: names of the classes.
        ids: the id that the user's mask files use for each class.
    """

    def __init__(self, net: torch.nn.Module, config: dict[str, Any], device: torch.device) -> None:
        self.net, self.config, self.device = net.to(device).eval(), config, device
        self.classes: list[str] = config["classes"]
        self.ids: list[int] = config["ids"]
        self.mean = torch.tensor(config["mean"], device=device)
        self.std = torch.tensor(config["std"], device=device)

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
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError("no delivered model here", where=folder, todo="give a finished run") from error
        options = {name: config.get(name) for name in OPTIONS}  # a model older than one of them was built without it
        net = build(config["arch"], config["encoder"], len(config["classes"]), weights="none", **options)
        tensors = read_weights(folder / "model.safetensors")
        try:
            net.load_state_dict(tensors)
        except RuntimeError as error:
            raise CheckpointError(
                "model.safetensors does not fit config.json", where=folder, todo="the folder was changed: train again"
            ) from error
        name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return cls(net, config, torch.device(name))

    @torch.no_grad()
    def probabilities(self, image: np.ndarray | Path | str, temperature: float = 1.0) -> np.ndarray:
        """Return class probabilities float32 [K, H, W] on the image's own grid.

        Args:
            image: a file, or uint8 RGB [H, W, 3], of any size.
            temperature: divides the logits before the softmax.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(Path(image))
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        if self.config["resize"] is not None:
            tensor = TF.resize(tensor, list(self.config["resize"]), antialias=True)
        protocol = PROTOCOLS[self.config["protocol"]]
        scores: Tensor = image_logits(self.net, normalise(tensor, self.mean, self.std, self.device), protocol)
        scores = F.interpolate(scores, pixels.shape[:2], mode="bilinear", align_corners=False)
        return (as_logits(scores, protocol) / temperature).softmax(1)[0].cpu().numpy()

    def predict(self, image: np.ndarray | Path | str) -> np.ndarray:
        """Return class indices uint8 [H, W] on the image's own grid; see ``probabilities``."""
        return self.probabilities(image).argmax(0).astype(np.uint8)
