"""``python -m tests.sim --seeds N [--seed S]``: simulates domains under faults, over virtual time.

Each seed is one episode. A seed that fails prints its story, and ``--seed S`` replays it exactly.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

sys.modules["tests"] = tests = ModuleType("tests")
tests.__path__ = [str(Path(__file__).resolve().parents[1])]
from tests.sim.boot import start  # noqa: E402 - tests is importable only now

start("tests.sim.command_line")
