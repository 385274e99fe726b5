"""Benchmarks of the engine, each beside its floor or peer: ``python -m benchmarks [NAME...]``; docs/benchmarks.md.

Run from the repository's root. They measure the source tree if it was built in place, else the installed package.
"""

import sys
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).resolve().parent.parent


def _prefer_what_is_built() -> None:
    """Take the source tree off Python's path if it has no compiled core. It would hide the installed package."""
    if not any((_ROOT / "jetdr_core").glob("_core*.so")):
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _ROOT]


def _find_peers() -> None:
    """Make ``tests.peers`` importable, wherever the measured package comes from."""
    tests = sys.modules.setdefault("tests", ModuleType("tests"))
    tests.__path__ = [str(_ROOT / "tests")]


_prefer_what_is_built()
_find_peers()
