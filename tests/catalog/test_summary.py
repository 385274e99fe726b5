"""A summary changes how quickly a catalog opens, never what it says."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import lz4.block
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from jetdr_core.catalog import Catalog, LinkTable, Summary, decode_summary, encode_summary
from jetdr_core.errors import DamagedObject, JetdrError
from jetdr_core.record import ControlRecord, Kind
from jetdr_core.store import MemoryStore, StoreWrapper
from tests.catalog.chains import DOMAIN, ChainMaker, domain, run

KEY = "catalog/00000000"


class Counting(StoreWrapper):
    """Counts the objects read."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.keys: set[str] = set()

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.keys.add(key)
        return await super().get_range(key, offset, length)


def long_chain() -> ChainMaker:
    """Two complete groups and a bit, with orphans, a takeover, marks and a gap."""
    maker = domain(300)
    maker.mark("first")
    maker.segment()
    take_over(maker)
    while maker.number < 1200:
        maker.segment()
    maker.control(Kind.GAP_OPEN, reason="test")
    maker.control(Kind.GAP_CLOSE)
    maker.segment()
    take_over(maker)
    while maker.number < 2100:
        maker.segment()
    maker.mark("last")
    maker.segment()
    return maker


def take_over(maker: ChainMaker) -> None:
    """The next epoch begins. After it lies what its fenced predecessor had in flight, an orphan."""
    fenced = maker.fork()
    fenced.predecessor = b"?" * 16
    fenced.write()
    maker.put(maker.begin())
    maker.put(fenced.seal())


@pytest.fixture(scope="module")
def written() -> tuple[ChainMaker, bytes, bytes]:
    """The chain, and the bytes of its two summaries."""
    maker = long_chain()
    assert maker.summarise() == [0, 1]
    return maker, run(maker.store.get(KEY)), run(maker.store.get("catalog/00000001"))


def says(catalog: Catalog) -> tuple[object, ...]:
    """Everything a catalog tells."""
    return (
        catalog.chain.links.tobytes(),
        catalog.chain.tail,
        catalog.chain_break,
        dict(catalog.marks),
        catalog.gaps,
        catalog.points(),
        catalog.intervals(),
        catalog.history.disks,
        catalog.chain.owner,
    )


def opened(maker: ChainMaker) -> tuple[tuple[object, ...], int]:
    """What the catalog says, and how many objects it read."""
    store = Counting(maker.store)
    return says(run(Catalog.open(store))), len(store.keys)


def with_summaries(maker: ChainMaker, first: bytes | None, second: bytes | None) -> tuple[tuple[object, ...], int]:
    for key, data in ((KEY, first), ("catalog/00000001", second)):
        if data is None:
            run(maker.store.delete(key))
        else:
            run(maker.store.replace(key, [data]))
    return opened(maker)


Written = tuple[ChainMaker, bytes, bytes]


def test_catalogs_from_summaries_and_from_footers_are_identical(written: Written) -> None:
    maker, first, second = written
    by_footers, many = with_summaries(maker, None, None)
    for data in ((first, second), (first, None), (None, second)):
        by_summaries, few = with_summaries(maker, *data)
        assert by_summaries == by_footers
        assert few < many


def test_summarised_groups_are_not_read(written: Written) -> None:
    maker, first, second = written
    _, reads = with_summaries(maker, first, second)
    assert reads < 100


def test_written_summaries_are_not_written_again(written: Written) -> None:
    maker, first, second = written
    with_summaries(maker, first, second)
    assert maker.summarise() == []


def test_incomplete_group_gets_no_summary() -> None:
    assert domain(20).summarise() == []


def test_damaged_summary_is_ignored_and_replaced(written: Written, caplog: pytest.LogCaptureFixture) -> None:
    maker, first, second = written
    by_footers, _ = with_summaries(maker, None, None)
    damaged = first[:-50] + bytes(50)
    assert with_summaries(maker, damaged, second)[0] == by_footers
    assert "catalog/00000000: body" in caplog.text
    assert maker.summarise() == [0]
    assert run(maker.store.get(KEY)) == first


def test_summary_of_another_chain_is_ignored(written: Written) -> None:
    maker, _, second = written
    by_footers, _ = with_summaries(maker, None, None)
    other = domain(1100)
    other.summarise()
    assert with_summaries(maker, run(other.store.get(KEY)), second)[0] == by_footers


def test_summary_of_another_group_is_ignored(written: Written) -> None:
    maker, first, _ = written
    by_footers, _ = with_summaries(maker, None, None)
    assert with_summaries(maker, first, first)[0] == by_footers


Lie = Callable[[Summary], Summary]


def rows(change: Callable[[LinkTable], None]) -> Lie:
    """A lie told by the rows."""

    def forge(summary: Summary) -> Summary:
        links = summary.links.copy()
        change(links)
        return summary._replace(links=links)

    return forge


def column(name: str, row: int | slice, change: int) -> Lie:
    def move(links: LinkTable) -> None:
        links[name][row] += np.array(change).astype(links.dtype[name])

    return rows(move)


def change_checksum(links: LinkTable) -> None:
    links["checksum"][-1] = np.void(b"!" * 16)


def hide_segment(links: LinkTable) -> None:
    links["kind"][500] = 0


def lower_epochs_until_taken_over(links: LinkTable) -> None:
    links["epoch"][: int(np.argmax(links["kind"] == 2))] -= np.uint64(1)


def drop_orphans(links: LinkTable) -> None:
    links["kind"][links["kind"] == 0] = 1


def shift_lsns(links: LinkTable) -> None:
    links["first_lsn"] += np.uint64(7)
    links["last_lsn"] += np.uint64(7)


def add_record(summary: Summary) -> Summary:
    beyond = ControlRecord(1 << 40, 1 << 62, Kind.MARK, 0, {"name": "invented"})
    return summary._replace(control=[*summary.control, beyond])


LIES: dict[str, Lie] = {
    "other predecessor": lambda summary: summary._replace(predecessor=b"?" * 16),
    "other domain": lambda summary: summary._replace(domain_uuid=UUID(int=5)),
    "shifted LSNs": rows(shift_lsns),
    "LSNs of the group before": column("first_lsn", 0, -1),
    "other last checksum": rows(change_checksum),
    "all other sizes": column("object_bytes", slice(None), 1),
    "one other size": column("object_bytes", 77, 1),
    "orphans as segments": rows(drop_orphans),
    "a segment as orphan": rows(hide_segment),
    "an older epoch at first": rows(lower_epochs_until_taken_over),
    "later epochs": column("epoch", slice(None), 5),
    "one later epoch": column("epoch", 40, 1),
    "times that decrease": column("last_time_ns", 900, 10**15),
    "times of the group before": column("first_time_ns", 0, -(10**15)),
    "other timeline": column("timeline", 3, 1),
    "fewer control records": lambda summary: summary._replace(control=summary.control[:-1]),
    "control records elsewhere": column("control_count", 3, 1),
    "an invented mark": add_record,
    "an index beyond its object": column("index_offset", 3, 1 << 40),
    "another number": column("number", 3, 1),
    "a segment without record": column("last_lsn", 3, -1),
}


@pytest.mark.parametrize("name", LIES)
def test_signed_lie_that_the_chain_contradicts_is_ignored(
    written: Written, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    maker, first, second = written
    by_footers, _ = with_summaries(maker, None, None)
    forged = encode_summary(LIES[name](decode_summary(second, 1)))
    assert forged is not None
    told, reads = with_summaries(maker, first, forged)
    assert told == by_footers
    assert reads > 1024
    assert "catalog/00000001" in caplog.text


def test_missing_segment_is_a_hole_although_a_summary_lists_it(written: Written) -> None:
    maker, first, second = written
    with_summaries(maker, first, second)
    key = "chain/00000000/0000000200"
    data = run(maker.store.get(key))
    run(maker.store.delete(key))
    end = maker.open().chain_break
    run(maker.store.replace(key, [data]))
    assert end is not None
    assert (end.number, end.objects_after) == (200, maker.number - 201)


def test_damaged_footer_of_a_summarised_segment_costs_no_other_point(written: Written) -> None:
    maker, first, second = written
    with_summaries(maker, first, second)
    key = "chain/00000000/0000000200"
    data = run(maker.store.get(key))
    maker.damage(key)
    catalog = maker.open()
    with pytest.raises(DamagedObject, match="0000000200"):
        run(catalog.index(200))
    run(maker.store.replace(key, [data]))
    assert catalog.chain_break is None
    assert catalog.marks.keys() == {"first", "last"}


# -- the decoder -------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_flipped_byte_is_found(written: Written, place: int, change: int) -> None:
    data = bytearray(written[1])
    data[place % len(data)] ^= change
    with pytest.raises(DamagedObject, match=KEY):
        decode_summary(data, 0)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_truncated_summary_is_found(written: Written, length: int) -> None:
    with pytest.raises(DamagedObject, match=KEY):
        decode_summary(written[1][: length % len(written[1])], 0)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_signed_noise_is_harmless(written: Written, seed: int, changes: int) -> None:
    noise, data = random.Random(seed), written[1]
    raw = bytearray(lz4.block.decompress(data[80:], uncompressed_size=struct.unpack_from("<I", data, 56)[0]))
    for _ in range(changes):
        raw[noise.randrange(len(raw))] ^= noise.randrange(1, 256)
    with suppress(JetdrError):
        decode_summary(signed(data, bytes(raw)), 0)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_signed_hostile_counts_are_harmless(written: Written, rows: int, controls: int, raw_bytes: int) -> None:
    data = bytearray(written[1])
    struct.pack_into("<III", data, 48, rows, controls, raw_bytes)
    struct.pack_into("<Q", data, 72, xxhash.xxh3_64_intdigest(data[:72]))
    with pytest.raises(DamagedObject, match=KEY):
        decode_summary(data, 0)


def signed(data: bytes, raw: bytes) -> bytes:
    """The summary with another body, its checksums right."""
    body = lz4.block.compress(raw, store_size=False)
    header = bytearray(data[:72])
    struct.pack_into("<IIQ", header, 56, len(raw), len(body), xxhash.xxh3_64_intdigest(body))
    return b"".join([header, xxhash.xxh3_64_intdigest(bytes(header)).to_bytes(8, "little"), body])


def test_group_where_nothing_chains_has_no_summary(written: Written) -> None:
    summary = decode_summary(written[1], 0)
    links = summary.links.copy()
    links["kind"] = 0
    assert encode_summary(summary._replace(links=links, control=[])) is None
    assert summary.domain_uuid == DOMAIN
