"""A log device that fails under a hosted domain: guests go on, and a later opening makes up for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

import jetdr_core as jetdr
from jetdr_core.errors import JetdrError, LogFailed
from tests.domain.hosted import (
    DISK_BYTES,
    LONGEST_S,
    Load,
    Machine,
    assert_whole_and_end,
    machine,
    until,
)
from tests.faults.device import CrashDevice


@pytest.fixture
def made(peer: Callable[[str], str]) -> Iterator[Machine]:
    peer("nbdkit")
    with machine() as one:
        one.log = CrashDevice(16 << 20)
        yield one


def test_a_log_that_fails_under_load_is_bypassed_and_made_up_for(made: Machine) -> None:
    async def scenario() -> None:
        domain = await opened(made)
        with Load(made) as load:
            await asyncio.to_thread(load.goes_on)
            made.log.fail_at(1, "permanent")
            await asyncio.to_thread(until, lambda: domain.status().failure)
            assert "log" in domain.status().failure
            await asyncio.to_thread(until, lambda: not domain.status().host.logging)  # type: ignore[union-attr]
            assert not domain.consistent
            await asyncio.to_thread(load.goes_on)
            await close(domain)
            made.log.heal()
            async with made.open() as domain:
                await asyncio.to_thread(load.goes_on)
                await asyncio.wait_for(domain.wait_consistent(), 30)
        async with made.open() as domain:
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await assert_whole_and_end(domain, made)
        assert load.longest_s < LONGEST_S

    asyncio.run(scenario())


def test_a_log_that_fails_for_a_moment_loses_nothing_that_the_ring_holds(made: Machine) -> None:
    async def scenario() -> None:
        domain = await opened(made)
        with Load(made, pause_s=0.01, flushes=False, guests=1) as load:
            await asyncio.to_thread(load.goes_on)
            made.log.fail_at(1, "transient")
            await asyncio.to_thread(until, lambda: domain.status().failure)
            await close(domain)
        async with made.open() as domain:
            host = domain.status().host
            assert host is not None
            assert host.off_times == 0
            assert domain.consistent
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


def test_a_disk_added_while_the_log_failed_is_there_after_the_next_opening(made: Machine) -> None:
    """DISK_ADD stands in the ring alone: it must be in the history before anything is decided on that."""

    async def scenario() -> None:
        domain = await opened(made)
        made.log.fail_at(1, "permanent")
        with pytest.raises(JetdrError):
            await domain.protect("web01", made.primary("web01"), size_bytes=DISK_BYTES)
        await close(domain)
        made.log.heal()
        async with made.open() as domain:
            assert domain.disks.keys() == {"db01", "web01"}
            with made.client("web01") as guest:
                guest.write(0, b"w" * 512)
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


async def opened(made: Machine) -> jetdr.HostedDomain:
    """A new domain with one disk, which :func:`close` closes."""
    domain = made.create()
    await domain.__aenter__()
    await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
    return domain


async def close(domain: jetdr.HostedDomain) -> None:
    """As a DRVA does when a domain has failed."""
    with suppress(LogFailed):
        await domain.close(upload=False)
