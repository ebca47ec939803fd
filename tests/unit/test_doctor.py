import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fewmask.data.doctor import class_coverage, diagnose, voc_fine_ids
from fewmask.data.duplicates import _popcount, near_duplicates
from fewmask.data.index import Item
from fewmask.data.lists import read_list
from fewmask.errors import ConfigError, DataError

DATA = Path(__file__).parents[3] / "shared" / "data"
SPLITS = DATA / "splits"
CPS = SPLITS / "cps"
VOC_CPS = "DATA__pascal_voc__subset_train_aug__"


def real_data(test):
    there = pytest.mark.skipif(not SPLITS.is_dir(), reason="../shared/data is not there")
    return pytest.mark.real_data(there(test))


def lists(folder, **contents):
    paths = []
    for name, names in contents.items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{n}\n" for n in names))
        paths.append(path)
    return paths


def found(diagnosis, code):
    return [finding for finding in diagnosis.findings if finding.code == code]


def voc(n, first=0):
    return [f"2008_{i:06}" for i in range(first, first + n)]


def test_one_list(tmp_path):
    d = diagnose(lists(tmp_path, mine=["b", "a", "a"]))
    (r,) = d.lists
    assert (r.name, r.role, r.family, r.lines, r.images, r.fine) == ("mine.txt", "", "other", 3, 2, None)
    assert [f.code for f in d.findings] == ["repeated"] and not d.problems and not d.overlaps


def test_hash_names_the_set_of_images_in_every_dialect(tmp_path):
    a, b, c = lists(
        tmp_path,
        a=["2007_000032", "2007_000039"],
        b=[f"JPEGImages/{i}.jpg SegmentationClass/{i}.png" for i in ("2007_000039", "2007_000032", "2007_000032")],
        c=["2007_000032", "2007_000040"],
    )
    ra, rb, rc = diagnose([a, b, c]).lists
    assert ra.hash == rb.hash != rc.hash and len(ra.hash) == 16
    assert diagnose([b]).lists[0].hash == rb.hash


@pytest.mark.parametrize(
    "names", [("labelled", "unlabelled"), ("x_labeled_1-16", "x_unlabeled_1-16"), ("labeled", "u/unlabeled")]
)
def test_a_labelled_image_in_the_unlabelled_list_is_a_problem(tmp_path, names):
    a, b = names
    d = diagnose(lists(tmp_path, **{a: ["i1", "i2", "i3"], b: ["i4", "i3", "i2"]}))
    (problem,) = d.problems
    assert problem.code == "labelled_in_unlabelled"
    assert "2 labelled image(s)" in problem.text and problem.text.endswith("first i2")
    assert d.lines()[-1] == f"problem: {problem.text}"


def test_lists_of_different_splits_may_overlap(tmp_path):
    paths = lists(
        tmp_path,
        **{
            "92/labeled": ["a"],
            "92/unlabeled": ["b", "c"],
            "183/labeled": ["b"],
            "183/unlabeled": ["a", "c"],
        },
    )
    d = diagnose(paths)
    assert not d.problems
    assert len(d.overlaps) == 3


def test_overlap_of_lists_that_nothing_pairs_is_said(tmp_path):
    d = diagnose(lists(tmp_path, a_labelled=["x"], b_labelled=["y"], c_unlabelled=["x", "z"]))
    assert not d.problems
    assert [f.lists for f in found(d, "unpaired")] == [("a_labelled.txt", "c_unlabelled.txt")]


def test_repeated_labelled_list_belongs_to_its_unlabelled_list(tmp_path):
    d = diagnose(lists(tmp_path, s_labeled=["a"], s_labeled_match_len=["a", "a"], s_unlabeled=["b", "a"]))
    assert {f.lists[0] for f in d.problems} == {"s_labeled.txt", "s_labeled_match_len.txt"}


def test_leaks_into_val_by_name_and_as_given(tmp_path):
    train, val, other = lists(tmp_path, train=["a", "b"], my_val=["b"], held=["a"])
    assert [f.code for f in diagnose([train, val]).problems] == ["leak_into_val"]
    assert not diagnose([train, other]).problems
    d = diagnose([train, val], val=other)
    assert [f.lists for f in d.problems] == [("train.txt", "my_val.txt"), ("train.txt", "held.txt")]
    assert not diagnose(lists(tmp_path, trainval=["a"], evaluate=["a"])).problems  # a word, not a syllable


def test_folders_count_where_only_they_tell_images_apart(tmp_path):
    d = diagnose(lists(tmp_path, labelled=["seq1/001"], unlabelled=["seq2/001", "seq2/002"]))
    assert not d.problems and not d.overlaps
    d = diagnose(lists(tmp_path, labelled=["images/001.jpg masks/001.png"], unlabelled=["001", "002"]))
    assert len(d.problems) == 1
    assert diagnose(lists(tmp_path, mine=["seq1/001", "seq2/001"])).lists[0].images == 2


def test_fine_share_and_splits_that_cannot_be_compared(tmp_path):
    fine = sorted(voc_fine_ids())
    coarse = [f"2012_9{i:05}" for i in range(20)]
    d = diagnose(lists(tmp_path, easy_labeled=fine[:20], hard_labeled=fine[:2] + coarse[:18]))
    assert [r.fine for r in d.lists] == [20, 2]
    (note,) = found(d, "different_splits")
    assert "share only 2 of 20" in note.text and "100.0 % against 10.0 % fine labels" in note.text
    d = diagnose(lists(tmp_path, easy_labeled=fine[:20], near_labeled=fine[1:21]))
    assert not found(d, "different_splits")


def test_pools(tmp_path):
    ids = [f"jena_{i:06}_000019" for i in range(2975)]
    for last, code in ((2975, "pool"), (2970, "unusual_pool")):
        d = diagnose(lists(tmp_path, labelled=ids[:186], unlabelled=ids[186:last]))
        (note,) = [f for f in d.findings if f.code.endswith("pool")]
        assert note.code == code and f" {last} images" in note.text
        assert [r.family for r in d.lists] == ["Cityscapes", "Cityscapes"]


def test_json_and_lines(tmp_path):
    d = diagnose(lists(tmp_path, labelled=voc(3), unlabelled=voc(9, first=2)))
    data = json.loads(json.dumps(d.to_json()))
    assert data["problems"] == 1
    assert data["overlaps"] == [{"a": "labelled.txt", "b": "unlabelled.txt", "shared": 1, "first": "2008_000002"}]
    assert data["lists"][0]["role"] == "labelled" and data["findings"][0]["level"] == "note"
    assert d.lines()[0].startswith("labelled.txt: 3 images, VOC, labelled, ")
    assert "labelled.txt and unlabelled.txt share 1 image(s)" in d.lines()


def test_many_overlaps_are_left_to_json(tmp_path):
    d = diagnose(lists(tmp_path, **{f"l{i}": ["a", f"b{i}"] for i in range(6)}))
    assert len(d.overlaps) == 15
    assert "3 more pairs overlap: see --json" in d.lines()


def test_a_file_given_twice_counts_once_and_none_is_wrong_usage(tmp_path):
    (path,) = lists(tmp_path, a_val=["x"])
    assert len(diagnose([path, path], val=path).lists) == 1
    with pytest.raises(ConfigError, match="no list"):
        diagnose([])


def test_class_coverage():
    counts = np.array([[5, 0, 0], [1, 0, 2]], np.int64)
    assert class_coverage(("sky", "bus", "tree"), counts) == ("bus",)
    assert class_coverage(("sky", "bus", "tree"), counts[:0]) == ("sky", "bus", "tree")
    with pytest.raises(ValueError, match=r"expected \[N, 2\]"):
        class_coverage(("sky", "bus"), counts)


def test_the_voc_ids_that_we_ship():
    assert len(voc_fine_ids()) == 1464
    assert {"2007_000032", "2011_003255"} <= voc_fine_ids()
    assert "2007_000033" not in voc_fine_ids()  # the first of val


def picture(seed, size=(120, 90)):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def saved(folder, name, image, **options):
    path = folder / name
    image.save(path, **options)
    return Item(path.stem, path)


def test_near_duplicates_under_another_name_size_and_format(tmp_path):
    train = [saved(tmp_path, f"t{i}.png", picture(i)) for i in range(20)]
    val = [
        saved(tmp_path, "v0.jpg", picture(7), quality=80),
        saved(tmp_path, "v1.png", picture(12).resize((200, 150))),
        saved(tmp_path, "v2.png", picture(99)),
        saved(tmp_path, "v3.png", picture(3).convert("L")),
    ]
    d = near_duplicates({"train": train, "val": val, "test": []})
    assert [(p.roles, p.names) for p in d.pairs] == [
        (("train", "val"), names) for names in (("t3", "v3"), ("t7", "v0"), ("t12", "v1"))
    ]
    assert all(0 <= p.distance <= 2 for p in d.pairs) and d.notes == ()


def test_one_hash_is_not_enough(tmp_path):
    # both rise to the right everywhere, so that all 64 signs agree, but they are not the same picture
    ramp = np.linspace(0, 1, 64)[None].repeat(64, 0)
    a = saved(tmp_path, "a.png", Image.fromarray((255 * ramp**3).astype(np.uint8)))
    b = saved(tmp_path, "b.png", Image.fromarray((255 * (1 - (1 - ramp) ** 3)).astype(np.uint8)))
    assert near_duplicates({"train": [a], "val": [b]}).pairs == ()
    assert len(near_duplicates({"train": [a], "val": [a]}).pairs) == 1


def test_blank_pictures_too_many_pictures_and_no_pictures(tmp_path):
    blank = saved(tmp_path, "blank.png", Image.new("RGB", (32, 32), "white"))
    d = near_duplicates({"train": [blank], "val": [blank]})
    assert d.pairs == () and d.notes == ("2 images of nearly one colour were not compared",)
    d = near_duplicates({"train": [blank] * 3, "val": [blank]}, limit=3)
    assert d.pairs == () and "not looked for: 4 images are more than 3" in d.notes[0]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(DataError, match="is no JPEG, PNG"):
        near_duplicates({"train": [Item("bad", bad)], "val": [blank]})


def test_deep_pictures_are_compared_too(tmp_path):
    deep = np.asarray(picture(5).convert("L")).astype(np.uint16) * 16  # 12 bits in 16
    items = {
        "train": [saved(tmp_path, "deep.tif", Image.fromarray(deep))],
        "val": [saved(tmp_path, "plain.png", picture(5).convert("L"))],
    }
    assert len(near_duplicates(items).pairs) == 1


def test_popcount():
    words = np.random.default_rng(0).integers(0, 2**64, 200, dtype=np.uint64)
    words[:2] = (0, 2**64 - 1)
    assert _popcount(words).tolist() == [bin(w).count("1") for w in words.tolist()]


@real_data
def test_the_shipped_voc_ids_are_the_published_ones():
    published = read_list(SPLITS / "u2pl/data__splits__pascal__1464__labeled.txt")
    assert {entry.id for entry in published.entries} == voc_fine_ids()
    assert not voc_fine_ids() & {e.id for e in read_list(SPLITS / "u2pl/data__splits__pascal__val.txt").entries}


@real_data
@pytest.mark.parametrize(("part", "image"), [("1-16", "2008_004822"), ("1-2", "2009_000662")])
def test_pseudoseg_lists_of_cps_leak_one_labelled_image_each(part, image):
    d = diagnose([CPS / f"{VOC_CPS}pseudoseg_{role}_{part}.txt" for role in ("labeled", "unlabeled")])
    (problem,) = d.problems
    assert problem.code == "labelled_in_unlabelled"
    assert "holds 1 labelled image(s)" in problem.text and problem.text.endswith(image)
    assert [f.code for f in d.findings if f.level == "note"] == ["small_pool"]


@real_data
@pytest.mark.parametrize(
    ("mine", "theirs", "shared"),
    [
        ("u2pl/data__splits__pascal__662__labeled.txt", "unimatch/splits__pascal__1_16__labeled.txt", 43),
        ("u2pl/data__splits__pascal__662__labeled.txt", f"cps/{VOC_CPS}train_aug_labeled_1-16.txt", 43),
        ("u2pl/data__splits__pascal__1323__labeled.txt", "unimatch/splits__pascal__1_8__labeled.txt", 172),
    ],
)
def test_u2pl_lists_are_all_fine_where_unimatch_and_cps_are_not(mine, theirs, shared):
    d = diagnose([SPLITS / mine, SPLITS / theirs])
    easy, hard = d.lists
    assert easy.fine == easy.images
    assert hard.fine is not None and 0.14 <= hard.fine / hard.images <= 0.15
    (note,) = found(d, "different_splits")
    assert f"share only {shared} of {easy.images}" in note.text and "not comparable" in note.text
    assert not d.problems


@real_data
def test_all_published_lists_at_once():
    d = diagnose(sorted(SPLITS.glob("*/*.txt")))
    assert len(d.lists) == 35
    # the two leaks of CPS and nothing else: no list of any repository holds a val image
    assert [f.code for f in d.problems] == ["labelled_in_unlabelled"] * 2
    assert all("pseudoseg" in f.text for f in d.problems)
    assert not found(d, "unusual_pool") and not found(d, "unpaired")
    assert len(found(d, "pool")) == 12
    repeated = {f.lists[0] for f in found(d, "repeated")}
    assert repeated == {f"dars/data_split__cs_split{k}_labeled_match_len.txt" for k in (4, 8)}
    by_name = {r.name: r for r in d.lists}
    assert by_name[f"cps/{VOC_CPS}train_aug_labeled_1-16.txt"].hash == (
        by_name["unimatch/splits__pascal__1_16__labeled.txt"].hash
    )
    (train,) = found(d, "voc_train")
    assert train.lists == ("u2pl/data__splits__pascal__1464__labeled.txt",)
    assert sorted(r.name for r in d.lists if r.role == "val") == [
        "u2pl/data__splits__pascal__val.txt",
        "unimatch/splits__cityscapes__val.txt",
        "unimatch/splits__pascal__val.txt",
    ]


@real_data
def test_a_val_image_in_a_published_training_list_would_be_found(tmp_path):
    val = SPLITS / "unimatch/splits__pascal__val.txt"
    train = tmp_path / "labeled.txt"
    train.write_text((SPLITS / "u2pl/data__splits__pascal__662__labeled.txt").read_text() + "\n2007_000033\n")
    (problem,) = diagnose([train, val]).problems
    assert problem.code == "leak_into_val" and problem.text.endswith("first 2007_000033")


@real_data
@pytest.mark.parametrize("name", ["wbc", "camvid"])
def test_no_near_duplicates_in_the_sample_data(name):
    folders = sorted((DATA / name / "images").iterdir())
    items = {f.name: [Item(p.stem, p) for p in sorted(f.iterdir())] for f in folders}
    assert near_duplicates(items).pairs == ()
