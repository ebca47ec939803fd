"""``fewmask methods``, ``models``, ``recipes``, ``doctor``: what there is, and whether this machine is fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fewmask.cli.train import say
from fewmask.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("methods")(methods)
    app.command("models")(models)
    app.command("recipes")(recipes)
    app.command("doctor")(doctor)


def methods(
    action: Annotated[
        str | None, typer.Argument(metavar="[check|new]", help="check: run the contract on a method; new: begin one.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="check: a registry name, or package.module:Class; new: its name."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects on stdout.")] = False,
) -> None:
    """Example: fewmask methods

    Lists, begins or checks methods. `fewmask methods new MyMethod` writes my_method.py, a complete method to change;
    `fewmask methods check my_method:MyMethod` runs the contract of every method on it.
    """
    from fewmask.methods import METHODS, resolve

    if action == "check" and name is not None:
        _check_method(name)
        return
    if action == "new" and name is not None:
        _new_method(name)
        return
    if action is not None:
        todo = "use `methods`, `methods check NAME` or `methods new NAME`"
        raise ConfigError(f"methods {action} is not a command", where="command line", todo=todo)
    rows = [_describe(key, resolve(key)) for key in METHODS]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['name']:<16}{row['title']} ({row['year']}); views {', '.join(row['views'])}; {row['paper']}")


def _describe(name: str, cls: Any) -> dict[str, Any]:
    from fewmask.method import Task, trainings

    method = cls(cls.Config(), Task(classes=2))
    each = trainings(method)
    views = [f"{stream}: {'+'.join(s.views)}" for one in each for stream, s in one.streams.items()]
    return {
        "name": name, "title": cls.title, "paper": cls.paper, "year": cls.year, "rounds": len(each),
        "views": list(dict.fromkeys(views)),
    }  # fmt: skip


def _check_method(name: str) -> None:
    from fewmask.contract import check_method

    failures = check_method(name, say)
    if failures:
        raise ConfigError(
            f"{name} breaks {len(failures)} of the contract's points: {failures[0]}", where=name,
            todo="see the lines above and docs/contract.md",
        )  # fmt: skip
    print(f"{name} keeps the contract")


def _new_method(name: str) -> None:
    import keyword
    import re
    from datetime import date
    from importlib.resources import files
    from string import Template

    from fewmask.engine.files import write_atomic

    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"{name!r} is no name of a class", where="methods new", todo="write for example MyMethod")
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    path = Path(f"{module}.py")
    if path.exists():
        raise ConfigError("the file exists; nothing is written over", where=path, todo="give another name")
    template = Template((files("fewmask.contract") / "template.txt").read_text(encoding="utf-8"))
    write_atomic(path, template.substitute(name=name, title=name, year=date.today().year))
    say(f"{path}: a method that works; now change it. From here:")
    print(
        f"PYTHONPATH=. fewmask methods check {module}:{name}\nPYTHONPATH=. fewmask train DIR --method {module}:{name}"
    )


def models(as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False) -> None:
    """Example: fewmask models

    Lists architectures and encoders. Any pair that segmentation_models_pytorch can build works; timm names take tu-.
    """
    from fewmask.nets import architectures, encoders

    found = {"architectures": architectures(), "encoders": encoders()}
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for kind, names in found.items():
        print(f"{kind}: {' '.join(names)}")
    print("and any timm encoder as tu-NAME")


def recipes(
    action: Annotated[str | None, typer.Argument(metavar="[expand]", help="expand: print a recipe complete.")] = None,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The recipe to expand.")] = None,
) -> None:
    """Example: fewmask recipes

    Lists the recipes below ./recipes. `fewmask recipes expand FILE` prints one with every default filled in.
    """
    from fewmask.config import dump_yaml
    from fewmask.recipe import read_recipe

    if action == "expand" and file is not None:
        print(dump_yaml(read_recipe(file, {}).complete()), end="")
        return
    if action is not None:
        raise ConfigError(
            f"recipes {action} is not a command", where="command line", todo="use `recipes` or `recipes expand FILE`"
        )
    found = sorted(Path("recipes").rglob("*.yaml"))
    if not found:
        say("no folder ./recipes here; they lie in the repository: clone it, or write one (see docs/recipes.md)")
    for path in found:
        first = next(iter(path.read_text(encoding="utf-8").splitlines()), "").lstrip("# ")
        print(f"{path}: {first}")


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False) -> None:
    """Example: fewmask doctor

    Looks at this machine for what would stop a training. Versions that must fit together, devices, bfloat16, disk,
    shared memory.
    """
    from fewmask.run.doctor import examine

    report = examine()
    if as_json:
        print(json.dumps(report, indent=2))
        return
    for row in report["checks"]:
        print(f"{'ok  ' if row['ok'] else 'BAD '} {row['what']}")
