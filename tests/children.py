"""Runs Python in a process of its own, with the package under test and the tests' helpers importable."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jetdr_core

_TESTS = Path(__file__).parent
HELPERS = f"import sys, types; sys.modules['tests'] = _t = types.ModuleType('tests'); _t.__path__ = [{str(_TESTS)!r}]\n"
"""The beginning of such a script: it makes the helpers beside the tests importable."""


def run_python(
    script: str, *arguments: object, env: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run ``script`` with ``arguments`` for at most 100 seconds, and capture its output and errors."""
    return subprocess.run(
        [sys.executable, "-c", HELPERS + script, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,  # a test has 120
        env={**env, "PYTHONPATH": str(Path(jetdr_core.__file__).parents[1])},
    )
