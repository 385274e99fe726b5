"""A store that cannot be reached while guests write: the log fills, they go on past it, and it is all made up for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jetdr_core.store import open_store
from tests.domain.hosted import DISK_BYTES, LONGEST_S, Load, Machine, assert_replica_equals_primary, machine, until
from tests.faults.store import Fault, FaultyStore


@pytest.fixture(params=["write-through", "write-back"])
def made(peer: Callable[[str], str], request: pytest.FixtureRequest) -> Iterator[Machine]:
    peer("nbdkit")
    with machine(write_back=request.param == "write-back") as one:
        yield one


class Outage:
    """A store of the machine that fails every request while ``lasts``."""

    def __init__(self, made: Machine) -> None:
        self.lasts = False
        self.inner = open_store(made.store)
        made.store = FaultyStore(self.inner, lambda *_: Fault.FAIL if self.lasts else None)


def logging(domain: Any) -> bool:
    return bool(domain.status().host.logging)


def test_a_full_log_is_bypassed_and_made_up_for_when_the_store_is_back(made: Machine) -> None:
    async def scenario() -> None:
        url, outage = made.store, Outage(made)
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            with Load(made, pause_s=0) as load:
                await asyncio.to_thread(load.goes_on)
                outage.lasts = True
                await asyncio.to_thread(until, lambda: not logging(domain))
                assert not domain.consistent
                await asyncio.to_thread(load.goes_on, 500)
                outage.lasts = False
                await asyncio.to_thread(until, lambda: logging(domain))
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await domain.uploaded(domain.mark("made up for").lsn)
            await domain.close(stop_host=True)
        await outage.inner.close()
        made.store = url
        async with made.open() as domain:
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)
        assert load.longest_s < LONGEST_S

    asyncio.run(scenario())


def test_a_host_component_that_dies_while_the_log_is_full_serves_its_guests_again(made: Machine) -> None:
    async def scenario() -> None:
        url, outage = made.store, Outage(made)
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            with Load(made, pause_s=0) as load:
                await asyncio.to_thread(load.goes_on)
                outage.lasts = True
                await asyncio.to_thread(until, lambda: not logging(domain))
                await asyncio.to_thread(made.kill_host)
                await asyncio.to_thread(load.goes_on, 500)
                assert not logging(domain)
                outage.lasts = False
                await asyncio.to_thread(until, lambda: logging(domain))
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await domain.close(stop_host=True)
        await outage.inner.close()
        made.store = url
        async with made.open() as domain:
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)
        assert load.longest_s < LONGEST_S

    asyncio.run(scenario())
