"""How old the oldest record is that is not stored: the age is never reported too low."""

from __future__ import annotations

import asyncio
import time

import pytest

from jetdr_core.catalog import chain_key
from jetdr_core.device import MemoryDevice
from jetdr_core.uploader.age import AgeOfOldest
from tests.domain.fixture import DISK_BYTES, fresh_store
from tests.uploader.test_uploader import HoldingStore, new_domain, until


def test_an_age_counts_from_the_last_look_before_the_record() -> None:
    age = AgeOfOldest(7, 0.0)
    age.look(7, 10.0)
    assert age.since(7) is None
    age.look(9, 11.0)
    age.look(12, 12.0)
    assert [age.since(lsn) for lsn in (7, 8, 9, 11, 12)] == [10.0, 10.0, 11.0, 11.0, None]


def test_what_is_stored_no_longer_counts() -> None:
    age = AgeOfOldest(0, 0.0)
    for lsn in range(1, 6):
        age.look(lsn, float(lsn))
    age.stored(3)
    assert age.since(3) == 3.0
    age.stored(5)
    assert age.since(5) is None
    age.look(5, 50.0)
    age.look(6, 51.0)
    assert age.since(5) == 50.0


def test_records_stored_before_they_were_seen_have_no_age() -> None:
    age = AgeOfOldest(0, 0.0)
    age.stored(9)
    assert age.since(9) is None
    age.look(10, 5.0)
    assert age.since(9) == 0.0


@pytest.mark.parametrize("seconds", [10, 100_000])
def test_an_age_is_never_too_low_and_hardly_too_high_however_long_nothing_is_stored(seconds: int) -> None:
    age = AgeOfOldest(0, 0.0)
    for lsn in range(1, seconds + 1):
        age.look(lsn, float(lsn))  # the record lsn + 1 comes right after it
    for lsn in (0, 1, seconds // 2, seconds - 1):
        since = age.since(lsn)
        assert since is not None
        assert lsn * (1 - 1 / 32) - 1 <= since <= lsn


def test_the_rpo_of_writes_that_waited_for_the_store_is_not_that_of_their_segment() -> None:
    """A full pipeline cuts late. What it cuts then is as old as its writes."""

    async def scenario() -> None:
        first = HoldingStore(fresh_store(), {chain_key(4)})
        store = HoldingStore(first, {chain_key(18)})  # type: ignore[arg-type]
        async with new_domain(store) as domain:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            for n in range(24):
                disk.write(n * 4096, bytes([n + 1]) * 4096)
                disk.flush()  # a batch, and so a segment, of its own
            written = time.monotonic()
            await until(lambda: domain.status().rpo_s > 0.5)
            first.released.set()
            await until(lambda: chain_key(17) in store.stored)
            least = time.monotonic() - written
            rpo_s = domain.status().rpo_s
            store.released.set()
            assert rpo_s >= least > 0.4

    asyncio.run(scenario())
