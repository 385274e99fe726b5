"""A clock that goes wrong: no record bears a time that has not come, and no instant resolves to the wrong moment."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core._core import ManualClock
from jetdr_core.catalog import Catalog
from jetdr_core.device import MemoryDevice
from jetdr_core.domain.clock_watch import REASON
from jetdr_core.errors import InstantInGap
from jetdr_core.store import ObjectStore
from tests.domain.fixture import DISK_BYTES, QUICK, fresh_store, log_device, new_domain, recovered, within

S = 10**9
NOW = 1_600_000_000 * S
YEAR = 365 * 86400 * S


def instant(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // S, UTC)


async def state_at(store: Any, time_ns: int) -> bytes:
    return (await recovered(store, instant(time_ns)))["db01"][:512].rstrip()


def put(domain: Any, clock: ManualClock, text: bytes) -> int:
    """Write, flush, and return the instant."""
    domain.disk("db01").write(0, text.ljust(512))
    domain.disk("db01").flush()
    return clock.time_ns


async def stay(domain: Any, clock: ManualClock) -> None:
    """Let the clock stay where it went, until it is followed and the history says so."""
    for _ in range(62):
        clock.advance(S)
        domain.status()
    history = domain._alive.control_log.history
    while not history.gaps or history.gap_open:
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("ahead_ns", [3600 * S, 10 * YEAR])
def test_a_moment_of_a_wrong_clock_changes_no_time_and_raises_an_alarm(ahead_ns: int) -> None:
    async def scenario() -> None:
        store, clock = fresh_store(), ManualClock(NOW)
        async with new_domain(store, clock=clock) as domain:
            await domain.protect("db01", MemoryDevice(DISK_BYTES))
            clock.advance(60 * S)
            before = put(domain, clock, b"before")
            clock.advance(5 * S)
            clock.set(clock.time_ns + ahead_ns)
            put(domain, clock, b"while wrong")
            assert "the clock went ahead by" in domain.status().clock
            clock.advance(5 * S)
            clock.set(before + 10 * S)
            assert domain.status().clock == ""
            clock.advance(600 * S)
            after = put(domain, clock, b"after")
            clock.advance(10 * S)
            await domain.uploaded(domain.mark("end").lsn)
        assert await state_at(store, before + 3 * S) == b"before"
        assert await state_at(store, before + 7 * S) == b"while wrong", "captured five seconds after it"
        assert await state_at(store, after + S) == b"after"

    asyncio.run(scenario())


def test_instants_around_a_step_that_was_followed_are_refused_and_the_points_stay() -> None:
    async def scenario() -> None:
        store, clock = fresh_store(), ManualClock(NOW)
        async with new_domain(store, clock=clock) as domain:
            await domain.protect("db01", MemoryDevice(DISK_BYTES))
            clock.advance(60 * S)
            before = put(domain, clock, b"before")
            clock.set(clock.time_ns + 3600 * S)
            await within(10, stay(domain, clock))
            put(domain, clock, b"followed")
            clock.advance(60 * S)
            after = put(domain, clock, b"after")
            clock.advance(10 * S)
            await domain.uploaded(domain.mark("end").lsn)
            assert domain.status().consistent
        for doubted in (before + 30 * S, before + 3000 * S):
            with pytest.raises(InstantInGap, match="the clock was set"):
                await state_at(store, doubted)
        assert await state_at(store, after + S) == b"after"
        async with await Catalog.open(store) as catalog:
            assert [gap.reason for gap in catalog.gaps] == [REASON]
            gap = catalog.gaps[0]
            assert gap.lsn_close == gap.lsn_open + 1, "no point but the gap's own record is lost"

    asyncio.run(scenario())


def test_a_log_that_ends_in_the_future_is_told_and_its_instants_are_refused() -> None:
    """The clock of the machine was ahead for the whole of a run. The next one begins with the right time."""

    async def scenario() -> None:
        store, log, primary = fresh_store(), log_device(), MemoryDevice(DISK_BYTES)
        right = await write_while_the_clock_is_wrong(store, log, primary, ManualClock(time.time_ns() + YEAR))
        clock = ManualClock(right + 86400 * S)
        async with reopened(store, log, primary, clock) as domain:
            assert "before the last record time" in domain.status().clock
            put(domain, clock, b"next day")
            await domain.uploaded(domain.mark("next day").lsn)
        with pytest.raises(InstantInGap, match="the clock of the domain's machine was wrong") as refused:
            await state_at(store, right + 86400 * S + 60 * S)
        assert "LSN" in str(refused.value.hint)
        assert (await recovered(store, "next day"))["db01"][:512].rstrip() == b"next day"

    asyncio.run(scenario())


def correct(domain: jetdr.ProtectedDomain, clock: ManualClock) -> float:
    """Let a minute go by, after which the clock of the log is corrected. Returns how far it was ahead, in seconds."""
    ahead_s = domain.status().clock_ahead_s
    watch = domain._alive.clock_watch
    watch.look()
    watch.look()
    clock.advance(59 * S)
    watch.look()
    assert domain.status().clock_ahead_s > 86400, "not before a minute has passed"
    clock.advance(2 * S)
    watch.look()
    status = domain.status()
    assert (abs(status.clock_ahead_s) < 1, status.clock) == (True, "")
    assert status.clock_corrected_s == pytest.approx(ahead_s - 61, abs=5)
    return ahead_s


async def marked(domain: jetdr.ProtectedDomain, clock: ManualClock, name: str) -> None:
    await domain.wait_consistent()  # the domain's own thread may be in the midst of a correction, which is a gap
    mark = domain.mark(name)
    assert mark.time_ns == clock.time_ns
    await domain.uploaded(mark.lsn)


async def write_while_the_clock_is_wrong(
    store: ObjectStore, log: MemoryDevice, primary: MemoryDevice, wrong: ManualClock
) -> int:
    """Returns the time of the last write before."""
    now = ManualClock(NOW)
    async with new_domain(store, log=log, clock=now) as domain:
        await domain.protect("db01", primary)
        now.advance(60 * S)
        right = put(domain, now, b"right")
        await domain.uploaded(domain.mark("right").lsn)
    async with reopened(store, log, primary, wrong) as domain:
        put(domain, wrong, b"wrong")
        wrong.advance(S)
        await domain.uploaded(domain.mark("wrong").lsn)
    return right


def test_a_log_that_ends_in_the_future_is_corrected_and_points_have_their_true_times_again() -> None:
    async def scenario() -> None:
        store, log, primary = fresh_store(), log_device(), MemoryDevice(DISK_BYTES)
        right = await write_while_the_clock_is_wrong(store, log, primary, ManualClock(NOW + YEAR))
        clock = ManualClock(right + 86400 * S)
        async with reopened(store, log, primary, clock) as domain:
            assert correct(domain, clock) == pytest.approx(YEAR / S - 86400 - 60, abs=5)
            corrected_s = domain.status().clock_corrected_s
            clock.advance(10 * S)
            after = put(domain, clock, b"after")
            clock.advance(10 * S)
            await marked(domain, clock, "now")
            assert domain.status().proven_ns == clock.time_ns
        assert (await recovered(store, "right"))["db01"][:512].rstrip() == b"right"
        assert await state_at(store, after + S) == b"after"
        with pytest.raises(InstantInGap, match="the clock of the domain's machine was wrong"):
            await state_at(store, right + 3600 * S)
        later = ManualClock(clock.time_ns + 3600 * S)
        async with reopened(store, log, primary, later) as domain:
            assert domain.status().clock_corrected_s == corrected_s, "it is known after a restart"
            await marked(domain, later, "later")

    asyncio.run(scenario())


def test_a_clock_that_is_set_back_in_operation_is_corrected_when_the_ring_follows_it() -> None:
    async def scenario() -> None:
        store, clock = fresh_store(), ManualClock(NOW + 3600 * S)
        async with new_domain(store, clock=clock) as domain:
            await domain.protect("db01", MemoryDevice(DISK_BYTES))
            clock.advance(60 * S)
            put(domain, clock, b"an hour ahead")
            clock.set(NOW + 120 * S)
            await within(10, stay(domain, clock))
            assert domain.status().clock == ""
            assert domain.status().clock_corrected_s == pytest.approx(3540, abs=120)
            clock.advance(10 * S)
            after = put(domain, clock, b"after")
            clock.advance(10 * S)
            await domain.uploaded(domain.mark("end").lsn)
        assert await state_at(store, after + S) == b"after"
        async with await Catalog.open(store) as catalog:
            assert catalog.time_last_ns == clock.time_ns

    asyncio.run(scenario())


def reopened(store: Any, log: Any, primary: Any, clock: ManualClock) -> Any:
    return jetdr.ProtectedDomain.open(
        "payroll", log=log, store=store, disks={"db01": primary}, options=QUICK, clock=clock
    )
