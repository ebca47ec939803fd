"""What a person sees while it trains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fewmask.engine.crowd import Crowd

_PLAIN_EVERY = 10.0  # seconds between plain lines
_PATIENCE = 2.0  # seconds before a short pass shows how far it is
_SLOW_DATA = 0.2  # share of the time waiting for data from which advice is given


class Ticker:
    """Context manager that shows how far a pass over files is, once it has taken two seconds.

    Args:
        title: of the bar.
        say: receives a plain line now and then where there is no terminal; None: nothing is shown there.
    """

    def __init__(self, title: str, say: Callable[[str], None] | None = None) -> None:
        self._title, self._say = title, say
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._began = self._spoke = time.perf_counter()

    def __enter__(self) -> Ticker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, of: int) -> None:
        """Take note that ``done`` of ``of`` are done."""
        now = time.perf_counter()
        if now - self._began < _PATIENCE:
            return
        if self._console.is_terminal:
            if self._bar is None:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
                self._bar = Progress(*columns, console=self._console, transient=True)
                self._bar.start()
                self._task = self._bar.add_task(self._title, total=of)
            self._bar.update(self._task, completed=done)
        elif self._say is not None and now - self._spoke > _PLAIN_EVERY:
            self._spoke = now
            seconds = int((now - self._began) / done * (of - done))
            self._say(f"{self._title} {done}/{of}  ETA {seconds // 60}:{seconds % 60:02d}")


class Reporter:
    """Context manager that shows the records of the log on stderr.

    Args:
        total: steps of the run.
        start: steps done before.
        say: receives plain lines.
        visible: False on all ranks but the first.
    """

    def __init__(self, total: int, start: int, say: Callable[[str], None], visible: bool = True) -> None:
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if visible and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[terms]}"), console=console,
            )  # fmt: skip
        self._total, self._start, self._say, self._visible = total, start, say, visible
        self._began = self._spoke = time.perf_counter()
        self._task: Any = None
        self._val = ""
        self._warned = False
        self._crowd: Crowd | None = Crowd() if visible else None

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("train", total=self._total, completed=self._start, terms="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def record(self, record: dict[str, Any]) -> None:
        """Show one record of the log."""
        if not self._visible or "skipped" in record:  # a step left out has a sentence of its own
            return
        if "val" in record:
            self._val = f"val {record['val']:.1f}" if record["val"] is not None else ""
            if self._bar is None:
                self._say(f"step {record['step']}/{self._total}  {self._val} mIoU")
            return
        text = self._text(record)
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], terms=f"{text}  {self._val}")
        elif time.perf_counter() - self._spoke > _PLAIN_EVERY or record["step"] == self._total:
            self._spoke = time.perf_counter()
            self._say(f"step {record['step']}/{self._total}  {text}  ETA {self._eta(record['step'])}")
        if self._crowd is not None and (advice := self._crowd.advice()):
            self._crowd = None  # once is enough
            self._say(advice)
        if record["data_wait"] > _SLOW_DATA and record["step"] - self._start > 50 and not self._warned:
            self._warned = True
            self._say(
                f"{record['data_wait']:.0%} of the time is spent waiting for data: try --workers or a smaller --resize"
            )

    def _text(self, record: dict[str, Any]) -> str:
        quiet = ("step", "lr", "kept", "pseudo", "agree", "data_wait")
        terms = [f"{k} {v:.3f}" for k, v in record.items() if k not in quiet]
        if "kept" in record:
            terms.append(f"kept {record['kept']:.0%}")
        return "  ".join([*terms, f"data wait {record['data_wait']:.0%}"])

    def _eta(self, step: int) -> str:
        done = max(1, step - self._start)
        seconds = (time.perf_counter() - self._began) / done * (self._total - step)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

    def message(self, text: str) -> None:
        """Show one sentence."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        elif self._visible:
            self._say(text)
