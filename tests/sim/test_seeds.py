"""The simulator, on as many seeds as fit. docs/contributing.md says how to run more, and how to replay one."""

from __future__ import annotations

import pytest

from tests.sim.process import simulated

PARTS = 2
SEEDS = 1000 // PARTS
LIMIT_S = 45


@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_finds_a_broken_promise(part: int) -> None:
    told = simulated("sim", "--first", 1 + part * SEEDS, "--seeds", SEEDS, "--seconds", LIMIT_S)
    assert "failed: none" in told


def test_a_seed_replays_exactly() -> None:
    first, second = (simulated("sim", "--first", 42, "--seeds", 5, "--digests").splitlines()[:5] for _ in range(2))
    assert first == second
    assert len(set(first)) == 5
