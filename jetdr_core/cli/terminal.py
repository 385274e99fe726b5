"""Terminal: one run of ``jetdr``: where it prints, how it warns, how it fails.

Invariants: results go to stdout, all else to stderr; colours only on a terminal, and not with NO_COLOR; a warning and
an error are one line each, and the same warning comes once.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetdr_core.cli.words import one_line, shown

__all__ = ["Terminal", "Work", "begin_terminal"]

_WIDTH_ELSEWHERE = 10_000
"""Columns where there is no terminal: no line is wrapped or cut."""

_QUIET_LOGGERS = ("azure", "asyncio")
"""They repeat, over many lines, what our errors say in one."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a command has to do once its options are read; ``interrupted`` is what to tell when Ctrl-C ends it."""

    run: Callable[[], int]
    interrupted: str = ""


@dataclass(slots=True)
class Terminal:
    """Made by :func:`begin_terminal`."""

    out: Console
    err: Console
    debug: bool = False
    interrupted: str = ""
    _warned: set[str] = field(default_factory=set)

    # -- results -----------------------------------------------------------------------------------------------------

    def say(self, line: str = "", style: str = "") -> None:
        """A line of the result."""
        self.out.print(Text(shown(line), style=style), soft_wrap=True)

    def say_json(self, value: object) -> None:
        """The result as JSON, in ASCII whatever the terminal's encoding."""
        self.out.file.write(json.dumps(value, indent=2) + "\n")

    def say_table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table; a column whose name begins with ``>`` is right-aligned. Nothing for no rows."""
        if not rows:
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in columns:
            table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(shown(cell)) for cell in row))
        self.out.print(table)

    # -- all else ------------------------------------------------------------------------------------------------------

    def tell(self, line: str) -> None:
        """A line about what is going on."""
        self.err.print(Text(one_line(line)), soft_wrap=True)

    def warn(self, message: str) -> None:
        """A warning; the same one is given once."""
        line = one_line(message)
        if line not in self._warned:
            self._warned.add(line)
            self.err.print(Text.assemble("jetdr: ", ("warning", "yellow"), f": {line}"), soft_wrap=True)

    def complain(self, message: str) -> None:
        """The error of this run, with its remedy."""
        self.err.print(Text.assemble("jetdr: ", ("error", "bold red"), f": {one_line(message)}"), soft_wrap=True)

    def trace(self, error: BaseException) -> None:
        """The traceback of ``error``, for those who asked for it."""
        if self.debug:
            for line in "".join(traceback.format_exception(error)).splitlines():
                self.err.print(Text(shown(line)), soft_wrap=True)


def begin_terminal() -> Terminal:
    """A terminal on the process's present streams."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return Terminal(_console(stderr=False), _console(stderr=True), debug=bool(os.environ.get("JETDR_DEBUG")))


@contextmanager
def warnings_to(terminal: Terminal) -> Iterator[None]:
    """Meanwhile the engine's log becomes the terminal's warnings."""
    handler = _ToSession(terminal)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDTH_ELSEWHERE
    return console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Where rich would end the process with 1."""
        raise BrokenPipeError


class _ToSession(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._session = terminal

    def emit(self, record: logging.LogRecord) -> None:
        if self._session.debug or not record.name.startswith(_QUIET_LOGGERS):
            self._session.warn(record.getMessage())
