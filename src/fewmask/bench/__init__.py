"""How fast this machine trains: ``fewmask bench``.

Times of one machine say little about another, and on a shared one little about itself: what is reported are ratios
within one process, whose rounds take turns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fewmask.bench import growth, kernels, labelling, leaderboard, reading, resuming, scoring, step
from fewmask.bench.setting import Setting, setting
from fewmask.errors import ConfigError
from fewmask.methods import METHODS, resolve
from fewmask.run.arms import SUPERVISED
from fewmask.run.environment import environment
from fewmask.run.notes import Say

DEFAULT = (SUPERVISED, "mean_teacher", "fixmatch", "cps", "ucc")
"""Methods that are timed where none are named."""

KINDS: dict[str, Callable[[Setting], list[dict[str, Any]]]] = {
    "step": step.rows,
    "kernels": lambda s: kernels.rows(s.rounds, s.say, s.fabric.device),
    "data": reading.rows,
    "select": labelling.rows,
    "evaluate": scoring.rows,
    "scale": growth.rows,
    "resume": resuming.rows,
}
"""What can be timed, by name."""

_RATIOS = ("N", "R", "L", "V", "P", "E", "save", "load", "slope", "ops", "core_ms", "images_per_second", "val", "test")
"""What ``compare`` looks at."""


def bench(
    kind: str, data: Path | None, methods: Sequence[str], words: Sequence[str], rounds: int, say: Say
) -> dict[str, Any]:
    """Time something on a data folder, or on generated scenes, and return {"environment", "kind", "setting", "rows"}.

    Args:
        kind: one of ``KINDS``.
        data: the folder; None = scenes that are made for this.
        methods: names; none = ``DEFAULT``; supervised is always among them.
        words: ``key=value`` of any recipe key.
        rounds: how often each is timed.
        say: receives sentences.

    Raises:
        ConfigError: an unknown method or key.
        DataError: the data are unusable.
    """
    with setting(data, _with_supervised(methods), words, rounds, say) as what:
        rows = KINDS[kind](what)
        told = {"data": _place(data)} | what.told()
    return {"environment": environment(), "kind": kind, "setting": told, "rows": rows}


def rank(
    data: Path | None, methods: Sequence[str], words: Sequence[str], seeds: int, out: Path, say: Say
) -> dict[str, Any]:
    """Train methods on a data folder, or on generated scenes, and return the same with kind "leaderboard".

    Arguments and errors as in ``leaderboard.rows``.
    """
    for name in methods:
        resolve(name)
    rows = leaderboard.rows(data, _with_supervised(methods), words, seeds, out, say)
    told = {"data": _place(data), "words": list(words), "seeds": seeds}
    return {"environment": environment(), "kind": "leaderboard", "setting": told, "rows": rows}


def _with_supervised(methods: Sequence[str]) -> list[str]:
    return list(dict.fromkeys((SUPERVISED, *(methods or DEFAULT))))


def _place(data: Path | None) -> str:
    return "generated scenes" if data is None else str(data)


def names_of(text: str | None) -> list[str]:
    """Return the methods of ``--methods``: names with commas, or all."""
    return list(METHODS) if text == "all" else [n for n in (text or "").split(",") if n]


def title_of(row: dict[str, Any]) -> str:
    """Return what a row is about: a method, or the name of something else."""
    return row.get("method") or (f"{row['name']}, over {row['over']}" if "over" in row else row["name"])


def compare(found: dict[str, Any], base: Path) -> list[dict[str, Any]]:
    """Return {"name", "what", "then", "now", "ratio"} of every figure that a bench shares with an earlier one.

    Raises:
        ConfigError: the file is none of a bench, or of another kind or setting.
    """
    try:
        then = json.loads(base.read_text(encoding="utf-8"))
        old = {title_of(row): row for row in then["rows"]}
        other = [key for key in ("kind", "setting") if _plain(found[key]) != then[key]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("is no file of fewmask bench", where=base, todo="write one with --json FILE") from error
    if other:
        raise ConfigError(f"another {other[0]} was timed there", where=base, todo="repeat it with the same options")
    out = []
    for row in found["rows"]:
        name = title_of(row)
        for what in _RATIOS:
            now, before = (_middle(one.get(what)) for one in (row, old.get(name, {})))
            if now is not None and before:
                out.append({"name": name, "what": what, "then": before, "now": now, "ratio": now / before})
    return out


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _middle(value: Any) -> float | None:
    """Return the number of a figure, or the median of one with a range; lists are no figures."""
    if isinstance(value, list):
        return None
    return value["median"] if isinstance(value, dict) else value
