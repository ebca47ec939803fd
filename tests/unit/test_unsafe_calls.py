"""Nothing here loads a pickle, builds objects from YAML, runs text, unpacks archives or asks the network.

Sources, tests, benchmarks, and the examples of the documentation, by their syntax trees.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from unsafe import NETWORK, PICKLE, RUN, UNPACK, YAML, blocks, unsafe, unsafe_in

ROOT = Path(__file__).parents[2]
FILES = sorted(
    file
    for pattern in ("src/**/*.py", "src/**/template.txt", "benchmarks/**/*.py", "tests/**/*.py", "docs/**/*.py",
                    "docs/**/*.md", "*.md")
    for file in ROOT.glob(pattern)
)  # fmt: skip

EXCEPTIONS = {
    ("benchmarks/parity/authors.py", "exec"): "executes the papers' code, which is what it is compared with",
    ("tests/unit/test_own_loop.py", "exec"): "runs the example of docs/own-loop.md",
    ("tests/unit/test_own_loop.py", "eval"): "reads what that example has printed",
    ("tests/attacks/files.py", "os.system"): "the payload of an attack, which must never run",
    ("tests/unit/test_heads.py", "pickle.loads"): "of bytes made in the line before",
    ("tests/unit/test_pool.py", "pickle.loads"): "of bytes made in the line before",
    ("tests/unit/test_perturb.py", "pickle.loads"): "of bytes made in the line before",
}
"""(file, name): why it may."""

ELSEWHERE = {UNPACK, NETWORK}
"""What only the package itself may not do: tests unpack data sets of their own, and talk to a stand-in of the Hub."""


def test_the_tree():
    seen, found = set(), []
    for file in FILES:
        path = file.relative_to(ROOT).as_posix()
        for line, what, name in unsafe_in(file):
            if (path, name) in EXCEPTIONS:
                seen.add((path, name))
            elif path.startswith("src/") or what not in ELSEWHERE:
                found.append(f"{path}:{line}: {what} ({name})")
    assert not found, "\n".join(found)
    assert seen == EXCEPTIONS.keys(), f"no longer needed: {EXCEPTIONS.keys() - seen}"


def test_everything_is_looked_at():
    names = {file.relative_to(ROOT).as_posix() for file in FILES}
    assert {"src/fewmask/config.py", "src/fewmask/contract/template.txt", "benchmarks/soak.py", "README.md"} <= names
    assert {"docs/own-loop.md", "docs/make_reference.py", "tests/attacks/files.py"} <= names
    examples = {name for name in names if name.endswith(".md") and list(blocks((ROOT / name).read_text("utf-8")))}
    assert {"README.md", "docs/own-loop.md", "docs/own-method.md"} <= examples


PLANTED = [
    ("import torch\ntorch.load(f)", PICKLE, "torch.load"),
    ("import torch as t\nt.load(f, weights_only=False)", PICKLE, "weights_only"),
    ("from torch import load as read\nread(f)", PICKLE, "torch.load"),
    ("import torch\ntorch.load(f, weights_only=trusted)", PICKLE, "weights_only"),
    ("import torch\nread = torch.load", PICKLE, "torch.load"),
    ("import torch\ngetattr(torch, 'load')(f)", PICKLE, "torch.load"),
    ("import torch\ntorch.hub.load('a/b', 'c')", PICKLE, "torch.hub.load"),
    ("given = {'weights_only': False}", PICKLE, "weights_only"),
    ("import pickle\npickle.load(f)", PICKLE, "pickle.load"),
    ("from pickle import loads", PICKLE, "pickle.loads"),
    ("import pickle as p\nclass Mine(p.Unpickler): ...", PICKLE, "pickle.Unpickler"),
    ("import joblib\njoblib.load(f)", PICKLE, "joblib.load"),
    ("import numpy as np\nnp.load(f, allow_pickle=True)", PICKLE, "allow_pickle"),
    ("from numpy.lib.format import read_array\nread_array(f, allow_pickle=1)", PICKLE, "allow_pickle"),
    ("import yaml\nyaml.load(f)", YAML, "yaml.load"),
    ("import yaml\nyaml.load(f, yaml.Loader)", YAML, "yaml.Loader"),
    ("import yaml\nclass L(yaml.FullLoader): ...\nyaml.load(f, Loader=L)", YAML, "yaml.load"),
    ("from yaml import unsafe_load", YAML, "yaml.unsafe_load"),
    ("import yaml\nyaml.full_load(f)", YAML, "yaml.full_load"),
    ("eval(text)", RUN, "eval"),
    ("import builtins\nbuiltins.exec(text)", RUN, "exec"),
    ("import os\nos.system(text)", RUN, "os.system"),
    ("from os import popen", RUN, "os.popen"),
    ("import subprocess\nsubprocess.run(text, shell=True)", RUN, "shell"),
    ("import zipfile\nzipfile.ZipFile(f).extractall()", UNPACK, "extractall"),
    ("import shutil\nshutil.unpack_archive(f)", UNPACK, "shutil.unpack_archive"),
    ("import urllib.request", NETWORK, "urllib.request"),
    ("from urllib.request import urlopen", NETWORK, "urllib.request.urlopen"),
    ("import requests\nrequests.get(url)", NETWORK, "requests"),
]


@pytest.mark.parametrize(("source", "what", "name"), PLANTED, ids=[source.splitlines()[-1] for source, *_ in PLANTED])
def test_what_is_planted_is_found(source, what, name, tmp_path):
    assert (what, name) in {(kind, of) for _, kind, of in unsafe(source)}
    page = tmp_path / "page.md"
    page.write_text("A page.\n\n```sh\neval $(ls)\n```\n\n```python\n" + source + "\n```\n")
    assert {line for line, _, of in unsafe_in(page) if of == name} == {
        7 + line for line, _, of in unsafe(source) if of == name
    }


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(f, weights_only=True)",
        "import safetensors.torch\nsafetensors.torch.load(data)",
        "from safetensors import torch\ntorch.load(data)",
        "import numpy as np\nnp.load(f)\nnp.load(f, allow_pickle=False)",
        "import yaml\nclass L(yaml.SafeLoader): ...\nyaml.load(f, Loader=L)\nyaml.safe_load(f)",
        "import pickle\npickle.dumps(x)",
        "net.eval()\nself.exec(x)\nmodel.load(f)",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "from urllib.parse import unquote\nimport zipfile\nzipfile.ZipFile(f).open('a')",
    ],
)
def test_what_is_safe_is_not(source):
    assert unsafe(source) == []
