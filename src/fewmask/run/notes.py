"""Sentences for people: one for each decision, and an error before those that led to it."""

from __future__ import annotations

from collections.abc import Callable

from fewmask.errors import FewmaskError

Say = Callable[[str], None]


class Notes:
    """Sentences that wait until work begins: if an error comes instead, its line must be the first.

    As a context it hands what waits to such an error, to be said after it, and else says it in the end.

    Args:
        say: receives them in the end.

    Attributes:
        held: those that wait.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._open = False
        self.held: list[str] = []

    def __call__(self, text: str) -> None:
        """Say a sentence, or hold it."""
        if self._open:
            self._say(text)
        else:
            self.held.append(text)

    def release(self) -> None:
        """Say what is held, and everything after it at once."""
        self._open = True
        while self.held:
            self._say(self.held.pop(0))

    def __enter__(self) -> Notes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.release()
        elif isinstance(error, FewmaskError):
            for text in self.held:
                error.add_note(text)
