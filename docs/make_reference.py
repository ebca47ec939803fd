"""Write docs/cli.md, the reference of the command line, and docs/data.schema.json, from the code itself.

Run as ``python docs/make_reference.py``; with ``--check`` (part of ``make docs``) it exits 1 if the files are not what
would be written.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.main import get_command

from fewmask.cli import app
from fewmask.data.datayaml import json_schema

HERE = Path(__file__).parent

HEAD = """\
# The command line

Made from the commands by `python docs/make_reference.py`; `fewmask COMMAND --help` says the same. Errors are one line,
`error: what; where; what to do`, with the [exit codes](exit-codes.md) that scripts rely on; `--debug` adds the
traceback. Human text goes to stderr, what a script reads (`--json`) to stdout.
"""


def main() -> int:
    """Write the files, or compare them."""
    made = {
        HERE / "cli.md": "\n".join([HEAD, *(line for name, one in _commands() for line in _section(name, one))]),
        HERE / "data.schema.json": json.dumps(json_schema(), indent=2) + "\n",
    }
    if "--check" not in sys.argv[1:]:
        for file, text in made.items():
            file.write_text(text, encoding="utf-8")
        return 0
    old = [file for file, text in made.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    for file in old:
        print(f"docs/{file.name} is not what the code says: run python docs/make_reference.py", file=sys.stderr)
    return 1 if old else 0


def _commands() -> Iterator[tuple[str, Any]]:
    for name, command in get_command(app).commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        inside = getattr(command, "commands", None)
        if inside is None:
            yield name, command
        else:
            yield from ((f"{name} {part}", one) for part, one in inside.items())


def _section(name: str, command: Any) -> Iterator[str]:
    example, _, about = inspect.cleandoc(command.help).partition("\n")
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    options = [p for p in command.params if p.opts[0].startswith("-") and "--help" not in p.opts]
    usage = " ".join(["fewmask", name, *(["[options]"] if options else []), *map(_called, arguments)])
    yield from (f"## {name}", "", "```sh", example.removeprefix("Example: "), "```", "")
    yield from ((f"{about.strip()}", "") if about.strip() else ())
    yield from ("```text", usage, "```", "")
    choices = _choices(command.callback)
    rows = [(_called(p), p) for p in arguments if p.help]
    rows += [(_spelled(p, choices.get(p.name, ())), p) for p in options]
    if rows:
        yield from ("| | |", "|---|---|")
        yield from (f"| `{said}` | {_cell(p)} |" for said, p in rows)
        yield ""


def _called(parameter: Any) -> str:
    return parameter.metavar or parameter.name.upper()


def _choices(function: Any) -> dict[str, tuple[str, ...]]:
    """Return parameter to the words that it may be, where these are few."""
    out = {}
    for name, kind in get_type_hints(function).items():
        for one in (kind, *get_args(kind), *(inner for part in get_args(kind) for inner in get_args(part))):
            if isinstance(one, type) and issubclass(one, Enum):
                out[name] = tuple(str(member.value) for member in one)
    return out


def _spelled(parameter: Any, choices: tuple[str, ...]) -> str:
    names = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        names += " / " + ", ".join(parameter.secondary_opts)
    if not getattr(parameter, "is_flag", False):
        names += " " + (parameter.metavar or "|".join(choices) or parameter.name.upper())
    return names.replace("|", "\\|")


def _cell(parameter: Any) -> str:
    text, default = (parameter.help or "").strip().replace("|", "\\|"), parameter.default
    if isinstance(default, Enum):
        default = default.value
    told = "default" in text.lower() or getattr(parameter, "is_flag", False)
    if default not in (None, False, ...) and not callable(default) and not told:
        text += f" Default: `{default}`."
    return text


if __name__ == "__main__":
    sys.exit(main())
