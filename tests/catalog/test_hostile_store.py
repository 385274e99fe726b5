"""Small objects planted in a store cost a reader little: bounded memory and bounded requests, whatever they claim.

One test a decoder. Every planted object has less than 64 KiB, right checksums and its right place in the chain, and is
as long as LZ4 allows when it is decoded. What was recoverable before it stays recoverable.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import TypeVar
from uuid import uuid4

import lz4.block
import numpy as np
import pytest
import xxhash

from jetdr_core.catalog import Catalog, chain_key, decode_heartbeat, decode_summary
from jetdr_core.catalog.follow import CONTROLS_FREE
from jetdr_core.catalog.heartbeat import HEARTBEAT_BYTES
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.errors import DamagedObject
from jetdr_core.record import Kind
from jetdr_core.rehydrate import rehydrate
from jetdr_core.segment import NO_PREDECESSOR, decode_trailer, seal_epoch
from jetdr_core.segment.columns import pack_columns
from jetdr_core.segment.trailer import encode_trailer
from jetdr_core.store import MemoryStore, ObjectInfo, StoreWrapper
from jetdr_core.verify import verify
from tests.catalog.chains import DOMAIN, ChainMaker, domain, run, time_ns
from tests.segment.handmade import SMALL_BYTES, Forged, compressed_frames, controls, forge, zeros

MIB = 1 << 20
T = TypeVar("T")


class Measured(StoreWrapper):
    """Counts requests, and the bytes that were read."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.requests = self.bytes_read = 0

    async def get(self, key: str) -> bytes:
        self.requests += 1
        data = await self._inner.get(key)
        self.bytes_read += len(data)
        return data

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.requests += 1
        self.bytes_read += length
        return await self._inner.get_range(key, offset, length)

    async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        self.requests += 1
        async for info in self._inner.list_prefix(prefix):
            yield info


def within(memory_bytes: int, act: Callable[[], T]) -> T:
    """What ``act`` returns, if it takes no more memory."""
    tracemalloc.start()
    try:
        return act()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < memory_bytes, f"{peak / MIB:.0f} MiB"


def opened(maker: ChainMaker, memory_bytes: int, *, requests: int = 50) -> Catalog:
    """The catalog, read within bounds. The point that was there before anything was planted is there still."""
    store = Measured(maker.store)
    catalog = within(memory_bytes, lambda: run(Catalog.open(store)))
    assert store.requests <= requests
    assert run(catalog.resolve(4)).lsn == 4
    return catalog


Make = Callable[[bytes, int], Forged]


def planted(*makes: Make) -> ChainMaker:
    """A domain with recovery points up to LSN 4, and forged objects after them."""
    maker = domain(3)
    predecessor, lsn = maker.predecessor, maker.lsn
    for make in makes:
        forged = make(predecessor, lsn)
        assert len(forged.data) < SMALL_BYTES
        run(maker.store.put_if_absent(chain_key(maker.number), [forged.data]))
        maker.number, predecessor, lsn = maker.number + 1, forged.checksum, forged.lsn_next
    return maker


def with_controls(kinds: list[Kind], bodies: list[bytes]) -> Make:
    return lambda predecessor, lsn: forge(predecessor, lsn, DOMAIN, control=controls(lsn, kinds, bodies))


def with_entries(count: int, *, stride: int = 0) -> Make:
    def make(predecessor: bytes, lsn: int) -> Forged:
        mark = controls(lsn + count, [Kind.MARK], [b'{"name":"planted"}'])
        return forge(predecessor, lsn, DOMAIN, entries=zeros(lsn, count, stride=stride), control=mark)

    return make


# -- the index ---------------------------------------------------------------------------------------------------------


def test_index_that_claims_more_than_lz4_can_hold_is_refused_unread() -> None:
    forged = with_entries(1000)(NO_PREDECESSOR, 1)
    trailer = decode_trailer(forged.data, "x")
    tail = encode_trailer(trailer._replace(index_raw_bytes=256 * trailer.index_stored_bytes))
    with pytest.raises(DamagedObject, match="cannot hold"):
        within(MIB, lambda: decode_trailer(tail, "x"))


def test_more_records_than_a_segment_holds_are_refused_unread() -> None:
    forged = with_entries(1000)(NO_PREDECESSOR, 1)
    trailer = decode_trailer(forged.data, "x")
    for changed in (trailer._replace(last_lsn=1 << 40), trailer._replace(control_count=1002, entry_count=0)):
        with pytest.raises(DamagedObject, match="more than a segment holds"):
            decode_trailer(encode_trailer(changed), "x")


def test_index_of_a_third_of_a_million_entries() -> None:
    maker = planted(with_entries(330_000))
    catalog = opened(maker, 96 * MIB)
    assert catalog.marks.keys() == {"planted"}
    index = within(96 * MIB, lambda: run(catalog.index(6)))
    assert len(index.entries) == 330_000
    assert within(96 * MIB, lambda: run(verify(maker.store, settle_s=0))).is_sound


def test_index_of_scattered_entries_is_planned_in_bounded_memory(tmp_path: object) -> None:
    maker = planted(with_entries(220_000, stride=4096))
    opened(maker, 96 * MIB)
    report = within(128 * MIB, lambda: run(rehydrate(maker.store, at="latest", target=str(tmp_path), format="raw")))
    assert (report.disks[0].bytes_written, report.disks[0].bytes_fetched) == (0, 0)


def test_index_that_is_not_what_it_claims_is_damage_in_bounded_memory() -> None:
    def make(predecessor: bytes, lsn: int) -> Forged:
        entries = zeros(lsn, 330_000)
        entries["lsn"][1000:] = lsn + 999
        return forge(predecessor, lsn, DOMAIN, entries=entries, control=controls(lsn + 1000, [Kind.VOID], [b"{}"]))

    catalog = opened(planted(make), 96 * MIB)
    assert catalog.chain_break is not None
    assert "entries" in catalog.chain_break.problem


# -- control records ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [[Kind.VOID], [Kind.GAP_OPEN, Kind.GAP_CLOSE]])
def test_more_control_records_than_can_be_are_no_history(kinds: list[Kind]) -> None:
    catalog = opened(planted(with_controls(kinds, [b"{}"] * 450_000)), 32 * MIB)
    assert catalog.chain_break is not None
    assert "450000 control records more than its index can hold" in catalog.chain_break.problem
    assert catalog.lsn_last == 4


def test_many_control_records_are_read_in_bounded_memory() -> None:
    catalog = opened(planted(with_controls([Kind.GAP_OPEN, Kind.GAP_CLOSE], [b"{}"] * 20_000)), 24 * MIB)
    assert catalog.chain_break is None
    assert len(catalog.gaps) == 10_000


def test_many_objects_together_hold_no_more_than_their_bytes_can_say() -> None:
    bomb = with_controls([Kind.VOID], [b"{}"] * 140_000)
    catalog = opened(planted(*[bomb] * 20), 128 * MIB)
    assert catalog.chain_break is not None
    assert 100_000 < len(catalog.chain.control) < CONTROLS_FREE + 20 * SMALL_BYTES


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"name":"x","z":[' + b"[]," * 340_000 + b"0]}", "more than 64 values"),
        (b'{"name":"x","z":' + b'{"a":' * 900 + b"0" + b"}" * 900 + b"}", "nests more than 32 deep"),
        (b'{"z":' + b"[" * 500_000 + b"]" * 500_000 + b"}", "not JSON"),
        (b'{"z":' + b"9" * 1_000_000 + b"}", "not JSON"),
        (b'{"z":"' + b"\\u0000" * 170_000 + b'","name":5}', "MARK record"),
        (b"[" * 1000, "not JSON"),
        (b"17", "not a JSON object"),
    ],
    ids=["many values", "nested", "deep", "long number", "escapes", "no end", "no object"],
)
def test_body_that_grows_when_it_is_parsed_is_damage(body: bytes, problem: str) -> None:
    catalog = opened(planted(with_controls([Kind.MARK], [body] * 14)), 96 * MIB)
    assert catalog.chain_break is not None
    assert problem in catalog.chain_break.problem


def test_bodies_that_are_alike_are_parsed_and_kept_once() -> None:
    bodies = [b'{"name":"planted",' + b",".join(b'"%d":0' % n for n in range(60)) + b"}"] * 30_000
    catalog = opened(planted(with_controls([Kind.MARK], bodies)), 64 * MIB)
    assert len({id(record.body) for record in catalog.chain.control if record.kind is Kind.MARK}) == 1


def with_disks(count: int, *, marks: bool = False) -> Make:
    """``count`` disks are added, each in place of the last if ``marks``, which then names the point in between."""
    bodies = [b'{"name":"d%d","size_bytes":512}' % number for number in range(count)]
    kinds, disks = [Kind.DISK_ADD], np.arange(count) + 10
    if marks:
        kinds = [Kind.DISK_ADD, Kind.MARK]
        named = [b'{"name":"p%d"}' % number for number in range(count)]
        bodies = [body for both in zip(bodies, named, strict=True) for body in both]
        disks = np.repeat(disks, 2) * np.tile([1, 0], count)

    def make(predecessor: bytes, lsn: int) -> Forged:
        table, joined = controls(lsn, kinds, bodies)
        table["disk"] = disks
        return forge(predecessor, lsn, DOMAIN, control=(table, joined))

    return make


def test_many_disks_are_read_and_verified_in_bounded_memory() -> None:
    maker = planted(with_disks(3000, marks=True))
    catalog = opened(maker, 32 * MIB)
    assert (len(catalog.history.disks), catalog.chain_break) == (3001, None)
    report = within(48 * MIB, lambda: run(verify(maker.store, settle_s=0)))
    assert report.is_sound
    assert len(report.points) == 3001


def test_many_marks_of_many_disks_are_verified_in_bounded_memory() -> None:
    marks = [b'{"name":"m%x"}' % number for number in range(9000)]
    maker = planted(with_disks(499), with_controls([Kind.MARK], marks))
    report = within(48 * MIB, lambda: run(verify(maker.store, settle_s=0)))
    assert report.is_sound
    assert len(report.points) == 9001


def test_only_the_indexes_that_are_fetched_at_once_are_in_memory() -> None:
    """Long indexes are legitimate too, and a chain may have a mark in each of them."""
    noise = np.random.default_rng(7)

    def make(predecessor: bytes, lsn: int) -> Forged:
        entries = zeros(lsn, 7000)
        entries["offset"] = noise.integers(0, 1 << 40, 7000, np.uint64) * 512
        mark = controls(lsn + 7000, [Kind.MARK], [b'{"name":"m%d"}' % lsn])
        return forge(predecessor, lsn, DOMAIN, entries=entries, control=mark)

    maker = planted(*[make] * 300)
    stored = sum(info.size_bytes for info in run(listed(maker.store)))
    assert stored > 10 * MIB
    assert len(opened(maker, 6 * MIB, requests=350).marks) == 300


async def listed(store: MemoryStore) -> list[ObjectInfo]:
    return [info async for info in store.list_prefix("")]


# -- what an owner can write -------------------------------------------------------------------------------------------

AT_ONE_INSTANT = {
    "marks in sequence": ([Kind.MARK], [b'{"name":"m%07d"}' % number for number in range(50_000)]),
    "marks of one letter more": ([Kind.MARK], [b'{"name":"%s"}' % (b"m" * number) for number in range(1, 200)]),
    "disks added and removed": (
        [Kind.DISK_ADD, Kind.DISK_REMOVE],
        [
            body
            for number in range(2000)
            for body in (
                b'{"holds_data":false,"name":"d","path":"/d","size_bytes":512,"uuid":"%s"}' % str(uuid4()).encode(),
                b"{}",
            )
        ],
    ),
}


@pytest.mark.parametrize("name", AT_ONE_INSTANT)
def test_what_an_owner_logs_in_one_instant_is_within_the_bound(name: str) -> None:
    """However far LZ4 gets, for a clock that was set back gives all of them the same time."""
    kinds, bodies = AT_ONE_INSTANT[name]
    table, joined = controls(1, kinds, bodies)
    table["disk"] = np.arange(len(bodies)) // 2
    forged = forge(NO_PREDECESSOR, 1, DOMAIN, control=(table, joined))
    trailer = decode_trailer(forged.data, "x")
    assert trailer.control_count == len(bodies) < trailer.index_stored_bytes


# -- epoch objects -----------------------------------------------------------------------------------------------------


def test_owner_of_an_epoch_that_grows_when_it_is_parsed_is_damage() -> None:
    maker = domain(3)
    epoch = seal_epoch(
        domain_uuid=DOMAIN,
        epoch=2,
        timeline=1,
        predecessor=maker.predecessor,
        lsn_next=maker.lsn,
        time_ns=time_ns(9),
        owner=EpochOwner(owner="o"),
    )
    body = b'{"owner":[' + b"[]," * 340_000 + b"0]}"
    index = lz4.block.compress(body, store_size=False)
    trailer = epoch.trailer._replace(
        index_stored_bytes=len(index),
        index_raw_bytes=len(body),
        index_checksum=xxhash.xxh3_64_intdigest(index),
        object_bytes=epoch.trailer.index_offset + len(index) + 256,
    )
    run(maker.store.put_if_absent(chain_key(maker.number), [epoch.parts[0], index, encode_trailer(trailer)]))
    catalog = opened(maker, 48 * MIB)
    assert catalog.chain_break is not None
    assert "more than 64 values" in catalog.chain_break.problem


# -- frames ------------------------------------------------------------------------------------------------------------


def test_frames_that_grow_are_decoded_one_by_one(tmp_path: object) -> None:
    raws = [bytes([n % 250 + 1]) * (256 << 10) for n in range(50)]
    stored, table = compressed_frames(raws)

    def make(predecessor: bytes, lsn: int) -> Forged:
        entries = zeros(lsn, len(raws), stride=256 << 10)
        entries["length"], entries["kind"], entries["frame"] = 256 << 10, Kind.WRITE, np.arange(len(raws))
        return forge(predecessor, lsn, DOMAIN, entries=entries, frames=stored, frame_table=table)

    maker = planted(make)
    report = within(32 * MIB, lambda: run(rehydrate(maker.store, at="latest", target=str(tmp_path), format="raw")))
    assert report.disks[0].bytes_written == len(raws) * (256 << 10)
    assert within(32 * MIB, lambda: run(verify(maker.store, settle_s=0))).is_sound


@pytest.mark.parametrize("stored", [b"\x00", b"\xff" * 4096, lz4.block.compress(bytes(512), store_size=False)])
def test_frame_that_is_not_what_it_claims_is_damage(tmp_path: object, stored: bytes) -> None:
    _, table = compressed_frames([bytes(256 << 10)])
    table[0]["stored_bytes"], table[0]["checksum"] = len(stored), xxhash.xxh3_64_intdigest(stored)

    def make(predecessor: bytes, lsn: int) -> Forged:
        entries = zeros(lsn, 1)
        entries["kind"], entries["frame"] = Kind.WRITE, 0
        return forge(predecessor, lsn, DOMAIN, entries=entries, frames=stored, frame_table=table)

    maker = planted(make)
    with pytest.raises(DamagedObject, match="frame at 64"):
        within(16 * MIB, lambda: run(rehydrate(maker.store, at="latest", target=str(tmp_path), format="raw")))
    assert not within(16 * MIB, lambda: run(verify(maker.store, settle_s=0))).is_sound


# -- advisory objects --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def summarised() -> tuple[ChainMaker, bytes]:
    """A chain of two complete groups with summaries, and the first of these."""
    maker = domain(2060)
    assert maker.summarise() == [0, 1]
    return maker, run(maker.store.get("catalog/00000000"))


def bomb_of(summary: bytes, count: int) -> bytes:
    """The summary with ``count`` control records more, its checksums right."""
    decoded = decode_summary(summary, 0)
    links = decoded.links.copy()
    links["control_count"][5] += count
    table, bodies = controls(int(links["first_lsn"][5]), [Kind.VOID], [b"{}"] * count)
    names = ("number", "first_lsn", "last_lsn", "first_time_ns", "last_time_ns", "epoch")
    raw = pack_columns(links, names) + pack_columns(table, ("lsn", "time_ns")) + bodies
    body: bytes = lz4.block.compress(raw, store_size=False, mode="high_compression", compression=12)
    header = bytearray(summary[:72])
    for at, number in ((52, count), (56, len(raw)), (60, len(body))):
        header[at : at + 4] = number.to_bytes(4, "little")
    header[64:72] = xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")
    return bytes(header) + xxhash.xxh3_64_intdigest(bytes(header)).to_bytes(8, "little") + body


def test_summary_of_more_control_records_than_can_be_is_ignored(
    summarised: tuple[ChainMaker, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    maker, summary = summarised
    bomb = bomb_of(summary, 450_000)
    assert len(bomb) < 2 * SMALL_BYTES
    run(maker.store.replace("catalog/00000000", [bomb]))
    catalog = opened(maker, 48 * MIB, requests=1200)
    run(maker.store.replace("catalog/00000000", [summary]))
    assert (catalog.lsn_last, catalog.chain_break) == (2061, None)
    assert "reading footers instead of catalog/00000000: 450001 control records more" in caplog.text


@pytest.mark.parametrize("key", ["catalog/00000000", "heartbeat/0000000001"])
@pytest.mark.parametrize("size_bytes", [0, 1, 60_000, 1 << 40])
def test_advisory_object_of_a_size_that_cannot_be_is_ignored_and_not_read(
    summarised: tuple[ChainMaker, bytes], caplog: pytest.LogCaptureFixture, key: str, size_bytes: int
) -> None:
    class Claiming(Measured):
        async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in super().list_prefix(prefix):
                yield info._replace(size_bytes=size_bytes) if info.key == key else info

        async def get_range(self, key: str, offset: int, length: int) -> bytes:
            assert length <= MIB
            return await super().get_range(key, offset, length)

    maker, summary = summarised
    run(maker.store.replace(key, [b"?" * min(size_bytes, 60_000)]))
    catalog = within(48 * MIB, lambda: run(Catalog.open(Claiming(maker.store))))
    run(maker.store.delete("heartbeat/0000000001"))
    run(maker.store.replace("catalog/00000000", [summary]))
    assert (catalog.lsn_last, catalog.chain_break, catalog.tail_loss) == (2061, None, None)
    assert f"{key} is ignored" in caplog.text


@pytest.mark.parametrize("size_bytes", [0, 63, 65, 60_000])
def test_heartbeat_of_another_size_is_damage(size_bytes: int) -> None:
    assert HEARTBEAT_BYTES == 64
    with pytest.raises(DamagedObject, match=f"{size_bytes} bytes instead of 64"):
        within(MIB, lambda: decode_heartbeat(b"?" * size_bytes, "heartbeat/0000000001"))


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_without_objects_cost_few_requests() -> None:
    maker = domain(3)
    for number in range(3000):
        run(maker.store.replace(f"catalog/{number * 15 + 1:08d}", [b"?"]))
    for key in ("99999999", "00000001x", "1"):
        with_name(maker, f"catalog/{key}")
    catalog = opened(maker, 32 * MIB, requests=60)
    assert (catalog.lsn_last, catalog.chain_break, catalog.tail_loss) == (4, None, None)


def test_absurd_names_in_the_chain_are_no_objects_of_it() -> None:
    maker = domain(3)
    for name in ("9999999999", "0000000000", "00000000000000000001", "x" * 200, "0000000006.tmp", "0x00000006"):
        with_name(maker, f"chain/00000000/{name}")
    for group in ("00000001/0000000006", "99999999/0000000007", "0/0000000008", "00000000/0000000006/7"):
        with_name(maker, f"chain/{group}")
    assert (opened(maker, 16 * MIB).lsn_last, opened(maker, 16 * MIB).chain_break) == (4, None)


def with_name(maker: ChainMaker, key: str) -> None:
    run(maker.store.replace(key, [b"?"]))


def test_stranger_is_named_by_verify_and_not_read() -> None:
    maker = domain(3)
    run(maker.store.replace("stranger", [bytes(60_000)]))
    store = Measured(maker.store)
    report = within(16 * MIB, lambda: run(verify(store, settle_s=0)))
    assert report.strangers == ("stranger",)
    assert store.bytes_read < 60_000
