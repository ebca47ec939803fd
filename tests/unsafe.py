"""What Python code must not do with what others wrote, found in its syntax tree: see unit/test_unsafe_calls.py."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PICKLE, YAML, RUN, UNPACK, NETWORK = (
    "a pickle is loaded", "an unsafe YAML loader", "text is run", "an archive is unpacked", "the network is asked"
)  # fmt: skip

FORBIDDEN = {
    PICKLE: (
        "pickle.load", "pickle.loads", "pickle.Unpickler", "_pickle.load", "_pickle.loads", "marshal.load",
        "marshal.loads", "shelve.open", "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads",
        "joblib.load", "pandas.read_pickle", "torch.hub.load", "torch.hub.load_state_dict_from_url",
    ),
    YAML: (
        "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all", "yaml.load_all",
        "yaml.Loader", "yaml.CLoader", "yaml.UnsafeLoader", "yaml.CUnsafeLoader", "yaml.FullLoader",
        "yaml.CFullLoader",
    ),
    RUN: ("eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    UNPACK: ("shutil.unpack_archive",),
    NETWORK: ("urllib.request", "requests", "http.client", "httpx", "aiohttp", "ftplib", "smtplib"),
}  # fmt: skip
"""Names that may not be mentioned at all, nor anything below them."""

SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}

FLAGS = {"weights_only": (True, PICKLE), "allow_pickle": (False, PICKLE), "shell": (False, RUN)}
"""Keyword arguments that must have one value wherever they are given, and what another one means."""

CHECKED = {"torch.load": "weights_only", "torch.serialization.load": "weights_only", "yaml.load": "Loader"}
"""Functions that are safe with the right value of an argument, which must stand there: defaults have changed."""

Found = tuple[int, str, str]
"""Line, what, and the name that stands there."""


def blocks(page: str) -> Iterator[tuple[int, str]]:
    """Yield (line, source) of every Python example of a Markdown page."""
    for match in re.finditer(r"^([ \t]*)```(?:python|py)\b[^\n]*\n(.*?)^\1```", page, re.DOTALL | re.MULTILINE):
        yield page.count("\n", 0, match.start(2)), textwrap.dedent(match[2])


def unsafe_in(file: Path) -> list[Found]:
    """Return what a Python file, or the examples of a Markdown page, must not do."""
    text = file.read_text(encoding="utf-8")
    text = text.replace("$", "") if file.suffix == ".txt" else text  # a template's gaps
    parts = list(blocks(text)) if file.suffix == ".md" else [(0, text)]
    return [(before + line, what, name) for before, source in parts for line, what, name in unsafe(source)]


def unsafe(source: str) -> list[Found]:
    """Return what a source must not do, in reading order; each line and name once.

    Names are followed through ``import … as`` and ``getattr`` with a constant, not through assignments: these are
    mistakes that are looked for, not tricks.
    """
    tree = ast.parse(source)
    known, nodes = _imports(tree), list(ast.walk(tree))
    safe = SAFE_LOADERS | {
        node.name for node in nodes if isinstance(node, ast.ClassDef)
        and node.bases and all(_dotted(base, known) in SAFE_LOADERS for base in node.bases)
    }  # fmt: skip
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    found: set[Found] = set()
    for node in nodes:
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in [*_imports(node).values(), *(one.name for one in node.names)]:
                found |= {(line, what, name) for what in _forbidden(name)}
        if isinstance(node, ast.Attribute) and node.attr in ("extractall", "unpack_archive"):
            found.add((line, UNPACK, node.attr))
        if isinstance(node, ast.Dict):
            pairs = [(k.value, v) for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)]
            plain = [(key, value) for key, value in pairs if isinstance(value, ast.Constant)]
            found |= {(line, what, key) for key, value in plain for what in _flag(key, value)}
        if isinstance(node, ast.Call):
            found |= {(line, what, k.arg or "") for k in node.keywords for what in _flag(k.arg, k.value)}
            if (name := _dotted(node.func, known)) in CHECKED and not _proper(name, node, known, safe):
                found.add((line, YAML if name == "yaml.load" else PICKLE, name))
        name = _dotted(node, known)
        if name in CHECKED and id(node) not in called:  # handed on: what it is called with is not seen
            found.add((line, YAML if name == "yaml.load" else PICKLE, name))
        found |= {(line, what, name) for what in _forbidden(name)}
    return sorted(found)


def _imports(tree: ast.AST) -> dict[str, str]:
    """Return the names that imports bind, with what they stand for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                found[one.asname or one.name.split(".")[0]] = one.name if one.asname else one.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return found


def _dotted(node: ast.AST, known: Mapping[str, str]) -> str:
    """Return what a name, an attribute or a getattr with a constant stands for; "" where it is something else."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id).removeprefix("builtins.")
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value, known)):
        return f"{owner}.{node.attr}".removeprefix("builtins.")
    if isinstance(node, ast.Call) and _dotted(node.func, known) == "getattr" and len(node.args) > 1:
        owner, name = _dotted(node.args[0], known), node.args[1]
        if owner and isinstance(name, ast.Constant):
            return f"{owner}.{name.value}".removeprefix("builtins.")
    return ""


@cache
def _forbidden(name: str) -> tuple[str, ...]:
    return tuple(w for w, names in FORBIDDEN.items() if name and any(f"{name}.".startswith(f"{n}.") for n in names))


def _flag(key: object, value: ast.expr) -> list[str]:
    wanted, what = FLAGS.get(str(key), (None, ""))
    return [] if wanted is None or (isinstance(value, ast.Constant) and value.value is wanted) else [what]


def _proper(name: str, call: ast.Call, known: Mapping[str, str], safe: set[str]) -> bool:
    value = next((k.value for k in call.keywords if k.arg == CHECKED[name]), None)
    if name != "yaml.load":
        return value is not None  # which value is a flag's business
    value = value if value is not None else call.args[1] if len(call.args) > 1 else None
    return value is not None and _dotted(value, known) in safe
