"""A delivered model on the Hugging Face Hub: the model folder and a card that says what its scores are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from fewmask._version import __version__
from fewmask.errors import ConfigError
from fewmask.run.folder import RunFolder
from fewmask.run.model import Model

_FILES = ("config.json", "model.safetensors", "classes.txt", "quality.json")
_ADDRESS = "HF_ENDPOINT"
_TRANSPORT: type[Exception] = HfHubHTTPError.__bases__[0]
"""What the Hub's library raises where no answer comes: of another package in each of its versions."""

_CARD = """\
# {name}

{method} on {data}: semantic segmentation of {count} classes ({classes}), trained with fewmask {version} on {labelled}
labelled and {unlabelled} unlabelled images.

| images | mIoU, % | pixel accuracy, % |
|---|---|---|
{rows}

Protocol `{protocol}`: scores of other protocols do not compare. {interval}{gain}

```sh
pip install fewmask
hf download {repo} --local-dir model
fewmask predict model photos/ -o masks
```

```python
from pathlib import Path
from fewmask.run.model import Model

mask = Model.load(Path("model")).predict("photo.jpg")  # uint8 [H, W], the line in classes.txt of each pixel
```

Network: {arch} with {encoder}, weights it started from: {weights}. Data hash `{hash}`, split hash `{split}`, seed
{seed}, {steps} steps.
"""


def card_of(run: RunFolder, repo: str) -> str:
    """Return the model card of a finished run, Markdown with a YAML head; all of it of the network that is delivered.

    Raises:
        CheckpointError: no finished run.
    """
    gain, crossed = run.read_metrics().get("gain"), "folds" in run.read_metrics()
    made = _made_by(run)
    metrics, recipe, manifest = made.read_metrics(), made.recipe(), made.manifest()
    images = {role: f"{role}: {manifest[role]}" for role in ("val", "test")}
    if crossed:  # the network that is delivered was trained on all labelled images: only test is left to score it on
        metrics |= {"test": run.delivering.all.read_metrics()["test"]}
        images["val"] = f"labelled, each scored by networks that had not seen it: {metrics['labelled']}"
    best = (metrics.get("delivered") or {}).get("checkpoint") == "best"
    scores = metrics["best"] if best else metrics
    rows = [
        f"| {images[role]} | {score['miou']:.2f} | {score['pixel_accuracy']:.2f} |"
        for role in ("val", "test") if (score := scores.get(role)) and score["miou"] is not None
    ]  # fmt: skip
    interval = None if best else (metrics.get("interval") or {}).get("val")
    where = "the labelled images" if crossed else "val"
    said = f"95 % interval on {where}: {interval['low']:.1f} to {interval['high']:.1f}. " if interval else ""
    said += "It is the checkpoint that was the best one on val, so that its score there is too high. " if best else ""
    said += "This network was trained on all labelled images. " if crossed else ""
    classes = manifest["classes"]
    text = _CARD.format(
        name=repo.rpartition("/")[2], method=metrics["method"], data=Path(manifest["root"]).name, count=len(classes),
        classes=", ".join(classes[:20]) + (", ..." if len(classes) > 20 else ""), version=__version__,
        labelled=metrics["labelled"], unlabelled=metrics["unlabelled"], rows="\n".join(rows) or "| none | | |",
        protocol=metrics["protocol"], repo=repo,
        interval=said, gain="" if not gain else gain["text"], arch=recipe.model.arch, encoder=recipe.model.encoder,
        weights=recipe.model.weights, hash=manifest["data_hash"], split=manifest["split_hash"], seed=metrics["seed"],
        steps=metrics["steps"],
    )  # fmt: skip
    data = ModelCardData(library_name="fewmask", pipeline_tag="image-segmentation", tags=["semantic-segmentation"])
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def _made_by(run: RunFolder) -> RunFolder:
    """Return the training whose network a run delivers: of its seed, and of its baseline where that is the better one.

    A cross-fitted run stands for itself: its scores are those of its folds.
    """
    run = run.delivering
    metrics = run.read_metrics()
    theirs = (metrics.get("delivered") or {}).get("run") == "baseline"
    return (run.compared_with(metrics) or run) if theirs else run


def push(run: Path, repo: str, private: bool) -> dict[str, Any]:
    """Upload the delivered model of a finished run and a card in one commit, to a repository that is made if need be.

    Args:
        run: a finished run.
        repo: OWNER/NAME.
        private: of a repository that is made.

    Returns:
        {"repo", "url", "commit", "files"}.

    Raises:
        CheckpointError: no finished run.
        ConfigError: no token, no right, no such name, the upload failed, or the Hub cannot be reached.
    """
    folder = RunFolder(run)
    card = card_of(folder, repo)
    Model.load(folder.model, "cpu")  # what is handed on can be read
    files = [name for name in _FILES if (folder.model / name).is_file()]
    api = HfApi(library_name="fewmask", library_version=__version__)
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        parts = {"README.md": card.encode("utf-8", "replace"), **{f: (folder.model / f).read_bytes() for f in files}}
        made = api.create_commit(
            repo, [CommitOperationAdd(name, content) for name, content in parts.items()],
            commit_message=f"{run.name}, by fewmask {__version__}",
        )  # fmt: skip
    except (HFValidationError, LocalTokenNotFoundError) as error:
        raise ConfigError(
            _first_line(error), where=f"push to {repo}", todo="write OWNER/NAME, and log in: hf auth login"
        ) from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        todo = "log in with a token that may write: hf auth login" if code in (401, 403) else "try again later"
        raise ConfigError(f"the Hub refused ({_first_line(error)})", where=f"push to {repo}", todo=todo) from error
    except RuntimeError as error:  # what the library makes of an upload of a large file that fails
        why = f": {_first_line(error.__cause__)}" if isinstance(error.__cause__, Exception) else ""
        what = f"the upload failed ({_first_line(error).rstrip('.')}{why})"
        raise ConfigError(what, where=f"push to {repo}", todo="try again: what is there is not sent again") from error
    except (OSError, _TRANSPORT) as error:
        todo = f"check the network, or {_ADDRESS}"
        raise ConfigError(f"the Hub cannot be reached ({_first_line(error)})", where=repo, todo=todo) from error
    return {"repo": repo, "url": str(url), "commit": made.oid, "files": list(parts)}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
