"""``check`` with an index file of unlabelled images beside a folder."""

import json

import pytest
from PIL import Image

from fewmask.data.check import check
from fewmask.errors import DataError
from fixtures_data import make_folder, save_image


def look(root, **options):
    return check(root, cache=False, **options)


class TestPool:
    """An index file of unlabelled images, as ``train --unlabelled`` takes it."""

    def make(self, root, names):
        make_folder(root, [*(f"train/{i}" for i in range(4)), "val/x"], ["train/bare"])
        for seed, name in enumerate(names, start=50):
            save_image(root / "pool" / f"{name}.png", seed=seed)
        index = root / "pool.jsonl"
        index.write_text("".join(json.dumps({"image": f"pool/{name}.png"}) + "\n" for name in names))
        return index

    def test_its_images_are_decoded(self, tmp_path):
        index = self.make(tmp_path, ["a", "b", "c"])
        bad = tmp_path / "pool/b.png"
        bad.write_bytes(bad.read_bytes()[:-40])
        Image.open(tmp_path / "images/val/x.jpg").save(tmp_path / "pool/c.png")
        report = look(tmp_path, pool=index)
        assert [(p.kind, p.name, p.where, p.value) for p in report.problems] == [
            ("damaged_file", "pool.jsonl line 2: pool/b", str(bad), None),
            ("same_picture", "val/x", str(tmp_path / "images/val/x.jpg"), str(tmp_path / "pool/c.png")),
        ]
        assert report.roles["train"] == {"images": 7, "labelled": 4, "unlabelled": 3} and report.opened == 8
        assert report.pool == {"file": str(index), "images": 3, "opened": 3}
        assert report.notes == (
            f"3 unlabelled images of {index}; the 1 unlabelled ones of the folder are not used beside them",
        )

    def test_a_sample_of_it(self, tmp_path):
        index = self.make(tmp_path, [f"{i:02}" for i in range(30)])
        (tmp_path / "pool" / "07.png").write_bytes(b"")
        report = look(tmp_path, pool=index, sample=10)
        assert report.pool == {"file": str(index), "images": 30, "opened": 10} and report.opened == 15
        assert "only 10 of 30 images of pool.jsonl were opened" in report.notes
        assert look(tmp_path, pool=index, sample=10).to_json() == report.to_json(), "the same ones each time"
        (problem,) = look(tmp_path, pool=index, sample=30).problems
        assert problem.kind == "empty_file" and problem.name == "pool.jsonl line 8: pool/07"

    def test_it_is_read_as_a_training_reads_it(self, tmp_path):
        index = self.make(tmp_path, ["a"])
        index.write_text(index.read_text() + '{"image": "images/val/x.jpg"}\n')
        with pytest.raises(DataError, match="is labelled, or is scored on.*pool.jsonl line 2"):
            look(tmp_path, pool=index)
        index.write_text('{"image": "/elsewhere/a.png"}\n')
        with pytest.raises(DataError, match="lies outside"):
            look(tmp_path, pool=index)
        (problem,) = look(tmp_path, pool=index, outside=True).problems
        assert (problem.kind, problem.where) == ("missing_file", "/elsewhere/a.png")

    def test_an_index_that_data_yaml_names(self, tmp_path):
        """The other kind, which names masks too, is the folder."""
        make_folder(tmp_path, ["train/a", "train/b", "val/c"])
        lines = [{"image": f"images/{n}.jpg", "mask": f"masks/{n}.png"} for n in ("train/a", "train/b", "val/c")]
        (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / "data.yaml").write_text("images: all.jsonl\n")
        (tmp_path / "images/train/b.jpg").write_bytes(b"")
        (problem,) = look(tmp_path).problems
        assert (problem.kind, problem.where) == ("empty_file", str(tmp_path / "images/train/b.jpg"))
