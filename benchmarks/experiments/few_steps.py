"""Hashes of what a few steps of arms make, on the source that PYTHONPATH names; ``same`` runs it on two of them.

    python few_steps.py STEPS FOLDER < recipes    # a complete recipe as JSON a line; a hash a line comes back

It uses no other code of this folder, since the older source has an older one. A method in rounds is trained as a
command would, since its labels are made between the rounds; any other makes its steps at once, and one picture.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewmask.data.stream import to_device
from fewmask.engine.infer import PROTOCOLS, image_logits
from fewmask.engine.launch import launch, leave
from fewmask.methods import resolve
from fewmask.recipe import Recipe
from fewmask.run.execute import execute
from fewmask.run.folder import RunFolder
from fewmask.run.prepare import Prepared, prepare
from fewmask.run.training import dataset_of, learner_of


def _silent(text: str) -> None:
    pass


def hash_of(recipe: Recipe, folder: Path) -> str:
    """Return the hash of networks, optimisers, losses and a picture after a recipe's steps."""
    prepared = prepare(recipe, RunFolder(folder / "none"), _silent)
    method = resolve(recipe.method_name)(prepared.recipe.constants(), prepared.task)
    if method.rounds():
        run = execute(recipe, folder, say=_silent)
        found = [file.read_bytes() for file in sorted(folder.rglob("checkpoints/step-*/*.safetensors"))]
        assert found, folder
        scores = [run.metrics[key] for key in ("val", "test", "predictors")]
        return hashlib.sha256(b"".join([*found, json.dumps(scores).encode()])).hexdigest()
    fabric = launch(recipe.machine.devices, prepared.layout.precision, recipe.machine.rank_timeout)
    try:
        return _trained(prepared, method, fabric)
    finally:
        leave()


def _trained(prepared: Prepared, method: Any, fabric: Any) -> str:
    learner = learner_of(prepared, method, fabric)
    dataset = dataset_of(prepared, method, learner)
    mean, std = (torch.tensor(values, device=fabric.device) for values in prepared.statistics)
    learner.train_mode()
    tensors: list[Tensor] = []
    for t in range(prepared.recipe.train.steps):
        batch = to_device(dataset[t], fabric.device, mean, std, prepared.layout.channels_last)
        terms, _ = learner.update(batch, t)
        tensors += terms.values()
    state = learner.snapshot(prepared.recipe.train.steps, {})
    tensors += [*state.networks.values(), *state.optimisers.values()]
    for net in learner.nets.values():
        net.eval()
    with torch.no_grad(), learner.autocast():
        picture, protocol = batch["l"].weak[:1], PROTOCOLS[prepared.recipe.protocol]
        for name in method.predictors:
            tensors.append(image_logits(lambda x, name=name: method.predict(learner.nets, name, x), picture, protocol))
    digest = hashlib.sha256()
    for x in tensors:
        digest.update(x.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    steps, folder = int(sys.argv[1]), Path(sys.argv[2])
    warnings.simplefilter("ignore")
    for number, line in enumerate(sys.stdin):
        recipe = Recipe.model_validate(json.loads(line))
        train = {"steps": steps, "eval_every": 0, "save_every": steps}
        print(hash_of(recipe.replace("train", **train), folder / str(number)), flush=True)


if __name__ == "__main__":
    main()
