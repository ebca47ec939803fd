import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
from fewmask.data import facts as facts_module
from fewmask.data import scan as scan_module
from fewmask.data.index import ImageCode, Item, MaskCode
from fewmask.data.masks import read_mask
from fewmask.data.scan import scan
from fewmask.errors import DataError
from fixtures_data import blocks, save_image, save_mask

PLAIN = MaskCode()


def make_items(root, masks, **options):
    """Write one image a mask; None = an image without a mask."""
    items = []
    for i, mask in enumerate(masks):
        image = save_image(root / "images" / f"{i}.png", seed=i, **options)
        path = None if mask is None else save_mask(root / "masks" / f"{i}.png", mask, palette=False)
        items.append(Item(str(i), image, path))
    return items


def look(items, classes=2, code=PLAIN, **options):
    return scan(items, classes, code, **{"cache": False, **options})


def test_counts(tmp_path):
    ids = blocks((0, 1, 1, 255))
    found = look(make_items(tmp_path, [ids, None, blocks((0,))]), classes=3)
    assert found.problems == () and found.names == ("0", "1", "2")
    zeros, ones, void = ((ids == i).sum() for i in (0, 1, 255))
    expected = [[zeros, ones, 0, void], [0, 0, 0, 0], [12 * 16, 0, 0, 0]]
    assert found.counts.dtype == np.int64 and found.counts.tolist() == expected
    assert found.class_pixels.tolist() == [zeros + 192, ones, 0]
    assert found.class_images.tolist() == [2, 1, 0]
    assert found.masked.tolist() == [True, False, True] and found.empty_masks == ("2",)
    assert found.sizes.tolist() == [[12, 16]] * 3 and found.encodings == {"PNG, grey index": 2}
    assert found.rows([Item("2", Path()), Item("other", Path()), Item("0", Path())]).tolist() == [2, 0]
    found.raise_first()


def test_classes_may_be_left_to_the_masks(tmp_path):
    assert look(make_items(tmp_path, [blocks((0, 4)), blocks((2,))]), None).counts.shape == (2, 6)


def test_undeclared_ids_say_where_and_how_many_more(tmp_path):
    bad = blocks((0, 1))
    bad[7, 3] = bad[8, 0] = 37
    bad[9, 9] = 40
    items = make_items(tmp_path, [blocks((0, 1)), bad, bad])
    found = look(items)
    assert [(p.kind, p.name, p.value, p.position) for p in found.problems] == [
        ("undeclared_id", "1", 37, (3, 7)), ("undeclared_id", "2", 37, (3, 7)),
    ]  # fmt: skip
    message = r"undeclared class id 37 \(2 pixels, first at x=3 y=7\), 40 \(1 pixels\).*1\.png"
    with pytest.raises(DataError, match=message) as caught:
        found.raise_first()
    assert caught.value.exit_code == 3 and "ignore: [37, 40]" in caught.value.todo
    assert "(and 1 more; fewmask check DIR lists them)" in caught.value.todo
    assert look(items, code=MaskCode(ignore=(37, 40))).problems == ()


def test_sizes_that_differ(tmp_path):
    found = look(make_items(tmp_path, [blocks((0, 1), height=10)]))
    assert found.problems[0].what == "image is 16x12, its mask 16x10" and found.problems[0].value == "16x12 16x10"


@pytest.mark.parametrize("images", [True, False])
def test_bad_files_are_listed_not_raised(tmp_path, images):
    items = make_items(tmp_path, [blocks((0, 1))] * 4)
    data = items[0].image.read_bytes()
    items[0].image.write_bytes(data[: len(data) // 2])
    items[1].mask.write_bytes(b"")
    items[2].mask.unlink()
    found = look(items, images=images)
    assert [p.name for p in found.problems] == (["0", "1", "2"] if images else ["1", "2"])
    assert found.masked.tolist() == [True, False, False, True]


def test_a_mask_path_that_is_not_given_is_never_opened(tmp_path, monkeypatch):
    items = make_items(tmp_path, [blocks((0, 1)), blocks((0, 9))])
    opened = []
    honest = scan_module.decode_mask
    monkeypatch.setattr(scan_module, "decode_mask", lambda p, c, **k: (opened.append(p), honest(p, c, **k))[1])
    assert look([items[0], items[1].without_mask()]).problems == ()
    assert opened == [items[0].mask]


class TestZeroAnd255:
    MASKS = (blocks((0, 255)), blocks((0,)), blocks((255, 0)))

    def test_two_readings(self, tmp_path):
        found = look(make_items(tmp_path, self.MASKS))
        with pytest.raises(DataError, match="only the values 0 and 255") as caught:
            found.raise_first()
        assert "classes: {0: background, 255: object}" in caught.value.todo
        assert "ignore: 255" in caught.value.todo

    @pytest.mark.parametrize("code", [MaskCode(ignore=(255,)), MaskCode(mapping=((0, 0), (255, 1)))])
    def test_either_declaration_settles_it(self, tmp_path, code):
        found = look(make_items(tmp_path, self.MASKS), code=code)
        assert found.problems == ()
        assert (found.class_pixels[1] > 0) == (code.mapping is not None)

    def test_one_mask_with_a_class_settles_it(self, tmp_path):
        assert look(make_items(tmp_path, [*self.MASKS, blocks((0, 1))])).problems == ()


class TestOrientation:
    """The stored image is 16 wide and 12 high unless said otherwise."""

    @pytest.mark.parametrize(
        ("tag", "height", "mask", "message"),
        [
            (6, 12, (12, 16), None),
            (6, 12, (16, 12), "EXIF orientation 6 turns it"),
            (6, 12, (9, 9), "image is 16x12, its mask 9x9"),
            (6, 16, (16, 16), "both readings fit"),
            (3, 12, (12, 16), "both readings fit"),
            (1, 12, (12, 16), None),
            (99, 12, (12, 16), None),
        ],
    )
    def test_readings(self, tmp_path, tag, height, mask, message):
        items = make_items(tmp_path, [blocks((0, 1), *mask)], height=height, exif=tag)
        problems = look(items).problems
        assert len(problems) == (message is not None)
        assert message is None or message in problems[0].what

    @pytest.mark.parametrize(
        ("tag", "height", "mask", "message"),
        [
            (6, 12, (16, 12), None),
            (6, 12, (12, 16), "belongs to the image as it is stored"),
            (6, 12, (9, 9), "image is 12x16, its mask 9x9"),
            (3, 12, (12, 16), None),
            (1, 12, (12, 16), None),
        ],
    )
    def test_turned(self, tmp_path, tag, height, mask, message):
        """exif: apply; sizes are those of the turned image."""
        items = make_items(tmp_path, [blocks((0, 1), *mask)], height=height, exif=tag)
        found = look([replace(items[0], code=ImageCode(upright=True))], exif="apply")
        assert [p.what for p in found.problems] == [] if message is None else message in found.problems[0].what
        assert found.sizes.tolist() == [[16, 12] if tag == 6 else [12, 16]]

    def test_a_declaration_settles_it(self, tmp_path):
        items = make_items(tmp_path, [blocks((0, 1))], exif=3)
        assert look(items, exif="ignore").problems == ()
        assert look([items[0].without_mask()]).problems == ()


class TestMemory:
    @pytest.fixture(autouse=True)
    def trust_new_files(self, request, monkeypatch):
        # change times cannot be set, and no test should wait until they are old
        if "not_trusted" not in request.node.name:
            monkeypatch.setattr(facts_module, "_UNSETTLED_NS", -1)

    def items(self, root):
        return make_items(root, [blocks((0, 1)), blocks((0, 1, 255)), None])

    def look(self, items, folder, monkeypatch, classes=2, code=PLAIN):
        """Return a scan and the folders of the files that it decoded."""
        opened = []

        def watched(read):
            return lambda path, *rest, **more: (opened.append(path.parent.name), read(path, *rest, **more))[1]

        with monkeypatch.context() as patch:
            for name in ("read_picture", "decode_mask", "read_mask"):
                patch.setattr(scan_module, name, watched(getattr(scan_module, name)))
            return scan(items, classes, code, cache=folder), sorted(opened)

    def test_a_second_scan_opens_nothing_and_finds_the_same(self, tmp_path, monkeypatch):
        items = self.items(tmp_path / "data")
        first, opened = self.look(items, tmp_path / "memory", monkeypatch)
        assert opened == ["images"] * 3 + ["masks"] * 2
        second, opened = self.look(items, tmp_path / "memory", monkeypatch)
        assert opened == []
        np.testing.assert_array_equal(first.counts, second.counts)
        np.testing.assert_array_equal(first.sizes, second.sizes)
        assert first.encodings == second.encodings and first.problems == second.problems

    def test_what_changed_is_opened_again(self, tmp_path, monkeypatch):
        items = self.items(tmp_path / "data")
        self.look(items, tmp_path / "memory", monkeypatch)
        save_mask(items[0].mask, blocks((0, 9)), palette=False)
        found, opened = self.look(items, tmp_path / "memory", monkeypatch)
        assert opened == ["masks", "masks"]  # the second time to say where the id is
        assert "undeclared class id 9" in found.problems[0].what

    def test_remembered_ids_are_judged_by_todays_classes(self, tmp_path, monkeypatch):
        items = self.items(tmp_path / "data")
        self.look(items, tmp_path / "memory", monkeypatch)
        found, _ = self.look(items, tmp_path / "memory", monkeypatch, classes=1)
        assert len(found.problems) == 2 and "undeclared class id 1" in found.problems[0].what

    def test_another_code_reads_again(self, tmp_path, monkeypatch):
        items = self.items(tmp_path / "data")
        self.look(items, tmp_path / "memory", monkeypatch)
        found, _ = self.look(items, tmp_path / "memory", monkeypatch, code=MaskCode(ignore=(1,)))
        assert found.class_pixels[1] == 0

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text[: len(text) // 2],
            lambda text: "[]",
            lambda text: "\0" * 99,
            lambda text: json.dumps({key: 3 for key in json.loads(text)}),
            lambda text: text.replace('"0":', '"1":'),
            lambda text: text.replace('"pixels": {"0"', '"pixels": {"zero"'),
        ],
    )
    def test_a_damaged_memory_is_rebuilt(self, tmp_path, monkeypatch, damage):
        items = self.items(tmp_path / "data")
        first, _ = self.look(items, tmp_path / "memory", monkeypatch)
        (file,) = (tmp_path / "memory").iterdir()
        file.write_text(damage(file.read_text()))
        second, opened = self.look(items, tmp_path / "memory", monkeypatch)
        assert "masks" in opened
        np.testing.assert_array_equal(first.counts, second.counts)
        _, opened = self.look(items, tmp_path / "memory", monkeypatch)
        assert opened == []

    def test_bad_files_are_never_remembered(self, tmp_path, monkeypatch):
        items = self.items(tmp_path / "data")
        items[0].mask.write_bytes(b"")
        for _ in range(2):
            found, opened = self.look(items, tmp_path / "memory", monkeypatch)
            assert found.problems[0].name == "0"

    def test_files_that_just_changed_are_not_trusted(self, tmp_path):
        items = make_items(tmp_path / "data", [blocks((0, 1))])
        look(items, cache=tmp_path / "memory")
        assert [json.loads(f.read_text()) for f in (tmp_path / "memory").iterdir()] == [{}]

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "memory").write_text("a file")
        items = self.items(tmp_path / "data")
        assert look(items, cache=tmp_path / "memory").problems == ()

    def test_the_user_folder_is_used(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        look(self.items(tmp_path / "data"), cache=None)
        assert [f.suffix for f in (tmp_path / "home" / "fewmask").iterdir()] == [".json"]

    def test_scans_at_once_leave_a_whole_file(self, tmp_path):
        items = self.items(tmp_path / "data")
        halves = [items[:2], items[1:]] * 3
        found = [None] * len(halves)

        def one(i):
            found[i] = look(halves[i], cache=tmp_path / "memory", threads=1)

        runs = [threading.Thread(target=one, args=(i,)) for i in range(len(halves))]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        assert all(f.problems == () for f in found)
        files = list((tmp_path / "memory").iterdir())
        assert [f.suffix for f in files] == [".json"]
        assert json.loads(files[0].read_text())


def test_only_images_that_look_alike_are_compared(tmp_path, monkeypatch):
    """Equal images share the small hash, so the pixels of the others need not be hashed."""
    items = make_items(tmp_path, [None] * 6)
    twin, turned = Item("twin", tmp_path / "twin.bmp"), Item("turned", tmp_path / "turned.tif")
    with Image.open(items[2].image) as image:
        image.save(twin.image)
        tags = Image.Exif()
        tags[274] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(turned.image, exif=tags)  # Pillow turns it back
    compared = []
    honest = scan_module._content
    monkeypatch.setattr(scan_module, "_content", lambda item: (compared.append(item.name), honest(item))[1])
    found = look([*items, twin, turned], threads=1)
    assert compared == ["2", "twin", "turned"]
    assert len({found.contents[row] for row in (2, 6, 7)}) == 1 and len(found.contents[2]) == 32
    assert [name for name, content in zip(found.names, found.contents, strict=True) if content] == compared


def test_nothing_to_scan():
    found = look([])
    assert found.counts.shape == (0, 3) and found.problems == () and found.empty_masks == ()


def test_colour_masks_count_as_such(tmp_path):
    items = make_items(tmp_path, [blocks((0, 1))])
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(items[0].mask)
    found = look(items, code=MaskCode(colours=(((0, 0, 0), 0),)))
    assert found.problems == () and found.encodings == {"PNG, colour": 1}
    Image.fromarray(np.full((12, 16, 3), (0, 0, 9), np.uint8)).save(items[0].mask)
    assert "no colour map" in look(items).problems[0].what


def test_index_masks_that_have_three_channels(tmp_path):
    """Some programs save them so; with an alpha channel, if that says nothing."""
    items = make_items(tmp_path, [blocks((0, 2)), blocks((2, 1)), blocks((1, 1))])
    for item, mode in zip(items, ("RGB", "RGBA", "RGBA"), strict=True):
        ids = np.array(Image.open(item.mask))
        Image.merge("RGB", [Image.fromarray(ids)] * 3).convert(mode).save(item.mask)
        assert (read_mask(item.mask, MaskCode()) == ids).all()
    assert look(items, classes=3).problems == ()
    see_through = Image.open(items[2].mask)
    see_through.putalpha(0)
    see_through.save(items[2].mask)
    assert [p.kind for p in look(items, classes=3).problems] == ["transparency"]
