"""Finding image files: a folder, or a glob whose wildcards spell the name of each image."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from fewmask.data.decode import EXTENSIONS
from fewmask.data.findings import Finding, Remark
from fewmask.data.patterns import Hit, matched
from fewmask.errors import ConfigError, DataError, WriteError

_LONGEST = 150  # bytes of a name; most disks allow 255, of which others want a part
_SIDE_CARS = (".tfw", ".jgw", ".pgw", ".wld", ".prj", ".ovr", ".aux.xml")
"""What geographic programs put beside an image: it is no image, and nobody takes it for one."""

_UNREAD = (".npy", ".npz", ".mat", ".heic", ".heif", ".avif", ".jp2", ".svg", ".psd", ".nii", ".gz", ".dcm", ".nrrd",
           ".mha")  # fmt: skip
"""What holds pictures, and is not read."""


def pictures_among(notes: Sequence[str]) -> list[str]:
    """Return what ``image_files`` said of files that hold pictures and are not read, where others are no mistake."""
    each = [one for note in notes if isinstance(note, Remark) for one in note.findings]
    kept = [one for one in each if str(one.value).lower() in _UNREAD]
    what = f"{len(kept)} files hold pictures of a kind that is not read"
    return [Remark(f"{what}, first {Path(kept[0].where).name!r}", kept)] if kept else []


def image_files(root: Path, place: str, notes: list[str], without: Set[Path] = frozenset()) -> dict[str, list[Path]]:
    """Return the image files of a folder or glob below ``root``: name to files.

    The name is what the wildcards match, joined by ``/``; for a folder that is the path without extension.
    """
    if ".." in Path(place).parts or Path(place).is_absolute():
        raise ConfigError(f"{place!r} leads out of the data folder", where=root, todo="move or link it inside")
    folder = (root / place).is_dir()
    if not folder and "*" not in place:
        raise DataError(f"there is no {place!r}", where=root)
    fixed = [*Path(place).parts] if folder else list(takewhile(lambda p: "*" not in p, Path(place).parts))
    base = root.joinpath(*fixed)
    there = list(_walk(base)) if base.is_dir() else []
    wild = "/".join(Path(place).parts[len(fixed) :])
    hits = [[name, name] for name in there] if folder else _matched(wild, there, root)
    found: dict[str, list[Path]] = {}
    others: list[str] = []
    for relative, hit in zip(there, hits, strict=True):
        path = base / relative
        if hit is None or path in without:
            continue
        if path.suffix.lower() not in EXTENSIONS:
            others += [] if path.name.lower().endswith(_SIDE_CARS) else [relative]
            continue
        name = "/".join(part for part in hit[1:] if part)
        name = name[: -len(path.suffix)] if folder or place.endswith(("/*", "**")) else name
        found.setdefault(name, []).append(path)
    if others:
        todo = f"convert it to one of {', '.join(EXTENSIONS)} if it is an image; it is left out"
        what = "is no image by its name"
        each = [Finding("other_file", what, str(base / o), todo, value=Path(o).suffix) for o in others]
        notes.append(Remark(f"{len(others)} files in {place} are no images by their names, first {others[0]!r}", each))
    return found


def is_below(name: str) -> bool:
    """Return whether a file of this name, put into a folder, lies below it."""
    parts = (name.replace("\\", "/") if os.name == "nt" else name).split("/")
    return bool(parts[0] and parts[-1]) and ".." not in parts and "\0" not in name and not os.path.isabs(name)


def place_below(folder: Path, name: str) -> Path:
    """Return where a file of this name lies in a folder; names of images come from files of somebody else.

    Raises:
        DataError: it leads out of the folder.
    """
    if not is_below(name):
        raise DataError(f"the name {name[:200]!r} leads out of a folder", where=folder, todo="name the image otherwise")
    return folder / name


def flat_name(name: str) -> str:
    """Return the name of an image as that of one file, which no disk finds too long: of the end of a path, then."""
    flat = name.replace("/", "_")
    raw = flat.encode("utf-8", "surrogateescape")
    if len(raw) <= _LONGEST:
        return flat
    digest = hashlib.sha256(raw).hexdigest()[:8]
    return f"{digest}-{raw[-_LONGEST:].decode('utf-8', 'ignore')}"


@contextmanager
def folder_aside(out: Path) -> Iterator[Path]:
    """Yield the path of a folder to be made beside ``out``, on its disk; what is not moved away is removed at the end.

    Raises:
        WriteError: the disk refused.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as fresh:
            yield Path(fresh) / "made"
    except OSError as error:
        what = f"could not write: {error.strerror or error}"
        raise WriteError(what, where=out, todo="choose another folder") from error


def cache_folder() -> Path:
    """Return the folder of what is remembered between commands: ``$XDG_CACHE_HOME/fewmask``; need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fewmask"


def image_names(inputs: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield (file, name below its folder without extension) of every image."""
    for entry in inputs:
        if entry.is_dir():
            found = sorted(f for f in entry.rglob("*") if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
            if not found:
                raise DataError("no images in the folder", where=entry, todo="give another folder, or files")
            yield from ((f, f.relative_to(entry).with_suffix("").as_posix()) for f in found)
        elif entry.is_file():
            yield entry, entry.stem
        else:
            raise DataError("no such file or folder", where=entry, todo="check the path")


def _matched(pattern: str, names: Sequence[str], root: Path) -> list[Hit | None]:
    """Return what the wildcards of a glob match in each name; a final ``.*`` is the extension."""
    body, extension = (pattern[:-2], r"\.[^./]+") if pattern.endswith(".*") else (pattern, "")
    parts = {"**/": "(?:(.*)/)?", "**": "(.*)", "*": "([^/]*)"}
    pieces = re.split(r"(\*\*/|\*\*|\*)", body)
    regex = "".join(parts.get(p) or re.escape(p) for p in pieces) + extension
    return matched("fullmatch", regex, re.DOTALL, names, told=repr(pattern), where=root)


_RUN = {"config.yaml", "environment.json"}


def _walk(base: Path) -> Iterator[str]:
    """Yield the files below ``base`` as relative paths with ``/``; links are followed, each folder once, runs not."""
    seen: set[str] = set()

    def fail(error: OSError) -> None:
        raise DataError(f"folder cannot be read: {error.strerror}", where=error.filename) from error

    for top, folders, files in os.walk(base, onerror=fail, followlinks=True):
        real = os.path.realpath(top)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if _RUN <= set(files):  # a run folder of ours: its pictures are made of these very images
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if not hidden(f))
        for file in sorted(f for f in files if not hidden(f)):
            yield Path(top, file).relative_to(base).as_posix()


def hidden(name: str) -> bool:
    """Return whether a file or folder is left alone: dot files, and what macOS puts into archives."""
    return name.startswith(".") or name == "__MACOSX"
