"""Progress: a bar a disk on a terminal, a plain line every ten percent elsewhere; always on stderr.

Invariant: nothing where a program reads JSON and nobody watches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from jetdr_core.cli.terminal import Terminal
from jetdr_core.cli.words import human_bytes

__all__ = ["Advance", "showing_progress"]

Advance = Callable[[str, int, int], None]
"""(name, bytes done, bytes in all)."""

_STEP_PERCENT = 10


@contextmanager
def showing_progress(terminal: Terminal, *, silent: bool) -> Iterator[Advance]:
    """Gives what to call with the progress made; ``silent`` counts only where there is no terminal."""
    if terminal.err.is_terminal:
        with _progress(terminal) as bars:
            yield _Bars(bars).advance
    elif silent:
        yield lambda *_: None
    else:
        yield _Lines(terminal).advance


def _progress(terminal: Terminal) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=terminal.err,
    )


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def advance(self, name: str, bytes_done: int, bytes_total: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=bytes_total)
        self._bars.update(self._tasks[name], completed=bytes_done, total=bytes_total)


class _Lines:
    def __init__(self, terminal: Terminal) -> None:
        self._session = terminal
        self._said: dict[str, int] = {}

    def advance(self, name: str, bytes_done: int, bytes_total: int) -> None:
        percent = 100 * bytes_done // bytes_total if bytes_total else 100
        step = percent // _STEP_PERCENT * _STEP_PERCENT
        if step > self._said.get(name, 0):
            self._said[name] = step
            self._session.tell(f"{name}: {step} % of {human_bytes(bytes_total)}")
