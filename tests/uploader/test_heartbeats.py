"""A heartbeat is written only while an idle domain's newest recovery point is current."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from jetdr_core.catalog import decode_heartbeat
from jetdr_core.store import MemoryStore, ObjectStore
from jetdr_core.uploader.heartbeats import HeartbeatWriter
from tests.faults.store import Fault, FaultyStore, on
from tests.uploader.listed_source import ListedSource
from tests.uploader.test_in_flight import new_chain

INTERVAL_S = 0.001


async def beats(
    source: ListedSource, store: ObjectStore, is_idle: Callable[[int], bool], enough: Callable[[], bool]
) -> list[int]:
    """Beat until ``enough``; the LSNs that the heartbeat said at each look."""
    chain = await new_chain(MemoryStore())
    chain.store = store
    writer = HeartbeatWriter(source, chain, INTERVAL_S, is_idle=is_idle)
    task = asyncio.create_task(writer.beat_forever())
    said: list[int] = []
    async with asyncio.timeout(10):
        while not enough():
            said += [
                decode_heartbeat(await store.get(info.key), info.key).lsn async for info in store.list_prefix("heart")
            ]
            await asyncio.sleep(INTERVAL_S)
    assert not task.done()
    task.cancel()
    return said


class Looks:
    """Counts how often it was asked, and answers as the test says."""

    def __init__(self, *, idle: bool) -> None:
        self.count = 0
        self.idle = idle

    def __call__(self, lsn: int) -> bool:
        self.count += 1
        return self.idle

    def enough(self) -> bool:
        return self.count > 5


def run(source: ListedSource, looks: Looks, store: ObjectStore | None = None) -> list[int]:
    return asyncio.run(beats(source, store or MemoryStore(), looks, looks.enough))


def test_an_idle_domain_says_its_last_lsn() -> None:
    source = ListedSource()
    source.write(7)
    assert set(run(source, Looks(idle=True))) == {7}


def test_a_domain_that_has_not_stored_everything_says_nothing() -> None:
    assert run(ListedSource(), Looks(idle=False)) == []


def test_a_domain_whose_writes_bypass_the_log_says_nothing() -> None:
    source = ListedSource()
    source.bypassed = True
    assert run(source, Looks(idle=True)) == []


def test_a_domain_that_was_written_meanwhile_says_nothing() -> None:
    """A bypass that ended between the two looks left a gap record, so the LSN has moved."""
    source = ListedSource()
    source.lsns_observed = list(range(100))
    assert run(source, Looks(idle=True)) == []


def test_a_store_that_refuses_heartbeats_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """As an immutable container does, which takes new objects and lets none be replaced."""
    caplog.set_level("INFO")

    async def scenario() -> None:
        store = FaultyStore(MemoryStore(), on("replace", Fault.DENIED, times=5))
        chain, source = await new_chain(store), ListedSource()
        source.write(7)
        writer = HeartbeatWriter(source, chain, INTERVAL_S, is_idle=lambda _: True)
        beating = asyncio.create_task(writer.beat_forever())
        async with asyncio.timeout(10):
            while (refusal := writer.refusal) is None:
                await asyncio.sleep(0)
            assert "denied" in refusal.why.lower() or "refus" in refusal.why.lower()
            assert (writer.time_ns, time.time_ns() - refusal.since_ns < 10**10) == (0, True)
            while not writer.time_ns:
                await asyncio.sleep(0)
        assert writer.refusal is None
        assert not beating.done()
        beating.cancel()

    asyncio.run(scenario())
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, told
    assert "refuses heartbeats" in told[0]
    assert "takes heartbeats again" in told[1]
