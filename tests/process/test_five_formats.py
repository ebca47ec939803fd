"""A part of CamVid in five formats: one command each, and predictions that agree to the pixel."""

from __future__ import annotations

import pytest
from benchmarks.five_formats import FORMATS, compared, source_of, tried

from fewmask.cli import run as cli
from fixtures_data import SHARED

CAMVID = SHARED / "camvid"
WORDS = [
    "--method", "fixmatch", "--no-baseline", "--arch", "small", "--weights", "none", "--steps", "60", "--crop", "48x64",
    "--resize", "60x80", "--batch", "4", "--unlabelled-batch", "4", "--precision", "fp32", "--devices", "cpu",
    "--workers", "0", "--seed", "0", "optim.lr=0.01",
]  # fmt: skip


def here(words: list[str]) -> None:
    """Run the command line in this process: fifteen starts would take most of the time."""
    assert cli(words) == 0, words


@pytest.mark.real_data
@pytest.mark.skipif(not CAMVID.is_dir(), reason="no ../shared/data/camvid beside the repository")
def test_the_same_masks_in_five_formats_train_the_same_network(tmp_path):
    source = source_of(CAMVID, labelled=8, unlabelled=12, val=4)
    images = sorted((CAMVID / "images" / "test").iterdir())[::60]
    found = [tried(name, source, tmp_path, images, WORDS, here) for name in FORMATS]
    rows = compared(found, {"COCO JSON, RLE": 1})
    assert [row["format"] for row in rows] == list(FORMATS)
    for row in rows:
        assert (row["labelled"], row["unlabelled"]) == (8, 12), row["format"]
        assert row["pixels_that_differ"] == 0 and row["same_iou"] and row["same_weights"], row["format"]
        assert row["classes_predicted"] >= 3, "it has learned"
        assert row["report"] > 10_000
