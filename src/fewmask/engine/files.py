"""Writing files so that a reader finds the old content or the new one, and never a part of either.

A file is written under a temporary name in its own folder, fsynced, renamed, and the folder is fsynced. What
a killed process leaves behind is known by its name (``.tmp-<pid>-<8 hex digits>``) and goes at the next
start.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fewmask.errors import WriteError

_LEFTOVER = re.compile(r"\.tmp-\d+-[0-9a-f]{8}")

_TODO = {
    errno.ENOSPC: "free some disk space and run the same command again",
    errno.EDQUOT: "free some of your disk quota and run the same command again",
    errno.EROFS: "choose a folder on a writable disk with --out",
    errno.EACCES: "choose a folder that you may write to with --out",
    errno.EPERM: "choose a folder that you may write to with --out",
}


@contextmanager
def write_errors(path: Path | str) -> Iterator[None]:
    """Turn an OSError of the block into a WriteError (exit 74) that names ``path`` and the reason.

    Raises:
        WriteError: an OSError happened inside.
    """
    try:
        yield
    except OSError as error:
        todo = _TODO.get(error.errno or 0, "check the disk and run the same command again")
        why = error.strerror or (error.args[0][0][2] if isinstance(error, shutil.Error) else error)  # of copytree
        raise WriteError(f"could not write: {why}", where=path, todo=todo) from error


def temporary_path(folder: Path) -> Path:
    """Return an unused name in ``folder`` that ``clean_leftovers`` recognises.

    It does not contain the final name, so a name of the greatest length the file system allows still works.
    """
    return folder / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"


def clean_leftovers(folder: Path | str, idle: float = 0.0) -> list[str]:
    """Remove what killed processes left in ``folder`` (not below it); return the names removed, sorted.

    Call it while holding the run lock: it does not ask whether the process that made a leftover still lives,
    since process ids are reused.

    Args:
        folder: where.
        idle: seconds for which nobody must have written to them: where there is no lock, another process may be at it.

    Raises:
        WriteError: something could not be removed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    with write_errors(folder):
        found = sorted(p for p in folder.iterdir() if _LEFTOVER.fullmatch(p.name))
        found = [p for p in found if not idle or time.time() - p.stat().st_mtime > idle]
        for path in found:
            remove(path)
    return [path.name for path in found]


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; it is no error if it is not there.

    Raises:
        OSError: it could not be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_file(handle: BinaryIO, size: int) -> None:
    """Flush, fsync and measure an open file, because some network disks lose writes without an error.

    Args:
        handle: the file, open for writing.
        size: how many bytes it must hold.

    Raises:
        OSError: the disk refused, or the file is shorter or longer than what was written.
    """
    handle.flush()
    os.fsync(handle.fileno())
    found = os.fstat(handle.fileno()).st_size
    if found != size:
        raise OSError(errno.EIO, f"the disk kept {found} of {size} bytes without reporting an error")


def sync_folder(folder: Path) -> None:
    """Fsync a folder, which makes renames and new names in it durable. Windows has no such call.

    Raises:
        OSError: the disk refused.
    """
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot fsync a folder (some FUSE and CIFS) say EINVAL
            raise
    finally:
        os.close(handle)


def write_atomic(path: Path | str, data: bytes | str) -> None:
    """Replace the content of ``path``; text is UTF-8. A crash leaves the old content or the new one.

    Raises:
        WriteError: the disk refused; the old content is still there and the temporary file is not.
    """
    content = data.encode() if isinstance(data, str) else data
    with replacing(Path(path), len(content)) as handle:
        handle.write(content)


@contextmanager
def replacing(path: Path, size: int) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block has ended; if it raises, nothing changes.

    Args:
        path: the file; its folder exists.
        size: bytes that it will hold.

    Raises:
        WriteError: the disk refused.
    """
    temporary = temporary_path(path.parent)
    with write_errors(path):
        try:
            with open(temporary, "wb") as handle:
                yield handle
                sync_file(handle, size)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: Path | str, obj: Any) -> None:
    """Write ``obj`` as indented JSON with ``write_atomic``; NaN and infinities become null.

    Raises:
        WriteError: the disk refused.
        TypeError: ``obj`` holds something that JSON has no word for.
    """
    write_atomic(path, json_text(obj, indent=2) + "\n")


def json_text(obj: Any, indent: int | None = None) -> str:
    """Return strict JSON, ASCII only; NaN and infinities become null, tuples become lists.

    ASCII, because file names that are not UTF-8 reach Python as lone surrogates, which UTF-8 cannot write.
    """
    return json.dumps(_finite(obj), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def ensure_writable(folder: Path | str) -> None:
    """Make ``folder`` and prove by writing a file that it can be written to, before any work is put into it.

    Raises:
        WriteError: it cannot be made or written to.
    """
    folder = Path(folder)
    probe = temporary_path(folder)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(probe, "wb") as handle:
                handle.write(b"fewmask")
                sync_file(handle, 7)
        finally:
            probe.unlink(missing_ok=True)
