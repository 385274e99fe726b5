"""A part of all short sequences, and what a power loss may leave. docs/contributing.md says how to walk all of them."""

from __future__ import annotations

from tests.exhaustive.crash_states import kept_writes
from tests.sim.process import simulated

EVERY = 47
"""Of the 1,463 sequences up to length 3. It shares no factor with the eleven steps, so that all of them occur."""


def test_short_sequences_keep_every_promise() -> None:
    told = simulated("exhaustive", "--length", 3, "--every", EVERY)
    assert "wrong: 0" in told


def test_what_a_power_loss_keeps() -> None:
    first, second = (0, b"a" * 1024), (512, b"b" * 512)
    kept = [list(writes) for writes in kept_writes([first, second])]
    assert kept[:3] == [[], [first, second], [second, first]]
    assert {tuple(writes) for writes in kept[3:5]} == {(first,), (second,)}
    assert kept[5:] == [[(0, b"a" * 512)], [(512, b"a" * 512)]]
