"""The log as the uploader sees it: how long a flush of its device is waited for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jetdr_core.domain.log_source import FLUSH_LIMIT_S, FLUSH_WAIT_S, DurableLog
from jetdr_core.errors import LogFailed
from tests.domain.fixture import fresh_store, new_domain


class SlowRing:
    """Says ``late`` times that the time ran out; ``waited_s``: how much that was."""

    poisoned = 0

    def __init__(self, late: int) -> None:
        self.waited_s = 0.0
        self._late = late

    def wait_durable(self, lsn: int, timeout_s: float) -> bool:
        self.waited_s += timeout_s
        self._late -= 1
        return self._late < 0


def read_from(ring: Any) -> None:
    async def scenario() -> None:
        async with new_domain(fresh_store()) as domain:
            log = domain._alive.parts.log
            DurableLog(log, ring, "vm").read_durable(log.outcome.head, 1 << 20)

    asyncio.run(scenario())


def test_a_process_that_was_stopped_looks_again_before_it_gives_up_its_log() -> None:
    """To one that goes on after minutes the first wait is over before the log writer has had a turn."""
    ring = SlowRing(late=1)
    read_from(ring)
    assert ring.waited_s == 2 * FLUSH_WAIT_S


def test_a_log_device_whose_flush_does_not_end_is_given_up() -> None:
    ring = SlowRing(late=1_000_000)
    with pytest.raises(LogFailed, match=f"a flush of the log took over {FLUSH_LIMIT_S} s"):
        read_from(ring)
    assert ring.waited_s == FLUSH_LIMIT_S
