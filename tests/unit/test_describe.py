"""fewmask.data.describe: what is written for a person says how the folder was read, key by key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fewmask.config import load_yaml
from fewmask.data.bands import Band
from fewmask.data.datayaml import DataYaml
from fewmask.data.describe import describe
from fewmask.data.findings import Finding
from fewmask.data.index import NO_ID, PHOTOGRAPH, DataIndex, ImageCode, MaskCode
from fewmask.errors import ConfigError

PLAIN = MaskCode()
NAMES = ("sky", "sea", "sand")


def index(code: MaskCode = PLAIN, root: Path = Path("data"), images: ImageCode = PHOTOGRAPH) -> DataIndex:
    return DataIndex(root, "folders", NAMES, {"train": (), "val": (), "test": ()}, code, images=images)


@pytest.mark.parametrize(
    ("code", "keys"),
    [
        pytest.param(MaskCode(), {"classes": list(NAMES)}, id="position is the id"),
        pytest.param(  # ADE20K: 0 does not count, 1 is the first class; Cityscapes' labelIds are alike
            MaskCode(ignore=(0,), mapping=((1, 0), (2, 1), (3, 2))),
            {"classes": {1: "sky", 2: "sea", 3: "sand"}, "ignore": [0]},
            id="ids that are shifted",
        ),
        pytest.param(
            MaskCode(mapping=((5, 1), (0, 0), (9, 1), (255, 2))),
            {"classes": {0: "sky", 5: "sea", 9: "sea", 255: "sand"}},
            id="merged ids, in the order of the classes",
        ),
        pytest.param(
            MaskCode(colours=(((0, 0, 250), 0), ((9, 9, 9), 1), ((0, 80, 0), 2), ((1, 2, 3), NO_ID))),
            {"classes": list(NAMES), "colours": {"0,0,250": 0, "9,9,9": 1, "0,80,0": 2, "1,2,3": "ignore"}},
            id="colours, of which one does not count",
        ),
        pytest.param(MaskCode(unlabelled=7), {"classes": list(NAMES), "unlabelled_id": 7}, id="finished in part"),
    ],
)
def test_ids_and_colours(code: MaskCode, keys: dict[str, object]) -> None:
    text = describe(index(code), DataYaml())
    found = load_yaml(text.encode())
    assert found == {"version": 1} | keys
    assert list(found["classes"]) == list(keys["classes"])  # type: ignore[call-overload]
    if code.mapping is None or code.mapping == tuple(sorted(code.mapping, key=lambda p: (p[1], p[0]))):
        assert DataYaml(**found).legend((), "x") == (NAMES, code)
    assert text.count("# ") == len(keys)  # each under what it means


def test_what_was_declared_stays() -> None:
    declared = DataYaml.model_validate(
        {"images": "a/*.jpg", "masks": "b/*.png", "roles": {"val": "x*"}, "exif": "apply", "empty_masks": "unlabelled"}
    )
    bands = (Band(1, "red", 0, 4095), Band(2, "nir"))
    found = load_yaml(describe(index(images=ImageCode(True, bands)), declared, groups="folder").encode())
    assert found == {
        "version": 1, "images": "a/*.jpg", "masks": "b/*.png", "roles": {"val": ["x*"]}, "exif": "apply",
        "empty_masks": "unlabelled", "classes": list(NAMES), "groups": "folder",
        "channels": [{"band": 1, "name": "red", "range": [0, 4095]}, {"band": 2, "name": "nir", "range": [0, 255]}],
    }  # fmt: skip


def test_a_file_of_groups_lies_below_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data" / "groups.txt", tmp_path / "groups.txt"
    inside.parent.mkdir()
    for file in (inside, outside):
        file.write_text("a\tb\n")
    assert "groups: groups.txt" in describe(index(root=inside.parent), DataYaml(), groups=str(inside))
    with pytest.raises(ConfigError, match="below its folder"):
        describe(index(root=inside.parent), DataYaml(), groups=str(outside))


def test_what_cannot_be_said_is_not_said_otherwise() -> None:
    """A class without any id: read back, it would be gone."""
    with pytest.raises(ConfigError, match="cannot be said in a data.yaml"):
        describe(index(MaskCode(mapping=((0, 0), (1, 2)))), DataYaml())


def test_what_only_the_owner_can_say(tmp_path):
    """The questions with their answers; what was guessed in their place is not said."""
    questions = [Finding("two_readings", "0 and 255\nfew: x", "a.png", "write in data.yaml: classes: {0: a, 255: b}")]
    text = describe(replace(index(root=tmp_path), classes=()), DataYaml(), questions=questions)
    assert "\n# TO SETTLE: 0 and 255\\nfew: x\n#   a.png\n#   write in data.yaml: classes: {0: a, 255: b}\n" in text
    assert load_yaml(text) == {"version": 1}, "comments alone"
