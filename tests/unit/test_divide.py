from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from fewmask.data.divide import draw_labelled, parse_amount, write_lists
from fewmask.data.index import DataIndex, Item, Pools
from fewmask.data.lists import match, read_list
from fewmask.errors import ConfigError, DataError, WriteError

ROOT = Path("/data")


def make_index(train):
    return DataIndex(ROOT, "folder", ("a", "b"), {"train": tuple(train), "val": (), "test": ()})


def labelled_items(n, group=lambda i: ""):
    return [Item(f"l{i:03}", ROOT / f"l{i:03}.jpg", ROOT / f"l{i:03}.png", group(i)) for i in range(n)]


def bare_items(n):
    return [Item(f"u{i:03}", ROOT / f"u{i:03}.jpg") for i in range(n)]


def names(items):
    return [item.name for item in items]


@pytest.mark.parametrize(
    ("text", "available", "count"),
    [
        ("16", 367, 16),
        ("1/16", 10582, 662),
        ("1/8", 10582, 1323),
        ("1/4", 10582, 2646),
        ("1/2", 10582, 5291),
        ("1/16", 2975, 186),
        ("1/8", 2975, 372),
        ("1/4", 2975, 744),
        ("1/30", 2975, 100),
        ("12.5%", 16, 2),
        ("12.5 %", 17, 3),
        ("10%", 30, 3),  # exact: 0.1 * 30 is above 3 in floating point
        ("100%", 7, 7),
        (" 1/1 ", 7, 7),
    ],
)
def test_amounts_round_up_as_the_published_lists(text, available, count):
    assert parse_amount(text).of(available, "--labelled") == count


def test_amounts_are_exact():
    assert parse_amount("12.5%").share == Fraction(1, 8)


@pytest.mark.parametrize(("text", "wanted"), [("0", 0), ("0%", 0), ("0/4", 0), ("21", 21), ("101%", 21), ("3/2", 30)])
def test_nothing_or_too_much_names_both_numbers(text, wanted):
    with pytest.raises(ConfigError, match=f"{wanted} of 20 available"):
        parse_amount(text).of(20, "--labelled")


@pytest.mark.parametrize("text", ["", "  ", "0.5", "-3", "1/0", "nowhere.txt", "12,5%", "1e3", "٣"])
def test_what_is_no_amount_says_what_to_write(text):
    with pytest.raises(ConfigError, match="write 16, 12.5%, 1/16 or a list"):
        parse_amount(text)


def test_a_number_is_a_number_and_a_path_reaches_the_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("16").write_text("a\n")
    assert parse_amount("16").count == 16
    assert parse_amount("./16").path == Path("./16")


def test_default_takes_every_mask_and_strips_the_rest():
    pools = draw_labelled(make_index(bare_items(3) + labelled_items(2)), None, None, 0)
    assert names(pools.labelled) == ["l000", "l001"]
    assert names(pools.unlabelled) == ["u000", "u001", "u002"]


def test_hidden_labels_are_unreachable():
    for unlabelled in (None, "5"):
        pools = draw_labelled(make_index(labelled_items(12) + bare_items(4)), "3", unlabelled, 0)
        assert len(pools.labelled) == 3 and all(item.mask is not None for item in pools.labelled)
        assert len(pools.unlabelled) == (13 if unlabelled is None else 5)
        assert all(item.mask is None for item in pools.unlabelled)
        assert not set(names(pools.labelled)) & set(names(pools.unlabelled))


def test_draws_are_nested_and_depend_on_the_seed_alone():
    index = make_index(labelled_items(40))
    backwards = make_index(labelled_items(40)[::-1])
    for seed in (0, 1, 2**63 - 1):
        draws = [set(names(draw_labelled(index, str(n), None, seed).labelled)) for n in range(1, 41)]
        assert all(small < large for small, large in zip(draws, draws[1:], strict=False))
        assert draws[9] == set(names(draw_labelled(backwards, "10", None, seed).labelled))
    assert len({draw_labelled(index, "10", None, seed).hash() for seed in range(20)}) == 20


def test_draws_of_unlabelled_images_are_nested_and_never_labelled():
    index = make_index(labelled_items(10) + bare_items(20))
    draws = [set(names(draw_labelled(index, "4", str(n), 3).unlabelled)) for n in (5, 9, 26)]
    assert draws[0] < draws[1] < draws[2] and len(draws[2]) == 26


def test_draws_are_uniform():
    index = make_index(labelled_items(12))
    seeds = 1200
    seen = Counter(n for seed in range(seeds) for n in names(draw_labelled(index, "3", None, seed).labelled))
    expected = seeds * 3 / 12
    # chi-square with 11 degrees of freedom exceeds 31.3 with probability 0.001 (less without replacement)
    assert sum((seen[n] - expected) ** 2 / expected for n in names(index.labelled)) < 31.3


def test_groups_stay_whole():
    index = make_index(labelled_items(12, lambda i: f"g{i // 3}"))
    before: set[str] = set()
    for n in (3, 6, 9, 12):
        pools = draw_labelled(index, str(n), None, 5)
        taken = {item.group for item in pools.labelled}
        assert len(pools.labelled) == n
        assert not taken & {item.group for item in pools.unlabelled}
        assert before <= taken
        before = taken
    with pytest.raises(DataError, match="4 of 12 cannot be met by whole groups.*ask for 3 or 6"):
        draw_labelled(index, "4", None, 5)
    with pytest.raises(DataError, match="ask for 3,"):
        draw_labelled(index, "1", None, 5)


def test_items_without_a_group_are_free_and_groups_do_not_bind_unlabelled_draws():
    index = make_index(labelled_items(12, lambda i: "g" if i < 4 else ""))
    reachable = 0
    for n in range(1, 13):
        try:
            pools = draw_labelled(index, str(n), "none", 1)
        except DataError:
            continue
        reachable += 1
        assert sum(item.group == "g" for item in pools.labelled) in (0, 4)
    assert reachable == 9  # 8 free images and one group of four
    whole = make_index([*labelled_items(1), *(Item(f"u{i}", ROOT / "u.jpg", None, "v") for i in range(5))])
    assert len(draw_labelled(whole, None, "2", 0).unlabelled) == 2


def test_lists_choose_the_pools(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("images/l002.jpg masks/l002.png\nl000\nl000\n")
    b.write_text("u001\nl001\n")
    pools = draw_labelled(make_index(labelled_items(4) + bare_items(3)), str(a), str(b), 0)
    assert names(pools.labelled) == ["l000", "l002"]
    assert names(pools.unlabelled) == ["l001", "u001"]
    assert all(item.mask is None for item in pools.unlabelled)


def test_an_image_in_both_lists_is_a_leak(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("l001\nl002\nl000\n")
    b.write_text("u001\nl002\nl001\n")
    with pytest.raises(DataError, match=r"2 image\(s\) both labelled and unlabelled, first 'l001'"):
        draw_labelled(make_index(labelled_items(4) + bare_items(3)), str(a), str(b), 0)


def test_a_labelled_list_may_not_name_an_image_without_a_mask(tmp_path):
    a = tmp_path / "a.txt"
    a.write_text("l001\nu001\nu000\n")
    with pytest.raises(DataError, match=r"2 listed image\(s\) without a mask, first 'u000'"):
        draw_labelled(make_index(labelled_items(4) + bare_items(3)), str(a), None, 0)


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "seed", "error", "message"),
    [
        ("0", None, 0, ConfigError, "0 of 4 available"),
        ("5", None, 0, ConfigError, "5 of 4 available"),
        (None, "0", 0, ConfigError, "--unlabelled 0 asks for 0 of 3 available"),
        (None, "4", 0, ConfigError, "4 of 3 available"),
        (None, "50%", 0, ConfigError, "is a share"),
        ("missing.txt", None, 0, ConfigError, "no amount and no list file"),
        (None, None, -1, ConfigError, "--split-seed -1"),
        (None, None, 2**63, ConfigError, "--split-seed"),
    ],
)
def test_wrong_requests(labelled, unlabelled, seed, error, message):
    with pytest.raises(error, match=message):
        draw_labelled(make_index(labelled_items(4) + bare_items(3)), labelled, unlabelled, seed)


def test_no_masks_at_all_and_no_unlabelled_images():
    with pytest.raises(DataError, match="no training image has a mask"):
        draw_labelled(make_index(bare_items(3)), None, None, 0)
    assert draw_labelled(make_index(labelled_items(3)), None, None, 0).unlabelled == ()
    assert draw_labelled(make_index(labelled_items(3)), "1", "none", 0).unlabelled == ()
    with pytest.raises(ConfigError, match="there is none to choose from"):
        draw_labelled(make_index(labelled_items(3)), None, "1", 0)


def odd_index():
    odd = ["my photo 1", "seq a/b c", "a.jpg", "#1", "1 1", "grün", "gr\udcfcn", "x,y"]
    return make_index([Item(n, ROOT / f"{n}.png", ROOT / f"{n}_m.png") for n in odd])


def test_written_lists_read_back_to_the_same_pools(tmp_path):
    index = odd_index()
    pools = draw_labelled(index, "3", None, 7)
    labelled, unlabelled = write_lists(pools, tmp_path / "deep" / "out")
    assert (labelled.name, unlabelled.name) == ("labelled.txt", "unlabelled.txt")
    assert match(read_list(labelled), index.items["train"]) == pools.labelled
    again = draw_labelled(index, str(labelled), str(unlabelled), 99)
    assert again == pools
    assert sorted(p.name for p in labelled.parent.iterdir()) == ["labelled.txt", "unlabelled.txt"]


def test_existing_lists_are_kept(tmp_path):
    index = odd_index()
    pools = draw_labelled(index, "3", None, 7)
    labelled, unlabelled = write_lists(pools, tmp_path)
    stamp = labelled.stat().st_mtime_ns
    write_lists(pools, tmp_path)
    assert labelled.stat().st_mtime_ns == stamp
    unlabelled.unlink()
    other = draw_labelled(index, "4", None, 7)
    with pytest.raises(ConfigError, match="holds another split.*labelled.txt"):
        write_lists(other, tmp_path)
    assert not unlabelled.exists() and labelled.stat().st_mtime_ns == stamp


def test_an_empty_pool_is_an_empty_file(tmp_path):
    _, unlabelled = write_lists(Pools(tuple(labelled_items(1)), ()), tmp_path)
    assert unlabelled.read_bytes() == b""


@pytest.mark.parametrize("name", ["a\nb", "# a", "#", " a", "a ", "a\tb", "x/a.jpg y/a.png", "a\x01", "\ufeffa", "a\r"])
def test_names_that_no_line_can_hold_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="cannot stand in a list"):
        write_lists(Pools((Item(name, ROOT / "a.png", ROOT / "m.png"),), ()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_refuses(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write the lists"):
        write_lists(Pools(tuple(labelled_items(1)), ()), tmp_path / "file")
