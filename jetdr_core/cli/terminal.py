"""Terminal: where one run of ``jetdr`` prints its results, warnings and errors.

Invariants: results go to stdout, everything else to stderr. Colours appear only on a terminal, and not with NO_COLOR
set. A warning is one line and an error is one line. The same warning is printed once.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetdr_core.cli.words import one_line, shown
from jetdr_core.errors import SystemFailure
from jetdr_core.file_making import remedy_of

__all__ = ["Terminal", "Work", "begin_terminal"]

_WIDTH_ELSEWHERE = 10_000
"""Columns if there is no terminal, so that no line is wrapped or cut."""

_QUIET_LOGGERS = ("azure", "asyncio")
"""These report in many lines what our errors say in one."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a command does once its options are read. ``interrupted`` is printed if Ctrl-C ends it."""

    run: Callable[[], int]
    interrupted: str = ""


@dataclass(slots=True)
class Terminal:
    """Made by :func:`begin_terminal`."""

    out: Console
    err: Console
    debug: bool = False
    interrupted: str = ""
    as_json: bool = False
    _has_answered: bool = False
    _warned: set[str] = field(default_factory=set)

    # -- results -----------------------------------------------------------------------------------------------------

    def say(self, line: str = "", style: str = "") -> None:
        """Print a line of the result."""
        with _to_stdout():
            self.out.print(Text(shown(line), style=style), soft_wrap=True)

    def say_json(self, value: object) -> None:
        """Print the result as JSON, in ASCII whatever the encoding of the terminal."""
        self._has_answered = True
        with _to_stdout():
            self.out.file.write(json.dumps(value, indent=2) + "\n")
            self.out.file.flush()

    def say_table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table, or nothing without rows. A column whose name begins with ``>`` is right-aligned."""
        if not rows:
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in columns:
            table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(shown(cell)) for cell in row))
        with _to_stdout():
            self.out.print(table)

    # -- all else ------------------------------------------------------------------------------------------------------

    def tell(self, line: str) -> None:
        """Print a line about what is going on."""
        self.err.print(Text(one_line(line)), soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning, unless the same one was printed before."""
        line = one_line(message)
        if line not in self._warned:
            self._warned.add(line)
            self.err.print(Text.assemble("jetdr: ", ("warning", "yellow"), f": {line}"), soft_wrap=True)

    def complain(self, message: str) -> None:
        """Print the error of this run, with its remedy."""
        self.err.print(Text.assemble("jetdr: ", ("error", "bold red"), f": {one_line(message)}"), soft_wrap=True)

    def fail(self, kind: str, message: str, code: int) -> None:
        """Print the error that ends this run. With --json, stdout gets it too, as the one document."""
        self.complain(message)
        if self.as_json and not self._has_answered:
            with suppress(OSError):
                self.say_json({"error": {"type": kind, "message": one_line(message), "exit_code": int(code)}})

    def trace(self, error: BaseException) -> None:
        """Print the traceback of ``error`` if --debug was given."""
        if self.debug:
            for line in "".join(traceback.format_exception(error)).splitlines():
                self.err.print(Text(shown(line)), soft_wrap=True)


def begin_terminal(*, as_json: bool = False) -> Terminal:
    """Return a terminal on the present streams of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return Terminal(
        _console(stderr=False), _console(stderr=True), debug=bool(os.environ.get("JETDR_DEBUG")), as_json=as_json
    )


@contextmanager
def warnings_to(terminal: Terminal) -> Iterator[None]:
    """Print warnings of the engine's log as warnings of the terminal inside the context."""
    handler = _TerminalHandler(terminal)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@contextmanager
def _to_stdout() -> Iterator[None]:
    """Say of an ``OSError`` of the body that standard output is meant. A pipe that was closed is no error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SystemFailure(
            f"standard output: {error.strerror or error}", hint=remedy_of(error.errno), errno=error.errno
        ) from error


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDTH_ELSEWHERE
    return console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise an error, where rich would end the process with status 1."""
        raise BrokenPipeError


class _TerminalHandler(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        if self._terminal.debug or not record.name.startswith(_QUIET_LOGGERS):
            self._terminal.warn(record.getMessage())
