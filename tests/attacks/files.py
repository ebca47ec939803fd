"""Hostile and broken files, written while the tests run: nothing dangerous lies in the repository."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image

MARK = "FEWMASK_ATTACK_MARK"
"""Name of the environment variable that holds a path; a payload that runs makes a file there."""


class _Payload:
    def __reduce__(self):
        return os.system, (f'touch "${MARK}"',)


def bomb() -> bytes:
    """Return a pickle that runs a shell command when it is loaded."""
    return pickle.dumps(_Payload())


def torch_bomb() -> bytes:
    """Return the same as torch.save writes it: a zip archive with data.pkl."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", bomb())
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with any header, and any length written before it."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensors(entries: dict, data: bytes = b"\0" * 16) -> bytes:
    """Return a safetensors file that claims these entries."""
    return safetensors(json.dumps(entries).encode(), data)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: tuple[bytes, bytes], colour_type: int = 0, body: bytes = b"") -> bytes:
    """Return a PNG that claims any size, with any chunks between header and pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8 if colour_type else 1, colour_type, 0, 0, 0)
    pixels = zlib.compress(body or b"\0" * min(height * (width // 8 + 1), 1000))
    more = b"".join(_chunk(kind, data) for kind, data in extra)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + more + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """Return a JPEG whose header claims any size."""
    out = BytesIO()
    Image.new("RGB", (16, 12)).save(out, "JPEG")
    raw = bytearray(out.getvalue())
    at = raw.index(b"\xff\xc0") + 5
    raw[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(raw)


def tiff(width: int, height: int) -> bytes:
    """Return a TIFF that claims any size and holds no pixels."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags += [(277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 10)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def bmp(width: int, height: int) -> bytes:
    """Return a BMP that claims any size, also a negative one."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def frames(kind: str) -> bytes:
    """Return an animation."""
    out = BytesIO()
    pictures = [Image.new("RGB", (16, 12), colour) for colour in ("red", "green", "blue")]
    pictures[0].save(out, kind, save_all=True, append_images=pictures[1:])
    return out.getvalue()


def laughs(depth: int = 24) -> str:
    """Return YAML whose aliases stand for 9 ** depth words."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, depth)]
    return "\n".join(lines) + "\n"


def write(path: Path, content: bytes | str) -> Path:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
