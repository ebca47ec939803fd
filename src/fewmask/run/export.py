"""A delivered model as one file that runs without fewmask: ONNX, or ``torch.export``'s own format."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any, Literal

import numpy as np
import torch

from fewmask._version import __version__
from fewmask.data.bands import Bands
from fewmask.data.sizes import input_size
from fewmask.engine.files import ensure_writable, write_atomic
from fewmask.engine.infer import PROTOCOLS
from fewmask.errors import CheckpointError, ConfigError, DataError
from fewmask.nets.portable import Portable
from fewmask.nets.segmenter import Segmenter
from fewmask.run.data import open_folder
from fewmask.run.folder import RunFolder
from fewmask.run.model import Model
from fewmask.run.notes import Say

Format = Literal["onnx", "torch-export"]

OPSET = 18
"""The first with anti-aliased resizing; onnxruntime has known it since 1.14."""
_EXAMPLE = (2, 269, 331)  # images of no size that any network likes
_IMAGES = 8  # for the parity check
_TOLERANCE = 0.01  # share of the pixels: more is another network, not rounding

Run = Callable[[np.ndarray], np.ndarray]


def export(
    run: Path, out: Path, form: Format, say: Say, size: tuple[int, int] | None = None, images: Sequence[Path] = ()
) -> dict[str, Any]:  # fmt: skip
    """Write the delivered model of a run as one file and an example beside it, and compare both networks on images.

    The graph takes images, uint8 [N, C, H, W], RGB or the declared channels, and gives logits, float32 [N, K, H, W]:
    resizing, normalisation and padding are inside. It makes one forward pass over the whole image, whatever the model's
    protocol says.

    Args:
        run: a finished run.
        out: the file; the example is ``NAME_example.py`` beside it. Neither may exist.
        form: of the file.
        say: receives sentences.
        size: (height, width) of the images that the graph takes; None = any.
        images: for the comparison; none = eight of the run's own.

    Returns:
        {"file", "example", "format", "classes", "size", "images", "max_difference", "differing_pixels", "protocol",
        "differing_from_predict"}: the largest difference of a logit, the share of pixels with another class than the
        model's own in one pass, and than those of ``fewmask predict``.

    Raises:
        CheckpointError: no finished run; or the exported network computes something else.
        ConfigError: a file exists, a package is missing, or the network cannot be exported for any size.
        DataError: there are no images to compare on.
    """
    example = out.with_name(f"{out.stem}_example.py")
    if example.exists():  # of another format, whose file has the same stem
        example = out.with_name(f"{out.name.replace('.', '_')}_example.py")
    for path in (out, example):
        if path.exists():
            raise ConfigError("the file exists; nothing is written over", where=path, todo="give another -o")
    model = Model.load(RunFolder(run).model, "cpu")
    files = list(images) or _own_images(RunFolder(run))
    ensure_writable(out.parent)
    assert isinstance(model.net, Segmenter), "build makes Segmenters"
    resize = model.card.resize if size is None or model.card.resize is None else input_size(model.card.resize, size)
    if isinstance(resize, str):
        raise ConfigError(
            f"the model resizes images to {resize}, and a graph for any size cannot", where=RunFolder(run).model,
            todo="name the size of your images: --size 480x640",
        )  # fmt: skip
    portable = Portable(model.net, model.card.mean, model.card.std, resize)
    content, exported = (_onnx if form == "onnx" else _torch)(_graph(portable, size), _about(model))
    found = _compare(model, exported, files, size, out)
    write_atomic(out, content)
    write_atomic(example, _example(form, out.name, example.name, model.card.channels, model.card.upright))
    protocol, sizes = found["protocol"], "any size" if size is None else f"{size[0]}x{size[1]}"
    say(
        f"{out}: {form}, images of {sizes}; on {found['images']} images logits differ by {found['max_difference']:.1e} "
        f"at most, and {100 * found['differing_pixels']:.3f}% of the pixels in class"
    )
    if not PROTOCOLS[protocol].plain:
        share = 100 * found["differing_from_predict"]
        say(f"predict follows the protocol {protocol}, the file makes one pass: {share:.2f}% of the pixels differ")
    return {"file": str(out), "example": str(example), "format": form, "classes": model.classes, "size": size, **found}


def _own_images(folder: RunFolder) -> list[Path]:
    """Return images of the run's own data, evenly spaced: of val, else of any role."""
    try:
        index, _ = open_folder(folder.recipe(), folder)
    except DataError as error:
        raise DataError(
            f"the run's data are not there to compare on ({error.what})", where=error.where, todo="give --images"
        ) from error
    items = index.items["val"] or next(some for some in index.items.values() if some)
    step = max(1, len(items) // _IMAGES)
    return [item.image for item in items[::step][:_IMAGES]]


def _about(model: Model) -> dict[str, str]:
    """Return what the file says of itself."""
    return {
        "classes": json.dumps(model.classes), "ids": json.dumps(model.ids), "architecture": model.card.arch,
        "encoder": model.card.encoder, "protocol": model.card.protocol, "made_by": f"fewmask {__version__}",
        "upright": json.dumps(model.card.upright),
        "channels": json.dumps([band.told() for band in model.card.channels] or "rgb"),
    }  # fmt: skip


def _graph(portable: Portable, size: tuple[int, int] | None) -> torch.export.ExportedProgram:
    shape = (_EXAMPLE[0], portable.mean.shape[1], *(_EXAMPLE[1:] if size is None else size))
    free = [0, 2, 3] if size is None else [0]
    images = torch.zeros(shape, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dynamic = {"images": {n: torch.export.Dim.DYNAMIC for n in free}}
            return torch.export.export(portable, (images,), dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # whatever the tracer and the network do not agree on
        todo = "give --size HEIGHTxWIDTH: one size may do" if size is None else "there is no other way"
        raise _refused(error, todo) from error


def _refused(error: Exception, todo: str) -> ConfigError:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ConfigError(f"torch cannot export this network so ({first[:200]})", where="export", todo=todo)


def _torch(graph: torch.export.ExportedProgram, about: dict[str, str]) -> tuple[bytes, Run]:
    buffer = BytesIO()
    torch.export.save(graph, buffer, extra_files={"about.json": json.dumps(about)})
    again = torch.export.load(BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), lambda images: again(torch.from_numpy(images)).numpy()


def _onnx(graph: torch.export.ExportedProgram, about: dict[str, str]) -> tuple[bytes, Run]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        todo = "pip install 'fewmask[onnx]', or --format torch-export"
        raise ConfigError(f"{error.name} is not installed", where="--format onnx", todo=todo) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph, input_names=["images"], output_names=["logits"], opset_version=OPSET, dynamo=True, verbose=False
            )
    except Exception as error:
        raise _refused(error, "try --format torch-export, or --size HEIGHTxWIDTH") from error
    assert program is not None
    proto = program.model_proto
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value)
    content = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda images: np.asarray(session.run(None, {"images": images})[0])


def _compare(
    model: Model, exported: Run, files: Sequence[Path], size: tuple[int, int] | None, out: Path
) -> dict[str, Any]:  # fmt: skip
    """Compare on images, and on two corners of one of them as a batch."""
    plain = PROTOCOLS[model.card.protocol].plain
    most, pixels, other, other_mask = 0.0, 0, 0, 0
    for n, file in enumerate(files):
        image = model.read(file)
        if size is not None:
            image = _fitted(image, size)
        batches = [image[None]]
        if n == 0 and size is None and min(image.shape[:2]) > 32:
            batches.append(np.stack([image[5:, 3:], image[:-5, :-3]]))
        for batch in batches:
            found = exported(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
            once = torch.cat([model.logits(one, PROTOCOLS["whole"]) for one in batch]).numpy()
            most = max(most, float(np.abs(found - once).max()))
            pixels += once[:, 0].size
            other += int((found.argmax(1) != once.argmax(1)).sum())
            for one, own, label in zip(batch, once, found.argmax(1), strict=True):
                several = not plain or model.tile_for(one)  # else predict makes the same pass
                other_mask += int((label != (model.predict(one) if several else own.argmax(0))).sum())
    if other > _TOLERANCE * pixels:
        raise CheckpointError(
            f"the exported network computes something else: {100 * other / pixels:.1f}% of {pixels} pixels get another "
            f"class, logits differ by up to {most:.2g}", where=out, todo="report it, with the run's config.yaml",
        )  # fmt: skip
    return {
        "images": len(files), "max_difference": most, "differing_pixels": other / pixels,
        "protocol": model.card.protocol, "differing_from_predict": other_mask / pixels,
    }  # fmt: skip


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image of a size: cut, or repeated to the right and below."""
    times = [-(-want // have) for want, have in zip(size, image.shape[:2], strict=True)]
    return np.tile(image, (*times, 1))[: size[0], : size[1]]


def _example(form: Format, name: str, own: str, bands: Bands, upright: bool) -> str:
    how = {"library": "pillow", "photo": "photo.jpg", "pictures": "Image", "imports": "", "read": _PHOTOGRAPH}
    if upright:
        turned = _PHOTOGRAPH.replace(_OPENED, f"ImageOps.exif_transpose({_OPENED})")
        how |= {"pictures": "Image, ImageOps", "read": turned}
    if bands:
        ranges = {"numbers": [b.number for b in bands], "low": [b.low for b in bands], "high": [b.high for b in bands]}
        read = Template(_BANDS).substitute(ranges)
        how |= {"library": "pillow rasterio", "photo": "photo.tif", "imports": "import rasterio\n", "read": read}
    return _EXAMPLES[form].substitute(name=name, own=own, **how)


_OPENED = "Image.open(sys.argv[1])"
_PHOTOGRAPH = """\
photo = Image.open(sys.argv[1])
if photo.mode not in ("RGB", "L", "P", "1", "LA", "RGBA") or photo.convert("RGBA").getextrema()[3][0] < 255:
    sys.exit(f"{sys.argv[1]}: {photo.mode}, other than 8-bit or not opaque; convert it to RGB")
image = np.asarray(photo.convert("RGB"))  # uint8 [H, W, 3], any size
image = image.transpose(2, 0, 1)[None]"""
_BANDS = """\
with rasterio.open(sys.argv[1]) as file:
    bands = file.read($numbers).astype(np.float32)  # [C, H, W], any size
low, high = np.array($low, np.float32)[:, None, None], np.array($high, np.float32)[:, None, None]
image = np.clip(np.nan_to_num((bands - low) * (255 / (high - low))), 0, 255).round().astype(np.uint8)[None]"""


_EXAMPLES = {
    "onnx": Template('''\
"""Segment one image: python $own $photo mask.png   (pip install onnxruntime numpy $library)"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
${imports}from PIL import $pictures

session = onnxruntime.InferenceSession(str(Path(__file__).with_name("$name")), providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
classes, ids = json.loads(about["classes"]), np.array(json.loads(about["ids"]))

$read
(logits,) = session.run(None, {"images": image})  # float32 [1, K, H, W]
mask = ids[logits[0].argmax(0)]  # the class ids of your masks
Image.fromarray(mask.astype(np.uint8 if ids.max() < 256 else np.uint16)).save(sys.argv[2])
for name, i in zip(classes, ids):
    print(f"{name}: {100 * (mask == i).mean():.1f}% of the image")
'''),
    "torch-export": Template('''\
"""Segment one image: python $own $photo mask.png   (pip install torch numpy $library)"""

import json
import sys
from pathlib import Path

import numpy as np
${imports}import torch
from PIL import $pictures

extra = {"about.json": ""}
network = torch.export.load(str(Path(__file__).with_name("$name")), extra_files=extra).module()
about = json.loads(extra["about.json"])
classes, ids = json.loads(about["classes"]), np.array(json.loads(about["ids"]))

$read
logits = network(torch.from_numpy(image.copy()))  # float32 [1, K, H, W]
mask = ids[logits[0].argmax(0).numpy()]  # the class ids of your masks
Image.fromarray(mask.astype(np.uint8 if ids.max() < 256 else np.uint16)).save(sys.argv[2])
for name, i in zip(classes, ids):
    print(f"{name}: {100 * (mask == i).mean():.1f}% of the image")
'''),
}
