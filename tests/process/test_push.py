"""``fewmask push`` against a stand-in of the Hub's API on this machine; a pushed folder predicts what the run does."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from fewmask.run.folder import RunFolder
from fewmask.run.hub import card_of
from process.helpers import assert_refused, good, run

PARTS = ("upload", "verify")


class Hub(BaseHTTPRequestHandler):
    """Makes repositories, takes weights as large files, as the Hub does, and keeps what is committed."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        log = self.server.log
        log.append((self.path, self.headers.get("Authorization")))
        if self.path == "/api/validate-yaml":  # the head of the card, without a token
            return self.answer(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != "Bearer hf_good":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.made.append(asked)
            return self.answer(200, {"url": f"{self.server.address}/{asked['organization']}/{asked['name']}"})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            large = {f["path"]: f["path"].endswith(".safetensors") for f in files}
            modes = [
                {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
                for path, is_large in large.items()
            ]
            return self.answer(200, {"files": modes})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                one | {"actions": {kind: {"href": f"{self.server.address}/{kind}/{one['oid']}"} for kind in PARTS}}
                for one in json.loads(body)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if self.path.startswith("/verify/"):
            asked = json.loads(body)
            return self.answer(200 if len(self.server.objects[asked["oid"]]) == asked["size"] else 422, {})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    self.server.files[line["value"]["path"]] = self.server.objects[line["value"]["oid"]]
            done = {"commitUrl": f"{self.server.address}/x/y/commit/{'a' * 40}", "commitOid": "a" * 40}
            return self.answer(200, done | {"success": True})
        return self.answer(404, {"error": "unknown"})

    def do_PUT(self):
        """An upload has an address of its own, and takes no token there."""
        oid, body = self.path.rpartition("/")[2], self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.broken or hashlib.sha256(body).hexdigest() != oid:
            return self.answer(403, {"error": "no"})
        self.server.objects[oid] = body
        return self.answer(200, {})

    def do_GET(self):
        self.server.log.append((self.path, self.headers.get("Authorization")))
        self.answer(200, {"type": "user", "name": "me", "id": "x/y", "sha": "b" * 40, "siblings": []})

    def answer(self, code, content):
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    server.log, server.made, server.files, server.objects, server.broken = [], [], {}, {}, False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in (("HF_ENDPOINT", server.address), ("HF_TOKEN", "hf_good"), ("HF_HUB_OFFLINE", "0"),
                        ("HF_HUB_DISABLE_XET", "1"), ("NO_PROXY", "127.0.0.1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def pushed(words, hub, env=()):
    """Run in an interpreter of its own: the Hub's library reads its address once."""
    import subprocess
    import sys

    return subprocess.run(
        [sys.executable, "-m", "fewmask", "push", *words], capture_output=True, text=True, env=os.environ | dict(env),
        check=False,
    )  # fmt: skip


def test_push(hub, unbroken, data, tmp_path, io):
    source = unbroken("cps")
    ended = pushed([str(source), "me/fields", "--json"], hub)
    assert ended.returncode == 0, ended.stderr
    made = json.loads(ended.stdout)
    assert made["repo"] == "me/fields" and made["commit"] == "a" * 40 and made["url"].endswith("me/fields")
    assert (
        hub.made[0]["name"] == "fields"
        and hub.made[0]["organization"] == "me"
        and (hub.made[0].get("private") or hub.made[0].get("visibility") == "private")
    )
    assert made["files"] == ["README.md", "config.json", "model.safetensors", "classes.txt"]
    assert sorted(hub.files) == sorted(made["files"]) and len(hub.objects) == 1, "weights go as a large file"
    assert hub.files["model.safetensors"] == (source / "model/model.safetensors").read_bytes()
    card = hub.files["README.md"].decode()
    metrics = json.loads((source / "metrics.json").read_text())
    assert card.startswith("---\n") and "library_name: fewmask" in card and "pipeline_tag: image-segmentation" in card
    assert f"| val: 3 | {metrics['val']['miou']:.2f} |" in card and "sea, sky, sand" in card.replace(
        "sky, sea", "sea, sky"
    )
    shown = good(run(io, ["push", str(source), "me/fields", "--card"]))
    assert shown.stdout.strip() == card.strip()

    model = tmp_path / "model"
    model.mkdir()
    for name, content in hub.files.items():
        (model / name).write_bytes(content)
    for place, out in ((model, "a"), (source, "b")):
        good(run(io, ["predict", str(place), str(data / "images/test"), "-o", str(tmp_path / out)]))
    for file in (tmp_path / "a").glob("*.png"):
        with Image.open(file) as one, Image.open(tmp_path / "b" / file.name) as two:
            assert (np.asarray(one) == np.asarray(two)).all()


@pytest.mark.parametrize(
    ("words", "env", "message"),
    [
        (["me/fields"], {"HF_TOKEN": "hf_bad"}, "the Hub refused"),
        (["me/fi elds"], {}, "hf auth login"),
        (["me/fields"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)  # fmt: skip
def test_what_cannot_be_pushed(words, env, message, hub, unbroken):
    ended = pushed([str(unbroken("cps")), *words], hub, env)
    assert ended.returncode == 2 and ended.stderr.startswith("error: ") and message in ended.stderr, ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1 and not hub.files


def test_an_upload_that_is_refused(hub, unbroken):
    """Large files go elsewhere than to the Hub itself; without them nothing is committed."""
    hub.broken = True
    ended = pushed([str(unbroken("cps")), "me/fields"], hub)
    assert ended.returncode == 2 and ended.stderr.splitlines()[-1].startswith("error: "), ended.stderr
    assert "the upload failed (Error while uploading 'model.safetensors' to the Hub: " in ended.stderr
    assert "Traceback" not in ended.stderr and not hub.files


def edited(folder, **changes):
    """Change metrics.json of a copied run."""
    file = folder / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_the_card_is_of_the_network_that_is_delivered(unbroken, tmp_path):
    run = shutil.copytree(unbroken("cps"), tmp_path / "run")
    score = {"miou": 77.123, "iou": {}, "pixel_accuracy": 88.5}
    best = {"step": 8, "val": score, "test": score}
    edited(run, best=best, delivered={"run": "method", "checkpoint": "best", "step": 8, "val": 77.123})
    card = card_of(RunFolder(run), "me/x")
    assert "| val: 3 | 77.12 | 88.50 |" in card and "score there is too high" in card and "95 %" not in card

    theirs = shutil.copytree(unbroken("supervised"), run / "baseline")
    edited(theirs, val=score | {"miou": 66.6}, interval={"val": {"low": 60.1, "high": 70.2}, "test": None})
    edited(run, baseline_run="baseline", delivered={"run": "baseline", "checkpoint": "last", "val": 66.6})
    card = card_of(RunFolder(run), "me/x")
    assert "supervised on" in card and "| val: 3 | 66.60 | 88.50 |" in card and "60.1 to 70.2" in card
    assert "77.12" not in card


def test_no_run(tmp_path, io):
    assert_refused(run(io, ["push", str(tmp_path), "me/x"]), 4, "no finished run")
