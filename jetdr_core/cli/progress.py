"""Progress on stderr: one bar per disk on a terminal, elsewhere a line at every ten percent.

Invariant: nothing is printed if a program reads JSON and stderr is no terminal.
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
"""Takes a name, the bytes done, and the bytes in all."""

_STEP_PERCENT = 10


@contextmanager
def showing_progress(terminal: Terminal, *, silent: bool) -> Iterator[Advance]:
    """Return a function to call with the progress. ``silent`` has no effect on a terminal."""
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
        self._terminal = terminal
        self._said: dict[str, int] = {}

    def advance(self, name: str, bytes_done: int, bytes_total: int) -> None:
        percent = 100 * bytes_done // bytes_total if bytes_total else 100
        step = percent // _STEP_PERCENT * _STEP_PERCENT
        if step > self._said.get(name, 0):
            self._said[name] = step
            self._terminal.tell(f"{name}: {step} % of {human_bytes(bytes_total)}")
