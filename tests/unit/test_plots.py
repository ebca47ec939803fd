"""The charts of a run as files: well-formed whatever its names are, the same again, and drawn where they should be."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import fewmask.report
from fewmask.report.plots import COLOURS, DASHES, Box, hexadecimal, plots
from fewmask.report.text import shortened
from fewmask.run.report import read_record, write_report
from fixtures_run import write_compared, write_run

NAMES = ["sky", "sea", "sand"]
HOSTILE = ["<script>alert(1)</script>", '"><image href="http://x/">', "a'b\"c&amp;", "\x1b[31mred", "\ud800"]
SVG = "{http://www.w3.org/2000/svg}"


def drawn(run: Path) -> dict[str, bytes]:
    return {name: page for name, page in plots(read_record(run)).items() if page is not None}


def words(page: bytes | None) -> list[str]:
    assert page is not None
    return [element.text or "" for element in ET.fromstring(page).iter(f"{SVG}text")]


def test_the_report_writes_its_charts_beside_it(tmp_path):
    write_compared(tmp_path / "run", NAMES)
    write_report(tmp_path / "run")
    made = {file.name: file.read_bytes() for file in (tmp_path / "run/plots").iterdir()}
    assert set(made) == {f"{name}.svg" for name in ("val", "loss", "kept", "pseudo", "classes", "confusion")}
    assert words(made["val.svg"])[0] == "mIoU on val, %" and {*NAMES} <= {*words(made["classes.svg"])}
    assert any(text.startswith("supervised baseline: ") for text in words(made["val.svg"]))
    assert "labels" in words(made["pseudo.svg"])
    write_report(tmp_path / "run")
    assert {file.name: file.read_bytes() for file in (tmp_path / "run/plots").iterdir()} == made
    write_report(tmp_path / "run", out=tmp_path / "elsewhere.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["elsewhere.html", "run"]


def test_a_chart_that_the_run_has_no_more_is_taken_away(tmp_path):
    write_compared(tmp_path / "run", NAMES)
    write_report(tmp_path / "run")
    (tmp_path / "run/plots/mine.svg").write_text("<svg/>")
    (tmp_path / "run/evaluation.npz").unlink()
    write_report(tmp_path / "run")
    assert {"mine.svg", "val.svg"} <= {file.name for file in (tmp_path / "run/plots").iterdir()}
    assert not (tmp_path / "run/plots/confusion.svg").exists()


def test_a_bar_is_as_long_as_its_score(tmp_path):
    matrix = [[30, 0, 0], [0, 20, 20], [0, 0, 30]]  # IoU 100, 50 and 60
    write_run(tmp_path / "run", NAMES, matrix=matrix, method="supervised")
    page = ET.fromstring(plots(read_record(tmp_path / "run"))["classes.svg"] or b"")
    bars = [float(bar.attrib["width"]) for bar in page.iter(f"{SVG}rect") if "fill-opacity" in bar.attrib]
    assert bars == pytest.approx([400, 200, 240])


def test_a_path_keeps_its_shape():
    assert Box(10, 20, 200, 100).path("M0 0L500 1000L1000 250h0Z") == "M10.0 20.0L110.0 120.0L210.0 45.0h0Z"


def test_names_are_text_and_nothing_comes_from_outside(tmp_path):
    write_run(tmp_path / "run", HOSTILE)
    for name, page in drawn(tmp_path / "run").items():
        root = ET.fromstring(page)  # well-formed: no control character, nothing unescaped
        tags = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert tags <= {"svg", "title", "desc", "rect", "text", "path", "g"}, name
        links = [value for element in root.iter() for key, value in element.attrib.items() if "href" in key]
        assert not links and b"url(" not in page, name
    assert "<script>alert(1)</script>" in words(plots(read_record(tmp_path / "run"))["classes.svg"])


def test_many_classes_stay_small(tmp_path):
    names = [f"class number {n} with a name that goes on and on, and on, until nobody reads it" for n in range(150)]
    write_run(tmp_path / "run", names)
    made = drawn(tmp_path / "run")
    assert sum(map(len, made.values())) < 500_000
    assert sum(shortened(name) in words(made["classes.svg"]) for name in names) == 150
    (image,) = ET.fromstring(made["confusion.svg"]).iter(f"{SVG}image")
    assert image.attrib["href"].startswith("data:image/png;base64,")


def test_what_was_not_recorded_is_not_drawn(tmp_path):
    write_run(tmp_path / "run", NAMES, method="supervised", log=False, new=False)
    assert set(drawn(tmp_path / "run")) == {"classes.svg"}


def test_the_colours_are_those_of_the_page():
    style = (Path(fewmask.report.__file__).parent / "templates/style.css").read_text()
    first = style[: style.index("prefers-color-scheme")]
    assert tuple(re.findall(r"--s\d: (#\w{6});", first)) == COLOURS
    dashes = dict(re.findall(r"\.s(\d) \.line \{ stroke-dasharray: ([\d ]+);", style))
    assert tuple(dashes.get(str(n), "") for n in range(8)) == DASHES
    assert hexadecimal(0) == "#000000" and re.fullmatch(r"#[0-9a-f]{6}", hexadecimal(7))
