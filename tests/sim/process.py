"""Runs a command of the kernel in a process of its own, whose clock, locks and threads are the kernel's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jetdr_core

TESTS = Path(__file__).resolve().parents[1]


def simulated(area: str, *arguments: object) -> str:
    """Run ``python -m tests.AREA`` and return what it printed. It must end well."""
    done = subprocess.run(
        [sys.executable, TESTS / area / "__main__.py", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(Path(jetdr_core.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
