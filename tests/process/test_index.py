"""Training on an index file: the stream, and the run, of the folder that it lists."""

from __future__ import annotations

import json
import signal
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from process.helpers import VARIANTS, assert_refused, assert_same, good, outcome, run, training


def listed(data, folder, name="pool.jsonl"):
    """List the bare images in the order of their names."""
    images = sorted((data / "images" / "train").glob("bare*"))
    index = folder / name
    index.write_text("".join(json.dumps({"image": str(p), "name": f"train/{p.stem}"}) + "\n" for p in images))
    return index


def test_the_run_of_the_folder(data, unbroken, tmp_path, io):
    """Also in a loader process; killed and continued; and with rounds, which label the pool."""
    index = listed(data, tmp_path)
    for variant, workers, kill in (("cps-cutmix", "0", "step.end:8"), ("self_training", "1", "select.inside:4")):
        out = tmp_path / variant
        command = training(data, out, *VARIANTS[variant], "--unlabelled", str(index), "--workers", workers)
        assert run(io, command, kill).code == -signal.SIGKILL
        told = good(run(io, command)).stderr
        assert f"7 unlabelled images of {index} are not opened before their turn comes" in told
        assert_same(outcome(out), outcome(unbroken(variant)))


def test_another_index_is_other_data(data, tmp_path, io):
    index = listed(data, tmp_path)
    command = training(data, tmp_path / "run", *VARIANTS["fixmatch"], "--unlabelled", str(index))
    assert run(io, command, "step.end:5").code == -signal.SIGKILL
    lines = index.read_text().splitlines()
    index.write_text("\n".join(lines[:-1]) + "\n")
    assert_refused(run(io, command), 4, "the data have changed", "split_hash")


def test_what_it_refuses(data, tmp_path, io):
    index = listed(data, tmp_path)
    index.write_text(index.read_text() + json.dumps({"image": str(data / "images" / "val" / "00.jpg")}) + "\n")
    command = training(data, tmp_path / "run", *VARIANTS["fixmatch"], "--unlabelled", str(index))
    assert_refused(run(io, command), 3, "is labelled, or is scored on", "pool.jsonl line 8")
    index.write_text('{"image": "/etc/passwd"}\n')
    assert_refused(run(io, command), 3, "lies outside, which only data.outside=true allows")
    assert_refused(run(io, [*command, "data.outside=true"]), 3, "/etc/passwd", "is no JPEG", first=False)


def test_check_looks_at_it(data, tmp_path, io):
    index = listed(data, tmp_path)
    command = ["check", str(data), "--unlabelled", str(index)]
    ended = good(run(io, [*command, "--sample", "3"]))
    assert f"7 unlabelled images of {index}; the 7 unlabelled ones of the folder are not used" in ended.stdout
    assert "only 3 of 7 images of pool.jsonl were opened" in ended.stdout
    (tmp_path / "cut.jpg").write_bytes((data / "images" / "val" / "00.jpg").read_bytes()[:300])
    index.write_text(index.read_text() + '{"image": "cut.jpg"}\n')
    ended = run(io, command)
    assert ended.code == 3 and "cannot be read" in ended.error and str(tmp_path / "cut.jpg") in ended.error
    assert_refused(run(io, ["check", str(data), "--unlabelled", "pool.txt"]), 2, "is no index file", "split --check")


@pytest.fixture
def served(data):
    """The bare images over HTTP."""
    handler = partial(Quiet, directory=str(data / "images" / "train"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize("workers", ["0", "1"])
def test_images_on_another_machine(data, unbroken, served, tmp_path, io, workers):
    """Also in a loader process: the run of the folder; one that is gone is named."""
    images = sorted((data / "images" / "train").glob("bare*"))
    index = tmp_path / "pool.jsonl"
    lines = [json.dumps({"image": f"{served}/{p.name}", "name": f"train/{p.stem}"}) for p in images]
    index.write_text("\n".join(lines) + "\n")
    more = ["--unlabelled", str(index), "--workers", workers]
    command = training(data, tmp_path / "run", *VARIANTS["fixmatch"], *more)
    assert_refused(run(io, command), 3, "lies outside, which only data.outside=true allows")
    good(run(io, [*command, "data.outside=true"]))
    assert_same(outcome(tmp_path / "run"), outcome(unbroken("fixmatch")))
    index.write_text(index.read_text().replace("bare3.", "gone."))
    lost = training(data, tmp_path / "lost", *VARIANTS["fixmatch"], *more, "data.outside=true")
    assert_refused(run(io, lost), 3, "file does not exist", f"{served}/gone", first=False)


def test_check_looks_at_images_on_another_machine(data, served, tmp_path, io):
    index = tmp_path / "pool.jsonl"
    names = [f"bare{n}" for n in range(7)]
    index.write_text("".join(json.dumps({"image": f"{served}/{name}.jpg"}) + "\n" for name in names))
    command = ["check", str(data), "--unlabelled", str(index)]
    assert_refused(run(io, command), 3, "lies outside, which only data.outside=true allows")
    command.append("--outside")
    assert '"opened": 7' in good(run(io, [*command, "--json"])).stdout
    index.write_text(index.read_text().replace("bare3.", "gone."))
    ended = run(io, command)
    assert ended.code == 3 and f"file does not exist; {served}/gone.jpg" in ended.error
    assert "Traceback" not in ended.stderr
