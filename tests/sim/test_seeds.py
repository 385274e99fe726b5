"""The simulator, on as many seeds as fit. docs/contributing.md says how to run more, and how to replay one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jetdr_core

SIM = Path(__file__).with_name("__main__.py")
PARTS = 2
SEEDS = 1000 // PARTS
LIMIT_S = 60


def simulated(*arguments: object) -> str:
    """Run the simulator in a process of its own, whose clock, locks and threads are the kernel's."""
    done = subprocess.run(
        [sys.executable, SIM, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(Path(jetdr_core.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_finds_a_broken_promise(part: int) -> None:
    told = simulated("--first", 1 + part * SEEDS, "--seeds", SEEDS, "--seconds", LIMIT_S)
    assert "failed: none" in told


def test_a_seed_replays_exactly() -> None:
    first, second = (simulated("--first", 42, "--seeds", 5, "--digests").splitlines()[:5] for _ in range(2))
    assert first == second
    assert len(set(first)) == 5
