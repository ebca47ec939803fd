"""Write the fixture folders of ``tests/formats`` with the tools that people use, and never with fewmask.

    uv venv tools && uv pip install --python tools/bin/python datumaro==1.13.12 label-studio-sdk==2.1.2 \
        rasterio==1.4.4 pycocotools==2.0.11 pillow==12.3.0
    tools/bin/python tests/formats/make.py

Each becomes NAME.zip: the folder ``data`` as a tool wrote it, and ``truth.npz``: for every masked image, by the stem of
its file, the class index of every pixel (255: does not count), and the names of the classes as "classes".
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

import by_pillow
import by_tools
import numpy as np

HERE = Path(__file__).parent


def main() -> None:
    for make in (*by_pillow.FIXTURES, *by_tools.FIXTURES):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "data"
            root.mkdir()
            made = make(root)
            np.savez_compressed(Path(scratch) / "truth.npz", classes=np.array(made.classes, dtype=str), **made.truth)
            target = HERE / f"{make.__name__}.zip"
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(p for p in Path(scratch).rglob("*") if p.is_file()):
                    # one date for all: a fixture that is made again is the same file
                    entry = zipfile.ZipInfo(file.relative_to(scratch).as_posix(), (2026, 1, 1, 0, 0, 0))
                    archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
            print(f"{target.name}: {target.stat().st_size} bytes, {len(made.truth)} masks")
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
