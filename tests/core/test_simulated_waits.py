"""Waits of the core can be simulated: they are given to Python, and their limits are those of a manual clock."""

from __future__ import annotations

import json

from tests.children import run_python

SIMULATED = """
import json, threading
from jetdr_core import _core
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import StallTimeout

clock, paused = _core.ManualClock(), []

def pause(address, seen, limit_ns):
    assert not address or _core.word_at(address) == seen
    paused.append(limit_ns)
    clock.advance(limit_ns)

_core.simulate(clock, pause)
ring = _core.Ring(payload_bytes=1 << 17, slots=16, lsn_next=1, clock=clock)
disk = _core.IoFilter(
    ring, MemoryDevice(1 << 20), disk=1, size_bytes=1 << 20, record_bytes_max=1 << 16, stall_limit_s=3600
)
answers = [disk.write(0, bytes(1 << 16)), disk.write(0, bytes(1 << 16)), ring.wait_durable(1, 60)]
try:
    disk.write(0, bytes(512))
except StallTimeout:
    answers.append("stalled")
print(json.dumps([answers, paused]))
"""


def test_limits_of_waits_are_over_when_the_simulated_clock_says_so() -> None:
    told = run_python(SIMULATED)
    assert told.returncode == 0, told.stderr
    answers, paused = json.loads(told.stdout)
    assert answers == [1, 2, False, "stalled"]
    assert paused == [60 * 10**9, 3600 * 10**9]


def test_an_error_in_a_simulated_wait_ends_the_process_and_is_told() -> None:
    script = SIMULATED.replace("clock.advance(limit_ns)", "raise ZeroDivisionError")
    told = run_python(script)
    assert told.returncode < 0
    assert "ZeroDivisionError" in told.stderr
