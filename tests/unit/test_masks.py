import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
from fewmask.batch import OPEN
from fewmask.data.decode import read_header
from fewmask.data.images import image_size, read_image
from fewmask.data.index import NO_ID, ImageCode, MaskCode
from fewmask.data.masks import read_known, read_mask
from fewmask.errors import DataError
from fixtures_data import blocks, picture, raw_png, save_image, save_mask

PLAIN = MaskCode()


@pytest.mark.parametrize("palette", [True, False])
def test_ids_are_read_as_stored(tmp_path, palette):
    ids = blocks((0, 1, 2, 3, 255))
    mask = read_mask(save_mask(tmp_path / "m.png", ids, palette=palette), PLAIN)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, ids)


@pytest.mark.parametrize(("bits", "row", "ids"), [(2, [0b00011011], [0, 1, 2, 3]), (4, [0x01, 0x2F], [0, 1, 2, 15])])
def test_low_bit_grey_is_not_stretched(tmp_path, bits, row, ids):
    path = raw_png(tmp_path / "m.png", [row], width=4, bits=bits, colour_type=0)
    assert np.asarray(Image.open(path)).max() == 255, "Pillow stretches: this test is about undoing that"
    assert read_mask(path, PLAIN).tolist() == [ids]


def test_one_bit_mask(tmp_path):
    Image.fromarray(blocks((0, 1)).astype(bool)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", PLAIN), blocks((0, 1)))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_ids(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    Image.fromarray(np.array([[0, 7, 300, 1000]], np.uint16)).save(path)
    with pytest.raises(DataError, match=r"undeclared class id 300 \(1 pixels, first at x=2 y=0\)"):
        read_mask(path, PLAIN)
    code = MaskCode(ignore=(1000,), mapping=((0, 0), (7, 1), (300, 2)))
    assert read_mask(path, code).tolist() == [[0, 1, 2, 255]]


def test_code_ignores_merges_and_may_learn_255(tmp_path):
    path = save_mask(tmp_path / "m.png", blocks((0, 5, 7, 255)), palette=False)
    assert set(np.unique(read_mask(path, MaskCode(ignore=(5,))))) == {0, 7, 255}
    merged = read_mask(path, MaskCode(mapping=((0, 0), (5, 1), (7, 1), (255, 2))))
    np.testing.assert_array_equal(merged, blocks((0, 1, 1, 2)))


def test_id_outside_the_mapping_is_an_error_with_its_place(tmp_path):
    ids = blocks((0, 1))
    ids[3, 5] = ids[4, 1] = 37
    path = save_mask(tmp_path / "m.png", ids)
    with pytest.raises(DataError, match=r"undeclared class id 37 \(2 pixels, first at x=5 y=3\)") as caught:
        read_mask(path, MaskCode(mapping=((0, 1), (1, 0))))
    assert caught.value.where == str(path)
    assert caught.value.exit_code == 3


class TestColours:
    CODE = MaskCode(colours=(((0, 0, 0), 0), ((128, 0, 0), 1), ((9, 9, 9), NO_ID)))

    def save(self, path, colours):
        table = np.array(colours, np.uint8)
        Image.fromarray(table[blocks(range(len(colours)))]).save(path)
        return path

    def test_without_a_map_the_error_names_the_colours(self, tmp_path):
        path = self.save(tmp_path / "m.png", [(0, 0, 0), (128, 0, 0)])
        with pytest.raises(DataError, match=r'2 colours, and no colour map.*"0,0,0": ..., "128,0,0": ...'):
            read_mask(path, PLAIN)

    def test_with_a_map(self, tmp_path):
        path = self.save(tmp_path / "m.png", [(0, 0, 0), (128, 0, 0), (9, 9, 9)])
        np.testing.assert_array_equal(read_mask(path, self.CODE), blocks((0, 1, 255)))

    def test_an_ignored_colour_stays_ignored_where_255_is_a_class(self, tmp_path):
        path = self.save(tmp_path / "m.png", [(0, 0, 0), (9, 9, 9)])
        code = MaskCode(mapping=((0, 0), (255, 1)), colours=(((0, 0, 0), 255), ((9, 9, 9), NO_ID)))
        np.testing.assert_array_equal(read_mask(path, code), blocks((1, 255)))

    def test_unknown_colour_is_named(self, tmp_path):
        path = self.save(tmp_path / "m.png", [(0, 0, 0), (127, 0, 1)])
        with pytest.raises(DataError, match="undeclared colour 127,0,1"):
            read_mask(path, self.CODE)

    def test_a_palette_is_read_by_its_colours(self, tmp_path):
        image = Image.fromarray(blocks((0, 1)))
        image.putpalette([128, 0, 0, 0, 0, 0])
        image.save(tmp_path / "m.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png", self.CODE), blocks((1, 0)))


@pytest.mark.parametrize(
    ("name", "options"),
    [("m.jpg", {}), ("m.webp", {"lossless": True}), ("m.tif", {"compression": "jpeg"})],
)
def test_lossy_masks_are_refused(tmp_path, name, options):
    Image.fromarray(blocks((0, 1))).save(tmp_path / name, **options)
    with pytest.raises(DataError, match="lossy"):
        read_mask(tmp_path / name, PLAIN)


def test_white_is_zero_is_refused(tmp_path):
    Image.fromarray(blocks((0, 1))).save(tmp_path / "m.tif", tiffinfo={262: 0})
    with pytest.raises(DataError, match="ambiguous"):
        read_mask(tmp_path / "m.tif", PLAIN)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA"])
def test_lossless_conversions(tmp_path, mode):
    image = Image.fromarray(picture()).convert(mode)
    image.save(tmp_path / "i.png")
    read = read_image(tmp_path / "i.png")
    assert read.shape == (12, 16, 3) and read.dtype == np.uint8 and read.flags.writeable
    np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))


def test_transparent_pixels_are_refused(tmp_path):
    alpha = np.full((12, 16, 1), 255, np.uint8)
    alpha[2, 2] = 254
    Image.fromarray(np.concatenate([picture(), alpha], axis=2)).save(tmp_path / "rgba.png")
    Image.fromarray(blocks((0, 1))).save(tmp_path / "grey.png", transparency=1)
    for name in ("rgba.png", "grey.png"):
        with pytest.raises(DataError, match="transparent"):
            read_image(tmp_path / name)


def test_what_would_lose_bits_is_refused(tmp_path):
    Image.fromarray(np.array([[1, 65535]], np.uint16)).save(tmp_path / "grey16.png")
    raw_png(tmp_path / "rgb16.png", [[0, 255, 1, 0, 2, 0]], width=1, bits=16, colour_type=2)
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "cmyk.jpg")
    for name, kind in (("grey16.png", "16-bit"), ("rgb16.png", "16-bit RGB"), ("cmyk.jpg", "CMYK")):
        with pytest.raises(DataError, match=f"{kind}.* images are not read without declaration"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["i.png", "i.webp", "i.tif"])
def test_several_frames_are_refused(tmp_path, name):
    frames = [Image.fromarray(picture(seed=s)) for s in (0, 1)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="2 frames"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["i.jpg", "i.png", "i.bmp", "i.webp", "i.tif"])
def test_truncated_files_are_named(tmp_path, name):
    path = save_image(tmp_path / name, height=64, width=64)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_image(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "empty"), (b"hello", "is no JPEG"), (b"\0\0\0\x0cjP  " + bytes(40), "is no JPEG")]
)
def test_what_is_no_image(tmp_path, data, message):
    (tmp_path / "i.png").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / "i.png")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)


def test_pixel_cap_is_read_from_the_header(tmp_path):
    path = raw_png(tmp_path / "i.png", [[0]], width=1, bits=8, colour_type=0)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    with pytest.raises(DataError, match="10000000000 pixels, more than the limit"):
        read_image(path)
    small = save_image(tmp_path / "s.png")
    with pytest.raises(DataError, match="192 pixels, more than the limit of 191"):
        read_image(small, max_pixels=191)
    assert read_image(small, max_pixels=192).shape == (12, 16, 3)


@pytest.mark.parametrize("name", ["i.png", "i.jpg", "i.webp"])
def test_orientation_is_applied_only_on_request(tmp_path, name):
    stored = read_image(save_image(tmp_path / f"upright-{name}"))
    path = save_image(tmp_path / name, exif=6)
    assert read_header(path).orientation == 6
    np.testing.assert_array_equal(read_image(path), stored)
    np.testing.assert_array_equal(read_image(path, ImageCode(upright=True)), np.rot90(stored, -1))


def test_size_needs_no_pixels(tmp_path):
    path = save_image(tmp_path / "i.jpg", height=48, width=64)
    path.write_bytes(path.read_bytes()[:700])
    assert image_size(path) == (48, 64)


def test_a_known_mask_fits_its_image_and_the_classes(tmp_path):
    path = save_mask(tmp_path / "m.png", blocks((0, 1, 255)))
    size = read_mask(path, PLAIN).shape
    np.testing.assert_array_equal(read_known(path, PLAIN, 2, size), read_mask(path, PLAIN))
    with pytest.raises(DataError, match=r"class index 1, which no class has \(\d+ pixels, first at x=\d+ y=0\)"):
        read_known(path, PLAIN, 1, size)
    with pytest.raises(DataError, match=f"is {size[1]}x{size[0]}, and should be {size[0]}x{size[1]}"):
        read_known(path, PLAIN, 2, size[::-1])


def test_unlabelled_pixels_are_no_class_of_a_known_mask(tmp_path):
    path = save_mask(tmp_path / "m.png", blocks((0, 9, 255)))
    code, size = MaskCode(unlabelled=9), blocks((0,)).shape
    assert set(np.unique(read_known(path, code, 1, size, unlabelled=OPEN))) == {0, OPEN, 255}
    assert set(np.unique(read_known(path, code, 1, size))) == {0, 255}


def test_254_is_an_id_like_any_other_where_nothing_is_open(tmp_path):
    path = save_mask(tmp_path / "m.png", blocks((OPEN,)), palette=False)
    with pytest.raises(DataError, match="class index 254"):
        read_known(path, PLAIN, 2, blocks((0,)).shape)
    assert (read_known(path, PLAIN, 255, blocks((0,)).shape) == OPEN).all()
