"""A guest that writes more than the store takes: it is delayed and stays protected, and all is well afterwards."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from tests.domain.hosted import DISK_BYTES, Machine, assert_whole_and_end, machine, until

PIECE = 64 << 10
SHIPPED_PER_S = 2e6
WRITTEN_PER_S = 5e6


class Guest:
    """Writes at :data:`WRITTEN_PER_S`, or as quickly as it is let."""

    def __init__(self, made: Machine) -> None:
        self._client = made.client()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        count, begun = 0, time.monotonic()
        with self._client:
            while not self._ended.wait(max(0.0, begun + count * PIECE / WRITTEN_PER_S - time.monotonic())):
                self._client.write(count * PIECE % DISK_BYTES, os.urandom(PIECE))
                count += 1


def test_a_guest_that_writes_too_much_is_delayed_and_stays_protected(peer: Callable[[str], str]) -> None:
    """It takes some seconds until a log of 8 MiB is so full that writes are delayed."""
    peer("nbdkit")

    async def scenario(made: Machine) -> None:
        made.options = replace(
            made.options, bandwidth_bytes_per_s=SHIPPED_PER_S, segment_bytes=256 << 10, throttle_wait_s=10.0
        )
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            guest = Guest(made)
            try:
                await asyncio.to_thread(until, lambda: domain.status().ladder.limit_bytes_per_s)
                await asyncio.to_thread(until, lambda: domain.status().disks[0].throttled > 10)
                status = domain.status()
            finally:
                guest.end()
            assert status.ladder.rung == "throttled"
            assert status.consistent
            await asyncio.to_thread(until, lambda: domain.status().ladder.rung in {"spill", "direct"})
            host = domain.status().host
            assert host is not None
            assert (host.logging, host.off_times) == (True, 0)
            await assert_whole_and_end(domain, made)

    with machine() as made:
        asyncio.run(scenario(made))
