"""``python -m tests.exhaustive --length N``: walks all short sequences of what can happen to a domain.

After each, every permitted state of the devices after a power loss is opened and judged.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

sys.modules["tests"] = tests = ModuleType("tests")
tests.__path__ = [str(Path(__file__).resolve().parents[1])]
from tests.sim.boot import start  # noqa: E402 - tests is importable only now

start("tests.exhaustive.command_line")
