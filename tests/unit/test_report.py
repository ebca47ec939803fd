"""Reports of generated run folders: what they say, hostile names, absent and damaged files; the command."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fewmask.cli import run as cli
from fewmask.errors import CheckpointError, ConfigError
from fewmask.report.tables import class_table
from fewmask.run.report import read_record, write_report
from fixtures_run import Page, write_compared, write_doubtful, write_pictures, write_run, write_seeds

NAMES = ["sky", "sea", "sand"]
HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a'b\"c&amp;", "</title></style>",
    "[bold]x[/bold]", "\x1b[31mred",
]  # fmt: skip


def page_of(folder, **options) -> Page:
    return Page(write_report(folder, **options).read_bytes())


def pixels(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


# --- the page


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "run"
    ours, theirs = write_compared(folder, NAMES)
    return folder, ours, theirs


def test_the_numbers_of_the_run_appear(compared):
    folder, ours, theirs = compared
    page = page_of(folder)
    assert f"{ours['val']['miou']:.2f}" in page.text and f"{ours['test']['miou']:.2f}" in page.text
    assert f"{theirs['val']['miou']:.2f}" in page.text and f"+{ours['gain']['miou']:.1f}" in page.text
    assert html.escape(ours["gain"]["text"][:40], quote=True) in page.source
    assert f"{ours['interval']['val']['low']:.1f} to {ours['interval']['val']['high']:.1f}" in page.text
    assert f"{theirs['interval']['val']['low']:.1f} to {theirs['interval']['val']['high']:.1f}" in page.text
    for words in (
        "FixMatch on photos", "Sohn et al., FixMatch", "deeplabv3plus", "mobilenet_v2", "1,200", "4 labelled + 4",
        "fp32", "dddddddddddddddd", "5555555555555555", "25 min", "1,257 MB", "2.15.0", "the whole image in one",
        "fewmask train 'my photos' --method fixmatch", "fewmask predict runs/x FOLDER_OF_IMAGES -o predictions",
        "teacher", "video 1", "supervised baseline",
    ):  # fmt: skip
        assert words in page.text, words


def test_a_page_needs_nothing_from_outside(compared):
    folder, *_ = compared
    page = page_of(folder)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("meta", "content", policy) in page.attributes
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    for _, name, value in page.attributes:
        assert not name.startswith("on") and (name != "src" or value.startswith("data:image/"))
        assert name not in ("href", "xlink:href") or value.startswith(("#", "data:"))
    assert not re.search(r"@import|url\(|https?://", page.source)
    ids = [value for _, name, value in page.attributes if name == "id"]
    anchors = [value[1:] for _, name, value in page.attributes if name == "href" and value.startswith("#")]
    assert len(set(ids)) == len(ids) and set(anchors) <= set(ids)
    assert all(dict_of.get("alt") for dict_of in _elements(page, "img"))
    assert all(d.get("role") == "img" and d.get("aria-label") for d in _elements(page, "svg") if "aria-hidden" not in d)


def _elements(page: Page, wanted: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    HTMLElements(wanted, found).feed(page.source)
    return found


class HTMLElements(HTMLParser):
    def __init__(self, wanted: str, found: list) -> None:
        super().__init__()
        self.wanted, self.found = wanted, found

    def handle_starttag(self, tag, attrs):
        if tag == self.wanted:
            self.found.append(dict(attrs))


@pytest.mark.parametrize(
    "delivered, best, other",
    [({"run": "baseline"}, 1200, True), ({"run": "method", "checkpoint": "best"}, 600, True),
     ({"run": "method", "checkpoint": "best"}, 1200, False), ({"run": "method", "checkpoint": "last"}, 600, False)],
)  # fmt: skip
def test_what_is_shown_of_another_model_than_the_delivered_one_says_so(tmp_path, delivered, best, other):
    metrics, _ = write_compared(tmp_path / "run", ["sky", "sea"])
    metrics |= {"delivered": delivered, "best": metrics["best"] | {"step": best}}
    (tmp_path / "run/metrics.json").write_text(json.dumps(metrics))
    text = Page(write_report(tmp_path / "run").read_bytes()).text
    assert text.count("the last checkpoint of FixMatch") == 3  # classes, confusions, images
    assert text.count("the last checkpoint of FixMatch, which is not the delivered model") == 2 * other


def test_no_line_breaks_inside_a_flag_or_before_a_percent_sign(compared):
    source = page_of(compared[0]).source
    assert '<span class="flag">--method</span>' in source and "(95\u00a0% interval" in source


def test_the_same_run_gives_the_same_bytes(compared, tmp_path, monkeypatch):
    folder, *_ = compared
    first = write_report(folder, tmp_path / "a.html").read_bytes()
    shutil.copytree(folder, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert write_report(tmp_path.__class__("elsewhere"), tmp_path / "b.html").read_bytes() == first


def test_hostile_names_are_text(tmp_path):
    folder = tmp_path / "run"
    write_compared(folder, HOSTILE, vanished=[1], pictures=False)
    for n, name in enumerate(HOSTILE[:2]):
        write_pictures(folder, 3, kinds=("best",), each=1)
        made = next((folder / "pictures").glob("best-1-*.png"))
        made.rename(folder / "pictures" / f"worst-{n + 1}-10-{name.replace('/', '_')}.png")
    for file in ("config.yaml", "data.yaml"):
        path = folder / file
        path.write_text(path.read_text().replace("photos", '"<script>alert(2)</script>"'))
    write_doubtful(folder, HOSTILE)
    (folder / "NEXT_STEPS.txt").write_text("# <img src=x onerror=alert(3)>\nfewmask predict '<script>'\n")
    page = page_of(folder)
    assert "script" not in page.tags and page.tags.count("style") == 1
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert all(uri.startswith("data:image/") for uri in page.images())
    assert page.text.count("at 31.0% of the pixels") == 1 and page.text.count("31.0 % disputed") == 1
    for name in HOSTILE[:6]:
        assert " ".join(name.split()) in page.text, name
    assert "{{ 7 * 7 }}" in page.text and "<script>alert(2)" in page.text and "onerror=alert(3)" in page.text


def test_training_masks_to_look_at_again(tmp_path):
    """Those of which more than 1 % is disputed; else that there is none; nothing where it is not recorded."""
    folder = tmp_path / "run"
    write_run(folder, NAMES)
    assert "look at again" not in page_of(folder).text
    write_doubtful(folder, ["field/a", "b"], (0.31, 0.009))
    text = page_of(folder).text
    assert "field/a: the model is sure of another class at 31.0% of the pixels" in text and "b: the model" not in text
    assert "1 picture: image, mask, prediction" in text and "31.0 % disputed" in text
    shutil.rmtree(folder / "doubtful")
    write_doubtful(folder, ["a", "b"], (0.004, 0.0))
    assert "sure of another class at 0.4 % of a training mask at most" in page_of(folder).text
    (folder / "doubtful" / "doubtful.csv").write_text("rank,name\nx,y\n")
    assert "look at again" not in page_of(folder).text


def test_a_name_that_is_no_unicode_is_written_somehow(tmp_path):
    write_run(tmp_path / "run", NAMES, metrics={"method": "mine.py:\udcff"})
    assert b"mine.py:?" in write_report(tmp_path / "run").read_bytes()


def test_an_old_run_says_what_is_not_recorded(tmp_path):
    write_run(tmp_path / "run", NAMES, new=False)
    page = page_of(tmp_path / "run")
    for words in (
        "there is no baseline", "Intervals are not recorded", "No baseline is recorded, so there is no gain",
        "How many val pixels and images hold a class is not recorded", "The classes of the pseudo-labels are not",
    ):  # fmt: skip
        assert words in page.text, words
    assert not {"confusions", "images", "pictures"} & {v for _, name, v in page.attributes if name == "id"}


def test_metrics_alone_make_a_report(tmp_path):
    write_run(tmp_path / "run", NAMES)
    for file in (tmp_path / "run").iterdir():
        if file.name != "metrics.json":
            file.unlink()
    page = page_of(tmp_path / "run")
    for name in ("config.yaml", "data.yaml", "environment.json", "metrics.jsonl"):
        assert f"{name} is not there" in page.text
    assert "sand" in page.text and "not recorded" in page.text


@pytest.mark.parametrize("file", ["config.yaml", "data.yaml", "environment.json", "evaluation.npz", "metrics.jsonl"])
def test_a_damaged_file_is_told_and_the_rest_is_shown(tmp_path, file):
    content = write_run(tmp_path / "run", NAMES)
    (tmp_path / "run" / file).write_bytes(b"\xff\xfe: [\nbroken\n\n")
    page = page_of(tmp_path / "run")
    assert f"{file} " in page.text and f"{content['val']['miou']:.2f}" in page.text


def test_without_val_test_is_shown(tmp_path):
    best = {"step": 100, "val": None, "test": None}
    content = write_run(tmp_path / "run", NAMES, metrics={"val": None, "best": best, "interval": None})
    page = page_of(tmp_path / "run")
    assert "there are no validation images" in page.text and "IoU on test" in page.text
    assert f"{content['test']['miou']:.2f}" in page.text


def test_many_classes_stay_readable_and_small(tmp_path):
    names = [f"class number {n}" for n in range(150)]
    write_compared(tmp_path / "run", names, vanished=[3, 80], absent=[9])
    page = page_of(tmp_path / "run")
    assert len(page.source) < 2_000_000 and page.tags.count("td") < 150 * 20
    assert all(f"class number {n} " in page.text for n in range(150))
    heat = next(uri for uri in page.images() if pixels(uri).shape == (150, 150, 3))
    assert heat and "138 other classes" in page.source
    assert "Vanished from the pseudo-labels: class number 3 and class number 80." in page.text
    few = page_of_few(tmp_path)
    assert all(pixels(uri).shape != (3, 3, 3) for uri in few.images()) and 'class="matrix' in few.source


def page_of_few(tmp_path) -> Page:
    write_run(tmp_path / "few", NAMES)
    return page_of(tmp_path / "few")


def test_several_seeds(tmp_path):
    content = write_seeds(tmp_path / "run", NAMES)
    record = read_record(tmp_path / "run")
    assert len(record.seeds) == 3 and record.baseline is not None and len(record.baseline.seeds) == 3
    assert record.recipe and record.manifest, "taken from the runs of the seeds"
    page = page_of(tmp_path / "run")
    assert "mean of 3 seeds (0, 1, 2)" in page.text and f"± {content['spread']['val']:.1f}" in page.text
    for n in range(3):
        single = json.loads((tmp_path / f"run/seeds/{n}/metrics.json").read_text())
        assert f"{single['val']['miou']:.2f}" in page.text
    assert page.source.count('class="thin"') == 6 and "summed over 3 seeds" in page.text
    one = read_record(tmp_path / "run/seeds/0")
    assert class_table(record).rows[0].pixels == class_table(one).rows[0].pixels, "support is of one pass over val"
    shutil.rmtree(tmp_path / "run/seeds/1")
    page = page_of(tmp_path / "run")
    assert "the runs of the seeds are not complete" in page.text and "so only their mean is known" in page.text


# --- the commands


def test_report_prints_the_path_and_leaves_nothing_else(tmp_path, capsys):
    write_run(tmp_path / "run", NAMES)
    before = {p.name for p in (tmp_path / "run").iterdir()}
    assert cli(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run/report.html'}\n"
    assert {p.name for p in (tmp_path / "run").iterdir()} == before | {"report.html", "plots"}
    assert cli(["report", str(tmp_path / "run")]) == 0, "a report is written again"
    assert cli(["report", str(tmp_path / "run"), "-o", str(tmp_path / "new/folder/r.html")]) == 0
    assert (tmp_path / "new/folder/r.html").read_bytes() == (tmp_path / "run/report.html").read_bytes()


def test_missing_and_unfinished_runs(tmp_path, capsys):
    for command in (["report"], ["compare", "--json"]):
        assert cli([*command, str(tmp_path / "nowhere")]) == 4
        captured = capsys.readouterr()
        assert captured.out == "" and "no finished run here" in captured.err and "nowhere" in captured.err
    write_run(tmp_path / "run", NAMES)
    (tmp_path / "run/metrics.json").unlink()
    with pytest.raises(CheckpointError, match="no finished run"):
        write_report(tmp_path / "run")
    (tmp_path / "run/metrics.json").write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="damaged"):
        write_report(tmp_path / "run")
    assert not (tmp_path / "run/report.html").exists()


def test_other_files_are_not_written_over(tmp_path, capsys):
    write_run(tmp_path / "run", NAMES)
    mine = tmp_path / "notes.html"
    mine.write_text("<!doctype html>mine")
    assert cli(["report", str(tmp_path / "run"), "-o", str(mine)]) == 2
    assert "nothing is written over" in capsys.readouterr().err and mine.read_text() == "<!doctype html>mine"
    assert cli(["compare", str(tmp_path / "run"), "-o", str(tmp_path / "run")]) == 2
    with pytest.raises(ConfigError, match="is a folder"):
        write_report(tmp_path / "run", tmp_path)


def test_what_was_seen_in_the_data(tmp_path):
    """Doubts and notes of data.yaml; without doubts that is said; nothing where an older run has neither."""
    folder = tmp_path / "run"
    write_run(folder, NAMES)
    assert "seen in the data" not in page_of(folder).text
    path = folder / "data.yaml"
    before = path.read_text()
    path.write_text(before + "notes: [a fifth became val]\ndoubts: ['group <b>one</b> stands in two roles']\n")
    text = page_of(folder).text
    assert "a fifth became val" in text and "group <b>one</b> stands in two roles" in text and "No doubts" not in text
    path.write_text(before + "notes: [x]\ndoubts: []\n")
    assert "No doubts" in page_of(folder).text
    path.write_text(before + "notes: 3\ndoubts: {a: 1}\n")
    assert "seen in the data" not in page_of(folder).text
