"""Images on other machines: URIs in an index file, read through fsspec by the extra ``remote``."""

from __future__ import annotations

import errno
import re
from io import BytesIO
from pathlib import Path
from typing import cast

from fewmask.errors import ConfigError, DataError

PROTOCOLS = (
    "s3", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "http", "https", "hf", "hdfs", "webhdfs", "sftp", "ssh",
    "smb", "memory",
)  # fmt: skip
"""What an index file may name; others of fsspec read this machine's files, unpack archives, or chain URIs."""

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def is_uri(image: str) -> bool:
    """Return whether a text is a URI and not a path.

    Raises:
        ValueError: one of a kind that is not read.
    """
    found = _URI.match(image)
    if found is None:
        return False
    if found[1].lower() not in PROTOCOLS or "::" in image:
        raise ValueError(f"{image[:200]!r} is no URI that is read: {', '.join(PROTOCOLS)}")
    return True


def remote_path(uri: str) -> Path:
    """Return a URI as what behaves like a path.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        from upath import UPath
    except ImportError as error:
        raise ConfigError(
            "the index file names images on other machines", where=uri[:200], todo="pip install 'fewmask[remote]'"
        ) from error
    return cast(Path, UPath(uri))


def fetch(path: Path) -> BytesIO:
    """Return a remote file's bytes.

    Raises:
        FileNotFoundError: it is not there.
        DataError: the protocol's library is missing.
        OSError: EIO, whatever the library raises: it may pass.
    """
    try:
        return BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise
    except ImportError as error:
        raise DataError(f"a library is missing: {error}", where=path, todo="install it") from error
    except Exception as error:  # of aiohttp, botocore, paramiko, ...
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error
