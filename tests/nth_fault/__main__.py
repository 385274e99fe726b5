"""``python -m tests.nth_fault``: lets each call of devices and store in a domain's life fail in turn.

A table tells how many calls of which kind failed. A failure tells its story, and which arguments replay it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

sys.modules["tests"] = tests = ModuleType("tests")
tests.__path__ = [str(Path(__file__).resolve().parents[1])]
from tests.sim.boot import start  # noqa: E402 - tests is importable only now

start("tests.nth_fault.command_line")
