"""A chain that lost its end says so, if an object that is left vouches for more. An upload in flight is no loss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from jetdr_core.catalog import Catalog, chain_key, heartbeat
from jetdr_core.errors import ChainBroken, NoSuchPoint
from jetdr_core.store import MemoryStore, ObjectInfo, StoreWrapper
from tests.catalog.chains import ChainMaker, domain, run, time_ns

SUMMARY = "catalog/00000000"


def lose(maker: ChainMaker, *numbers: int) -> None:
    for number in numbers:
        run(maker.store.delete(chain_key(number)))


@pytest.mark.parametrize("lost", [1, 3])
def test_heartbeat_vouches_for_what_is_lost(lost: int) -> None:
    maker = domain(6)
    maker.beat(7, seconds_later=60)
    assert maker.open().tail_loss is None
    lose(maker, *range(8, 8 - lost, -1))
    catalog = maker.open()
    assert catalog.tail_loss is not None
    assert (catalog.tail_loss.key, catalog.tail_loss.lsn_last) == ("heartbeat/0000000001", 7)
    assert (catalog.lsn_last, catalog.chain_break, catalog.time_last_ns) == (7 - lost, None, time_ns(7 - lost))
    assert [point.lsn for point in catalog.points()] == [1, 7 - lost]


def test_what_was_lost_is_refused_as_lost_and_not_as_never_there() -> None:
    maker = domain(6)
    maker.mark("gone")
    maker.segment()
    maker.beat(8, seconds_later=60)
    lose(maker, 9, 8)
    catalog = maker.open()
    for at in (7, 8, "2023-11-14T22:13:29Z"):
        with pytest.raises(ChainBroken, match=r"newest objects are lost: heartbeat.*LSN 6 is the last"):
            run(catalog.resolve(at))
    with pytest.raises(NoSuchPoint, match=r"no mark 'gone' up to LSN 6, where its chain ends: the newest objects"):
        run(catalog.resolve("gone"))
    assert run(catalog.resolve("latest")).lsn == 6


@pytest.mark.parametrize("lost", [range(1024, 1023, -1), range(1030, 1023, -1), range(1030, 1000, -1)])
def test_summary_vouches_for_what_is_lost_of_its_group(lost: range) -> None:
    maker = domain(1028)
    assert maker.summarise() == [0]
    lose(maker, *lost)
    catalog = maker.open()
    complete = lost[-1] > 1023
    assert (catalog.tail_loss is None) == complete
    if not complete:
        assert str(catalog.tail_loss).startswith(
            f"the newest objects are lost: {SUMMARY} says that the store held LSN "
        )


def test_summary_vouches_for_a_whole_group_that_is_gone() -> None:
    maker = domain(2046 + 4)
    assert maker.summarise() == [0, 1]
    lose(maker, *range(1024, 2060))
    catalog = maker.open()
    assert (catalog.tail_loss is not None, catalog.chain_break, catalog.lsn_last) == (True, None, 1022)
    assert catalog.tail_loss is not None
    assert (catalog.tail_loss.key, catalog.tail_loss.lsn_last) == ("catalog/00000001", 2046)


def test_what_an_older_epoch_left_vouches_for_nothing() -> None:
    """The owner of epoch 2 began after what was left, and said so by beginning."""
    maker = domain(1028)
    maker.summarise()
    maker.beat(1029, seconds_later=1)
    lose(maker, *range(900, 1040))
    heir = ChainMaker(maker.store)
    tail = maker.open().chain.tail
    heir.epoch, heir.number, heir.lsn, heir.predecessor = 1, 900, tail.lsn_last + 1, tail.checksum
    heir.put(heir.begin())
    heir.segment()
    catalog = heir.open()
    assert (catalog.tail_loss, catalog.chain_break, catalog.lsn_last) == (None, None, tail.lsn_last + 1)


def test_break_in_the_chain_is_told_alone() -> None:
    maker = domain(6)
    maker.beat(7, seconds_later=60)
    lose(maker, 5)
    catalog = maker.open()
    assert catalog.chain_break is not None
    assert catalog.tail_loss is None


@pytest.mark.parametrize("lsn", [3, 2**64 - 1])
def test_heartbeat_vouches_only_above_the_end(lsn: int) -> None:
    maker = domain(3)
    maker.beat(4, seconds_later=60)
    run(maker.store.replace(*pair(heartbeat(1, lsn=lsn, time_ns=time_ns(9)))))
    assert (maker.open().tail_loss is None) == (lsn == 3)


@pytest.mark.parametrize("ahead_s", [600, 10**9])
def test_heartbeat_from_the_future_is_ignored(ahead_s: int, caplog: pytest.LogCaptureFixture) -> None:
    maker = domain(3)
    run(maker.store.replace(*pair(heartbeat(1, lsn=4, time_ns=time.time_ns() + ahead_s * 10**9))))
    assert maker.open().time_last_ns == time_ns(4)
    assert "heartbeat/0000000001 is ignored: it is from the future" in caplog.text


def test_heartbeat_of_another_epoch_under_this_ones_key_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    maker = domain(3)
    run(maker.store.replace("heartbeat/0000000001", [heartbeat(2, lsn=9, time_ns=time_ns(9))[1]]))
    catalog = maker.open()
    assert (catalog.tail_loss, catalog.time_last_ns) == (None, time_ns(4))
    assert "it is of epoch 2" in caplog.text


def pair(made: tuple[str, bytes]) -> tuple[str, list[bytes]]:
    return made[0], [made[1]]


# -- while the owner uploads -------------------------------------------------------------------------------------------


class Uploading(StoreWrapper):
    """Puts ``late`` objects back, one at each listing of the chain from the second on, and beats at the end."""

    def __init__(
        self, inner: MemoryStore, late: list[tuple[str, bytes]], beat: tuple[str, bytes] | None = None
    ) -> None:
        super().__init__(inner)
        self.late = late
        self.beat = beat
        self.listings = 0

    async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        if prefix.startswith("chain/"):
            self.listings += 1
            if self.listings > 2 and self.late:
                key, data = self.late.pop(0)
                await self._inner.put_if_absent(key, [data])
        async for info in self._inner.list_prefix(prefix):
            yield info

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        if key.startswith("heartbeat") and self.beat:
            return self.beat[1][offset : offset + length]
        return await self._inner.get_range(key, offset, length)


def taken(maker: ChainMaker, *numbers: int) -> list[tuple[str, bytes]]:
    found = [(chain_key(number), run(maker.store.get(chain_key(number)))) for number in numbers]
    lose(maker, *numbers)
    return found


def test_uploads_that_end_out_of_order_are_no_break_for_a_patient_reader() -> None:
    maker = domain(8)
    store = Uploading(maker.store, taken(maker, 7, 5))
    catalog = run(Catalog.open(store, settle_s=30))
    assert (catalog.chain_break, catalog.lsn_last) == (None, 9)


def test_patience_has_an_end() -> None:
    maker = domain(8)
    store = Uploading(maker.store, [])
    lose(maker, 5)
    begun = time.monotonic()
    end = run(Catalog.open(store, settle_s=0.3)).chain_break
    assert end is not None
    assert (end.number, end.may_be_in_flight) == (5, True)
    assert 0.3 <= time.monotonic() - begun < 20


def test_what_comes_after_the_first_look_is_left_out() -> None:
    maker = domain(8)
    late = taken(maker, 10, 7)
    store = Uploading(maker.store, [late[1], late[0]])
    catalog = run(Catalog.open(store, settle_s=30))
    assert (catalog.chain_break, catalog.chain.tail.number) == (None, 9)


def test_heartbeat_that_is_newer_than_the_chain_that_was_read_is_no_loss() -> None:
    maker = domain(8)
    late = taken(maker, 10)
    store = Uploading(maker.store, late, heartbeat(1, lsn=9, time_ns=time_ns(9)))
    run(maker.store.replace("heartbeat/0000000001", [bytes(64)]))
    catalog = asyncio.run(opened(store))
    assert (catalog.tail_loss, catalog.lsn_last, catalog.time_last_ns) == (None, 9, time_ns(9))


async def opened(store: Uploading) -> Catalog:
    return await Catalog.open(store)
