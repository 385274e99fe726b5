"""A part of all failing calls. docs/contributing.md says how to let every one fail."""

from __future__ import annotations

from tests.sim.process import simulated

EVERY = 97
"""Of the 4,000 cases. A prime, so that every kind of call and of failure occurs."""


def test_a_failing_call_breaks_no_promise() -> None:
    told = simulated("nth_fault", "--every", EVERY)
    assert "wrong: 0" in told
    for call in ("log write", "log sync", "log read", "primary write", "store put", "store get range", "store list"):
        assert f"| {call} |" in told
