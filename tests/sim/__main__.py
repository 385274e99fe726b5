"""``python -m tests.sim --seeds N [--seed S]``: simulates domains under faults, over virtual time.

Each seed is one episode. A seed that fails prints its story, and ``--seed S`` replays it exactly.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets decides who runs first
        os.execve(sys.executable, sys.orig_argv, os.environ | {"PYTHONHASHSEED": "0"})
    if not any((ROOT / "jetdr_core").glob("_core*.so")):  # the source tree would hide the installed package
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
    sys.modules["tests"] = tests = ModuleType("tests")
    tests.__path__ = [str(ROOT / "tests")]
    from tests.sim import kernel  # noqa: PLC0415 - tests is importable only now

    kernel.install()
    from tests.sim.command_line import run  # noqa: PLC0415 - what it imports takes locks, which are now the kernel's

    return run(sys.argv[1:])


sys.exit(main())
