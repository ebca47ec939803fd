"""``fewmask push``: a delivered model to the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fewmask.cli.train import say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("push", no_args_is_help=True)(push)


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; made if it is not there.")],
    public: Annotated[bool, typer.Option("--public", help="Make it public; a new one is private otherwise.")] = False,
    card: Annotated[bool, typer.Option("--card", help="Print the card, and upload nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Example: fewmask push runs/photos-fixmatch-001 me/photos

    Uploads the delivered model and a card to the Hugging Face Hub. It is one commit; the card names the folder, the
    classes and the scores of the run; no image is uploaded.
    """
    from fewmask.run.folder import RunFolder
    from fewmask.run.hub import card_of
    from fewmask.run.hub import push as upload

    if card:
        print(card_of(RunFolder(run), repo), end="")
        return
    made = upload(run, repo, private=not public)
    if as_json:
        print(json.dumps(made, indent=2))
    else:
        say(f"{', '.join(made['files'])} in {made['url']}")
