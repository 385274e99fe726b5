"""Runs ``jetdr``, in this process or in one of its own, and returns its exit code and output."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jetdr_core
from jetdr_core.cli import main

PACKAGE_PARENT = Path(jetdr_core.__file__).parents[1]


class Said(NamedTuple):
    """The exit code, and what was printed on both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one error line on stderr. A second one, or a traceback, fails the test."""
        lines = [line for line in self.err.splitlines() if not line.startswith("jetdr: warning: ")]
        (line,) = [line for line in lines if "%" not in line.split(":")[-1]]
        assert line.startswith("jetdr: error: "), self.err
        return line.removeprefix("jetdr: error: ")


def jetdr(*arguments: object) -> Said:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment, with the package importable and without settings of colours."""
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "JETDR_DEBUG"}}
    return kept | {"PYTHONPATH": str(PACKAGE_PARENT)} | changes


def jetdr_process(
    *arguments: object, env: dict[str, str] | None = None, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m jetdr_core.cli`` to its end."""
    command = [sys.executable, "-m", "jetdr_core.cli", *map(str, arguments)]
    return subprocess.run(
        command, env=env or environment(), stdout=stdout, stderr=stderr, text=True, timeout=60, check=False
    )
