from pathlib import Path

import pytest

from fewmask.data.index import Item
from fewmask.data.lists import canonical_id, family_of, match, read_list, same_image
from fewmask.errors import ConfigError, DataError

SPLITS = Path(__file__).parents[3] / "shared" / "data" / "splits"
real_data = pytest.mark.real_data


def written(tmp_path, data):
    path = tmp_path / "list.txt"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def item(name, image=None):
    return Item(name, Path("/data/images") / (image or f"{name}.png"))


@pytest.mark.parametrize(
    ("line", "dialect", "name", "image", "mask"),
    [
        (
            "JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png",
            "space pairs",
            "2007_000032",
            "JPEGImages/2007_000032.jpg",
            "SegmentationClass/2007_000032.png",
        ),
        (
            "leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png "
            "gtFine/train/jena/jena_000078_000019_gtFine_labelTrainIds.png",
            "space pairs",
            "jena_000078_000019",
            "leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png",
            "gtFine/train/jena/jena_000078_000019_gtFine_labelTrainIds.png",
        ),
        (
            "/images/train/jena_000078_000019.png\t/segmentation/train/jena_000078_000019_gtFine.png",
            "tab pairs",
            "jena_000078_000019",
            "/images/train/jena_000078_000019.png",
            "/segmentation/train/jena_000078_000019_gtFine.png",
        ),
        (
            "leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png",
            "paths",
            "jena_000078_000019",
            "leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png",
            None,
        ),
        ("2007_000032", "names", "2007_000032", "2007_000032", None),
        ("seq 1/my frame 2", "names", "my frame 2", "seq 1/my frame 2", None),
        ("a photo.jpg", "paths", "a photo", "a photo.jpg", None),
        ("my a.jpg my a.png", "space pairs", "my a", "my a.jpg", "my a.png"),
        ("x y.jpg z w.png", "space pairs", "x y", "x y.jpg", "z w.png"),
        ("img/1 msk/1", "space pairs", "1", "img/1", "msk/1"),
        ("1 1", "names", "1 1", "1 1", None),
        ("#7", "names", "#7", "#7", None),
        ("v1.2", "names", "v1.2", "v1.2", None),
        ("a b\tc d", "tab pairs", "a b", "a b", "c d"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_line_of_every_dialect(tmp_path, line, dialect, name, image, mask, end):
    split = read_list(written(tmp_path, line + end))
    assert split.dialect == dialect
    (entry,) = split.entries
    assert (entry.id, entry.image, entry.mask, entry.line_no) == (name, image, mask, 1)


def test_comments_blank_lines_and_bom_are_skipped_and_repetitions_kept(tmp_path):
    path = written(tmp_path, b"\xef\xbb\xbf# our list\n\na\n  \n#\nb \na\n")
    assert [(e.image, e.line_no) for e in read_list(path).entries] == [("a", 3), ("b", 6), ("a", 7)]


def test_lines_of_two_dialects_are_called_mixed(tmp_path):
    assert read_list(written(tmp_path, "a\nb.jpg b.png\n")).dialect == "mixed"


def test_names_that_are_not_utf8_survive(tmp_path):
    (entry,) = read_list(written(tmp_path, b"gr\xfcn\n")).entries
    assert entry.image.encode("utf-8", "surrogateescape") == b"gr\xfcn"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "names no image"),
        (b"# only this\n\n", "names no image"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not a text file"),
        ("a".encode("utf-16"), "not a text file"),
        (b"a\n/\n", "line 2"),
        (b"..\n", "names no image"),
        (b"a\tb\tc\n", "3 fields"),
        (b"\tmask.png\n", "1 fields"),
        (b"a.jpg b.jpg c.jpg\n", "separate them with a tab"),
        (b"a " * 5000, "10000 characters|9999 characters"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, data, message):
    path = written(tmp_path, data)
    with pytest.raises(DataError, match=message) as error:
        read_list(path)
    assert str(path) in str(error.value)


def test_missing_list_is_wrong_usage_and_a_folder_is_no_list(tmp_path):
    with pytest.raises(ConfigError, match="no such list"):
        read_list(tmp_path / "none.txt")
    with pytest.raises(DataError, match="cannot read"):
        read_list(tmp_path)


def test_canonical_ids_and_families():
    for text in (
        "jena_000078_000019_gtFine",
        "x/jena_000078_000019_gtFine_labelIds.png",
        "jena_000078_000019.PNG",
    ):
        assert canonical_id(text) == "jena_000078_000019"
    assert canonical_id("_gtFine.png") == "_gtFine"  # never an empty id
    assert canonical_id("a\\b\\c.jpg") == "c"
    assert [family_of(x) for x in ("2007_000032", "jena_000078_000019", "2019_000032", "frame")] == [
        "VOC",
        "Cityscapes",
        None,
        None,
    ]
    assert same_image("JPEGImages/x.jpg", "x") and same_image("a/2007_000032", "b/2007_000032.jpg")
    assert not same_image("a/x", "b/x") and not same_image("ax", "x")


def test_matching_by_name_path_and_id(tmp_path):
    items = [item("a/001"), item("b/001"), item("c d"), item("jena/jena_000078_000019_leftImg8bit")]
    lines = [
        "a/001",
        "images/b/001.png",
        "c d",
        "/images/train/jena_000078_000019.png",
        "a/001.png",
        "./c d.png",
    ]
    found = match(read_list(written(tmp_path, "\n".join(lines))), items)
    assert [i.name for i in found] == [items[k].name for k in (0, 1, 2, 3, 0, 2)]


def test_exact_name_wins_over_a_folder_that_ends_alike(tmp_path):
    items = [item("001"), item("a/001")]
    assert match(read_list(written(tmp_path, "001\n")), items) == (items[0],)


def test_unknown_entry_names_list_line_and_nearest_name(tmp_path):
    path = written(tmp_path, "a\nframe_0011\n")
    with pytest.raises(DataError) as error:
        match(read_list(path), [item("a"), item("frame_001")])
    assert str(error.value) == (
        f"'frame_0011' is none of the 2 images it may name; {path} line 2; did you mean 'frame_001'?"
    )
    with pytest.raises(DataError, match="names look like 'a'"):
        match(read_list(path), [item("a")])


def test_ambiguous_entry_is_refused(tmp_path):
    for line in ("001", "001.png"):
        with pytest.raises(DataError, match="may be /data/images/a/001.png or /data/images/b/001.png"):
            match(read_list(written(tmp_path, line)), [item("a/001"), item("b/001")])


def test_same_file_name_in_another_folder_is_not_taken(tmp_path):
    with pytest.raises(DataError, match="'seq2/0001' is none of"):
        match(read_list(written(tmp_path, "seq2/0001")), [item("seq1/0001")])
    with pytest.raises(DataError, match="line 1.*both lead to '0001'"):
        match(read_list(written(tmp_path, "seq1/0001\nseq2/0001\n")), [item("0001")])


@pytest.mark.parametrize("line", ["../../etc/passwd", "/etc/passwd", "../secret.png", "..\\..\\etc\\passwd"])
def test_a_list_cannot_point_outside_the_data_root(tmp_path, line):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    path = written(tmp_path, line)
    with pytest.raises(DataError, match="is none of the 1 images"):
        match(read_list(path), [Item("a", root / "a.png")])
    # even a file of that name inside the root is all that can be reached
    inside = Item(canonical_id(line), root / f"{canonical_id(line)}.png")
    assert match(read_list(path), [inside]) == (inside,)


@real_data
@pytest.mark.skipif(not SPLITS.is_dir(), reason="../shared/data/splits is not there")
@pytest.mark.parametrize(
    ("name", "dialect", "lines", "first"),
    [
        ("unimatch/splits__pascal__val.txt", "space pairs", 1449, "2007_000033"),
        ("unimatch/splits__cityscapes__val.txt", "space pairs", 500, "frankfurt_000001_062250"),
        ("unimatch/splits__pascal__92__unlabeled.txt", "space pairs", 10490, "2009_000898"),
        ("u2pl/data__splits__pascal__1464__labeled.txt", "names", 1464, "2007_000032"),
        ("u2pl/data__splits__cityscapes__186__labeled.txt", "paths", 186, "hamburg_000000_080169"),
        ("cps/DATA__pascal_voc__subset_train_aug__pseudoseg_labeled_1-2.txt", "names", 732, "2007_006066"),
        (
            "cps/DATA__city__config_new__subset_train__train_aug_labeled_1-16.txt",
            "tab pairs",
            186,
            "jena_000078_000019",
        ),
        ("dars/data_split__cs_split4_labeled_match_len.txt", "space pairs", 2231, "aachen_000000_000019"),
        (
            "pixelssl/task__sseg__dataset__PascalVOC__sublabeled_prefix__1-16__0.txt",
            "names",
            662,
            "2009_003377",
        ),
    ],
)
def test_published_lists(name, dialect, lines, first):
    split = read_list(SPLITS / name)
    assert (split.dialect, len(split.entries), split.entries[0].id) == (dialect, lines, first)
    assert all(family_of(entry.id) for entry in split.entries)
