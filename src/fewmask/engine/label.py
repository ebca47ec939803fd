"""A labelling pass: a network's predictions on a set of images become pseudo-labels on disk.

``FOLDER/<item>.png`` holds class indices, 255 where there is no label; with ids of the user's own that is another id if
a class has 255. ``FOLDER/manifest.json``, written last, says which ("nothing"), and what made the labels. Between its
passes a selection keeps the fp16 confidence and the predicted class, compressed, below ``FOLDER/.raw``; with the labels
that is less than 3 bytes a pixel where classes lie in areas. Images are divided among the ranks, and the result does
not depend on how many there are. An interrupted pass predicts no image
again that it has finished.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.batch import IGNORE
from fewmask.config import load_json
from fewmask.data.index import Item
from fewmask.data.quarantine import check_share
from fewmask.engine.evaluate import Pictures
from fewmask.engine.files import write_json
from fewmask.engine.infer import Forward, Protocol, as_logits, image_logits, normalise
from fewmask.engine.label_pass import ALONE, RAW, Order, Pass, Predict, Share, label_file
from fewmask.errors import CheckpointError, DataError
from fewmask.ops import pseudo
from fewmask.ops.select import Selection


def confident(
    forward: Forward, pictures: Pictures, protocol: Protocol, temperature: float = 1.0
) -> Predict:  # fmt: skip
    """Return a ``Predict`` of one network, on the grid of its input.

    Args:
        forward: the network in evaluation mode.
        pictures: reads images.
        protocol: how an image becomes a prediction.
        temperature: T, divides the logits (log-probabilities, for a window or flip) before the softmax.
    """

    def predict(item: Item, least_K: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        image = normalise(pictures.image(item), pictures.mean, pictures.std, pictures.device)
        with torch.no_grad(), pictures.context():
            z = as_logits(image_logits(forward, image, protocol).float(), protocol)
        z = z / temperature
        if least_K is None:
            confidence, label = pseudo.confidence_and_label(z)
        else:  # not softmax, which rounds otherwise than what the least confidences come from
            p = torch.exp(z - z.logsumexp(1, keepdim=True))
            confidence, label = pseudo.relative(p, torch.from_numpy(least_K).to(z.device))
        return label[0].to(torch.uint8).cpu().numpy(), confidence[0].cpu().numpy()

    return predict


def write_labels(
    predict: Predict, items: Sequence[Item], folder: Path, how: Selection, classes: Sequence[str], *,
    frequency: Sequence[float] | None = None, seed: int = 0, turn: int = 0, source: dict[str, Any] | None = None,
    ids: Sequence[int] | None = None, share: Share = ALONE, say: Callable[[str], None] = lambda text: None,
    stop: Callable[[], str] = lambda: "", skip: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Label a set of images; where that was done before, read what it found.

    Args:
        predict: the labelling network.
        items: all images of the set, on every rank the same.
        folder: made; holds the labels afterwards.
        how: which pixels become pseudo-labels.
        classes: names.
        frequency: r^l, share of each class among the labelled pixels, for "da" and "dars".
        seed: of the random drop.
        turn: which labelling of the run this is; each draws anew.
        source: what names the labelling network; what an interrupted pass of another one left is removed.
        ids: the id that the files use for each class; None = the class index.
        share: this process's part.
        say: told what it takes.
        stop: asked after every image for the name of who wants to stop; "" = nobody.
        skip: pass over images that cannot be read; "unread" of the manifest names them.

    Returns:
        The content of manifest.json.

    Raises:
        CheckpointError: the folder holds labels that were made in another way.
        DataError: two images have one name, or one that leads out of the folder.
        NonFiniteError: the network gives a confidence that is no number.
        Interrupted: somebody wanted to stop, on any rank; what is predicted is kept.
        WriteError: the disk refused.
    """
    order = Order(items, folder, how, classes, seed, turn, source, ids, skip)
    if (manifest := _finished(order, share)) is not None:
        return manifest
    twice = [name for name, times in Counter(item.name for item in items).items() if times > 1]
    if twice:  # two of an index file; one's labels would be taken for those of the other
        raise DataError(f"two images are called {twice[0]!r}", where=folder, todo='give each a "name" of its own')
    job = Pass(predict, order, share, stop)
    job.begin()
    found = job.run(None if frequency is None else np.asarray(frequency, dtype=np.float64))
    manifest = order.made | {"images": len(items), "nothing": job.nothing, **found}
    if job.unread:
        unread = {items[n].name: job.reason(n) for n in job.unread}
        check_share(len(unread), len(items), *list(unread.items())[-1], folder)
        manifest["unread"] = unread
        say(f"WARNING: {len(unread)} images cannot be read and get no labels, such as {next(iter(unread))}")
    if share.rank == 0:
        write_json(folder / "manifest.json", manifest)
        shutil.rmtree(folder / RAW, ignore_errors=True)
    other = "" if job.nothing == IGNORE else f"; {job.nothing} = no label, since 255 is a class"
    say(f"pseudo-labels: {kept_share(found):.1%} of the pixels of {len(items)} images, in {folder}{other}")
    return manifest


def kept_share(found: dict[str, Any]) -> float:
    """Return which share of the predicted pixels a manifest says were kept, 0-1."""
    return sum(found["kept"]) / max(1, sum(found["predicted"]))


def _finished(order: Order, share: Share) -> dict[str, Any] | None:
    """Return the manifest of a pass that was finished before; None where it is to be done.

    Raises:
        CheckpointError: labels were made in another way, or some are gone.
    """
    folder, here = order.folder, (order.folder / "manifest.json").is_file()
    if not share.sum(np.array([share.rank == 0 and here], dtype=np.int64))[0]:
        return None
    manifest = read_manifest(folder, order.made)
    if share.rank == 0:  # of a pass that was killed in its last moment
        shutil.rmtree(folder / RAW, ignore_errors=True)
    unread = manifest.get("unread", {})
    lost = [item for item in order.items if item.name not in unread and not label_file(folder, item).is_file()]
    if lost or manifest.get("images") != len(order.items):
        raise CheckpointError(
            "pseudo-labels are missing, or those of other images" if not lost else "a pseudo-label is missing",
            where=label_file(folder, lost[0]) if lost else folder, todo=f"remove {folder}: they are made again",
        )  # fmt: skip
    return manifest


def read_manifest(folder: Path, made: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return manifest.json of a labelling pass.

    Raises:
        CheckpointError: it is damaged, or says something else than ``made`` on how the labels were made.
    """
    file = folder / "manifest.json"
    try:
        manifest = load_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "the pseudo-labels have no readable manifest", where=file, todo="remove the folder: they are made again"
        ) from error
    kinds = {"images": int, "predicted": list, "kept": list, "select": dict}
    if not (isinstance(manifest, dict) and all(isinstance(manifest.get(k), kind) for k, kind in kinds.items())):
        raise CheckpointError(
            "the manifest of the pseudo-labels is damaged", where=file, todo="remove the folder: they are made again"
        )
    other = [k for k, v in (made or {}).items() if manifest.get(k) != json.loads(json.dumps(v))]
    if other:
        raise CheckpointError(
            f"the folder holds pseudo-labels made in another way ({', '.join(other)} differ)", where=folder,
            todo="give another folder, or remove this one",
        )  # fmt: skip
    return manifest
