"""Data sets as they are published: PASCAL VOC, Cityscapes, CamVid."""

from collections import Counter

import numpy as np
import pytest

from fewmask.data.index import ROLES, MaskCode
from fewmask.data.layouts import propose_groups, read_folder
from fewmask.data.layouts.published import CITYSCAPES_CLASSES
from fewmask.data.masks import read_mask
from fewmask.errors import ConfigError, DataError
from fixtures_data import SHARED, blocks, make_cityscapes, make_voc
from fixtures_layouts import names, refuse


class TestVoc:
    def test_fine_masks_come_first(self, tmp_path):
        make_voc(tmp_path, ["2007_000001", "2007_000002"], ["2007_000003"], ["2008_000001"], ["2009_000001"])
        index = read_folder(tmp_path)
        assert index.layout == "voc" and len(index.classes) == 21 and index.classes[20] == "tvmonitor"
        assert names(index, "train") == ["2007_000001", "2007_000002", "2008_000001"]
        assert [i.mask.parent.name for i in index.items["train"]] == ["SegmentationClass"] * 2 + [
            "SegmentationClassAug"
        ]
        assert names(index, "val") == ["2007_000003"] and index.items["test"] == ()
        assert "train: 3 images of trainaug.txt" in index.notes
        assert "1 images are in neither list and are left out" in index.notes
        assert propose_groups(index) is None

    def test_inside_a_devkit_and_without_aug_masks(self, tmp_path):
        root = tmp_path / "VOCdevkit" / "VOC2012"
        make_voc(root, ["a"], ["b"], ["c"])
        (root / "SegmentationClassAug" / "c.png").unlink()
        index = read_folder(tmp_path)
        assert [(i.name, i.mask is None) for i in index.items["train"]] == [("a", False), ("c", True)]
        (root / "ImageSets/Segmentation/val.txt").unlink()
        assert "there is no val.txt in Segmentation" in read_folder(tmp_path, val_fraction=0).notes
        for name in ("train", "trainaug"):
            (root / f"ImageSets/Segmentation/{name}.txt").unlink()
        refuse(tmp_path, DataError, "no list train.txt; .*write the names")


class TestCityscapes:
    NAMES = ("train/aachen/aachen_000000_000019", "val/bonn/bonn_000000_000019", "test/ulm/ulm_000000_000019")

    def test_train_ids(self, tmp_path):
        index = read_folder(make_cityscapes(tmp_path, self.NAMES))
        assert index.layout == "cityscapes" and index.classes == CITYSCAPES_CLASSES and index.code == MaskCode()
        assert names(index, "train") == [self.NAMES[0]] and names(index, "val") == [self.NAMES[1]]
        assert "1 images outside train and val are left out" in index.notes[0]

    def test_label_ids_are_mapped(self, tmp_path):
        index = read_folder(make_cityscapes(tmp_path, self.NAMES, "labelIds", ids=(0, 7, 33, 29)))
        mask = read_mask(index.labelled[0].mask, index.code)
        np.testing.assert_array_equal(mask, blocks((255, 0, 18, 255)))
        # the published table, https://github.com/mcordts/cityscapesScripts labels.py: road 7, car 26, bicycle 33
        assert dict(index.code.mapping)[26] == CITYSCAPES_CLASSES.index("car")
        assert len(index.code.mapping) == 19 and len(index.code.ignore) == 15

    def test_mixed_masks_are_refused(self, tmp_path):
        make_cityscapes(tmp_path, self.NAMES[:1])
        make_cityscapes(tmp_path, self.NAMES[:2], "labelIds")
        refuse(tmp_path, DataError, "1 masks have labelIds, but no labelTrainIds")

    def test_other_classes_do_not_replace_the_mapping(self, tmp_path):
        make_cityscapes(tmp_path, self.NAMES, "labelIds")
        (tmp_path / "classes.txt").write_text("a\nb\n")
        refuse(tmp_path, ConfigError, "has its own ids")


@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="no ../shared/data/camvid beside the repository")
def test_camvid():
    index = read_folder(SHARED / "camvid")
    assert [len(index.items[r]) for r in ROLES] == [367, 101, 233]
    assert len(index.classes) == 11 and index.notes == () and len(index.labelled) == 367
    counts = {role: Counter(i.name.split("/")[1].split("_")[0] for i in index.items[role]) for role in ROLES}
    members = {group: set(found) for group, found in propose_groups(index).items()}
    for group, found in members.items():
        assert len(found) == sum(counts[role][group] for role in ROLES)
    assert set(members) == {"0001TP", "0006R0", "0016E5", "Seq05VD"}
