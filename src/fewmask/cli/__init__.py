"""The command line: flags in, one line an error, exit codes that scripts rely on."""

from __future__ import annotations

import errno
import inspect
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fewmask._version import __version__
from fewmask.cli import bench, clean, data, demo, export, info, labels, push, report, train, use
from fewmask.errors import FewmaskError, printable, short_of_memory

app = typer.Typer(
    name="fewmask", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Example: fewmask train photos/\n\nA folder of images, a few with masks: the best model those allow.",
)  # fmt: skip
# typer carries a click of its own in some versions; its exceptions are found from what typer exports
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"fewmask {__version__}")
        raise typer.Exit


@app.callback()
def _before(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version; doctor has more."),
    ] = False,
) -> None: ...


for module in (train, use, report, export, push, labels, data, info, bench, clean, demo):
    module.register(app)


def _first_sentence(about: str) -> str:
    """Return that of the paragraph below the example."""
    paragraph = about.partition("\n\n")[2].partition("\n\n")[0]
    return " ".join(paragraph.split()).partition(". ")[0].removesuffix(".")


def _summarise(group: typer.Typer) -> None:
    """Let a list of commands say what each does; by themselves, typer lists the examples that their help opens with."""
    for command in group.registered_commands:
        about = inspect.cleandoc(command.help or (command.callback and command.callback.__doc__) or "")
        command.short_help = _first_sentence(about)
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            inner.short_help = _first_sentence(str(inner.typer_instance.info.help))
            _summarise(inner.typer_instance)


_summarise(app)


def main() -> NoReturn:
    """Run the command line and exit with its code; tracebacks are shown with --debug only."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; see ``docs/exit-codes.md``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        # --debug is this function's, for every command; train lists it in its help
        words = train.spell_out([word for word in arguments if word != "--debug"])
        result = app(words, standalone_mode=False)
        if result == 130:  # typer catches KeyboardInterrupt and says nothing
            return _fail(_INTERRUPTED, 130, arguments)
        return result if isinstance(result, int) else 0
    except typer.Exit as leaving:
        return leaving.exit_code
    except FewmaskError as error:
        code = _fail(str(error), error.exit_code, arguments)
        for note in [*getattr(error, "__notes__", []), *_hint(error)]:
            print(printable(note), file=sys.stderr)
        return code
    except _UsageError as error:
        what = error.format_message().rstrip(".") or "arguments are missing"
        return _fail(f"{what}; command line; see --help", 2, arguments)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(_INTERRUPTED, 130, arguments)
    except Exception as error:
        return _fail(*_explain(error, next((w for w in arguments if w[:1] != "-"), "")), arguments)


def _hint(error: FewmaskError) -> list[str]:
    """Return what else there is to do where an error asks for a file in a folder that nothing can be put into."""
    place = Path(error.where)
    folder = next((p for p in (place, *place.parents) if p.is_dir()), place)
    if "data.yaml" not in error.todo or not error.where or os.access(folder, os.W_OK):
        return []
    return ["where the folder may not hold a data.yaml, its place is taken by --data-yaml FILE"]


_LONGEST = 4000  # characters of an error
_INTERRUPTED = "interrupted; what was not saved yet is lost; run the same command again to continue"
# files that are read have errors of their own, so these are of files that are written
_NAMES = "ENOSPC EROFS EDQUOT EACCES EPERM ENOTDIR EISDIR EEXIST EIO ESTALE ENAMETOOLONG EFBIG"
_NO_WRITE = {getattr(errno, n) for n in _NAMES.split() if hasattr(errno, n)}

_LESS = {"predict": "give --tile 1024 or less, and no --probs"}
"""What takes less memory, by command, where that has other options than training."""

_LOST = {"DistError", "DistBackendError", "DistNetworkError", "DistStoreError"}
"""Of torch.distributed, by name: an error is explained where torch was never imported, too."""


def _explain(error: Exception, command: str = "") -> tuple[str, int]:
    """Turn what libraries raise into what, where, what to do, and an exit code."""
    if short_of_memory(error):
        return f"out of memory; this machine; {_LESS.get(command, 'lower --batch, --unlabelled-batch or --crop')}", 7
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return f"{str(error).splitlines()[0]}; a loader process; lower --workers or machine.cache_mb", 7
    lost = type(error).__name__ in _LOST or "gloo" in str(error) or "NCCL" in str(error)
    if isinstance(error, RuntimeError) and lost:
        return "another process of this run was lost; see its own error; run the same command again", 7
    if isinstance(error, PermissionError) and error.filename and _is_closed(Path(error.filename)):
        return f"cannot be read ({error.strerror}); {error.filename}; change its permissions", 3
    if isinstance(error, OSError) and error.errno in _NO_WRITE:
        return f"could not write ({error.strerror}); {error.filename}; make room or choose another --out", 74
    where = "inside fewmask"
    return (
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; {where}; run again with --debug",
        1,
    )


def _is_closed(path: Path) -> bool:
    """Return whether a file or folder is there and may not be read."""
    try:
        return path.exists() and not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0))
    except PermissionError:  # of a folder above it
        return True


def _fail(message: str, code: int, arguments: list[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exc()
    text = printable(" ".join(message.split()))
    if len(text) > _LONGEST:  # a file's content, which somebody else may have written
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    print(f"error: {text}", file=sys.stderr)
    return code
