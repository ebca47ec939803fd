"""Which part of a large pool of unlabelled images to train on, by what they show: ``--unlabelled-by``.

Each image becomes one vector (``look``) by the pretrained encoder. A vector a pool image is all that is held in memory.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from fewmask.data.bands import channels
from fewmask.data.divide import enough
from fewmask.data.index import Pools
from fewmask.engine.progress import Ticker
from fewmask.errors import ConfigError
from fewmask.nets import DEFAULT_ARCH, build, default_encoder
from fewmask.ops.coreset import k_centre, nearest
from fewmask.recipe import Recipe
from fewmask.run.look import Look
from fewmask.run.notes import Say

RULES = {"near-labelled": nearest, "diverse": k_centre}
"""Rules beside "random"."""


def choose(pools: Pools, number: int, asked: Recipe, say: Say) -> Pools:
    """Return the pools with a part of the unlabelled images, sorted by name.

    Args:
        pools: the labelled images, and all unlabelled ones there are to choose from.
        number: how many.
        asked: the recipe: the rule, and the network whose encoder looks at the images.
        say: receives sentences.

    Raises:
        ConfigError: the encoder has no pretrained weights; more images are asked for than there are.
        DataError: an image cannot be read, unless ``data.on_bad_unlabelled`` is "skip".
    """
    by, model, skip = asked.data.unlabelled_by, asked.model, asked.data.on_bad_unlabelled == "skip"
    if model.weights == "none":
        raise ConfigError(
            f"choosing images {by} looks at them with a pretrained encoder, and weights are none",
            where="data.unlabelled_by", todo="give --weights imagenet or a file, or --unlabelled-by random",
        )  # fmt: skip
    cuda = torch.cuda.is_available() and not asked.machine.devices.startswith("cpu")
    arch = model.arch or DEFAULT_ARCH
    encoder = model.encoder or default_encoder(arch, cuda)
    bands = pools.labelled[0].code.bands
    net = build(arch, encoder, 2, weights=model.weights, channels=channels(bands))
    look = Look(net, torch.device("cuda" if cuda else "cpu"), bands)
    with Ticker("looking at the unlabelled images", say) as tick:
        labelled, _ = look(pools.labelled, skip=False)
        points, places = look(pools.unlabelled, skip, tick)
    lost = len(pools.unlabelled) - len(places)
    if lost:
        say(f"WARNING: {lost} unlabelled images cannot be read and are not chosen from")
    some = RULES[by](points, labelled, enough(number, len(places)))
    chosen = [pools.unlabelled[places[i]] for i in some.tolist()]
    say(f"{number} of {len(places)} unlabelled images, {by}, by the features of {encoder}")
    items = sorted((item.without_mask() for item in chosen), key=lambda item: item.name)
    return replace(pools, unlabelled=tuple(items), digest="")
