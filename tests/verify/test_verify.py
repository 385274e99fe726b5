"""Verify names every damaged byte, and says of each point what rehydrate then does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetdr_core.errors import DamagedObject, InvalidRequest
from jetdr_core.rehydrate import rehydrate
from jetdr_core.segment import HEADER_BYTES, decode_index, decode_trailer
from jetdr_core.store import MemoryStore, ObjectInfo, StoreWrapper, open_store
from jetdr_core.verify import VerifyReport, verify
from tests.rehydrate.chains import Chain

SIZE = 64 << 10


async def build() -> Chain:
    """Mark "one" needs segment 2; mark "two" has overwritten all of disk a, and half of b."""
    chain = Chain(MemoryStore())
    await chain.begin()
    chain.add_disk(1, "a", SIZE)
    chain.add_disk(2, "b", SIZE)
    chain.write(1, 0, os.urandom(SIZE))
    chain.write(2, 0, os.urandom(SIZE))
    chain.mark("one")
    await chain.seal()
    chain.write(1, 0, os.urandom(SIZE))
    chain.write(2, 0, os.urandom(SIZE // 2))
    await chain.seal()
    chain.mark("two")
    await chain.seal()
    return chain


async def flip(chain: Chain, key: str, at: int) -> None:
    data = bytearray(await chain.store.get(key))
    data[at] ^= 1
    await chain.store.replace(key, [bytes(data)])


def surviving(report: VerifyReport) -> dict[str | None, bool]:
    return {check.point.name: check.survives for check in report.points}


def test_sound_container_is_read_to_the_last_byte() -> None:
    heard: list[tuple[int, int]] = []

    async def scenario() -> tuple[int, VerifyReport]:
        chain = await build()
        report = await verify(chain.store, progress=lambda *row: heard.append(row))
        return sum([info.size_bytes async for info in chain.store.list_prefix("")]), report

    stored_bytes, report = asyncio.run(scenario())
    assert report.is_sound
    assert (report.domain, report.objects, report.segments, report.bytes_read) == ("payroll", 4, 3, stored_bytes)
    assert heard[-1] == (stored_bytes, stored_bytes)
    assert all(check.survives for check in report.points)


def test_damaged_frame_is_named_with_disk_extent_and_lsn_and_points_are_told_apart() -> None:
    async def scenario() -> VerifyReport:
        chain = await build()
        await flip(chain, chain.keys[1], HEADER_BYTES)  # both writes lie in this frame
        return await verify(chain.store)

    report = asyncio.run(scenario())
    (damage,) = report.damage
    assert str(damage) == (
        "chain/00000000/0000000002: frame 0: frame at 64: checksum is wrong (LSN 3 to 4); "
        "it holds disk 'a' [0, 65536) of LSN 3, disk 'b' [0, 65536) of LSN 4"
    )
    assert surviving(report) == {None: True, "one": False, "two": False}
    by_name = {check.point.name: check for check in report.points}
    assert [extent.disk for extent in by_name["one"].lost] == ["a", "b"]
    assert [extent.disk for extent in by_name["two"].lost] == ["b"]


def test_damaged_index_spoils_the_points_that_need_it() -> None:
    async def scenario() -> VerifyReport:
        chain = await build()
        trailer = decode_trailer(await chain.store.get(chain.keys[2]), "")
        await flip(chain, chain.keys[2], trailer.index_offset)
        return await verify(chain.store)

    report = asyncio.run(scenario())
    assert [(damage.part, damage.lsn_first, damage.lsn_last) for damage in report.damage] == [("index", 6, 7)]
    assert surviving(report) == {None: True, "one": True, "two": False}


def test_unreadable_trailer_ends_the_chain_and_is_told() -> None:
    async def scenario() -> VerifyReport:
        chain = await build()
        await flip(chain, chain.keys[2], -8)
        return await verify(chain.store)

    report = asyncio.run(scenario())
    assert not report.is_sound
    assert "ends at LSN 5" in report.chain_problem
    assert [damage.part for damage in report.damage] == ["trailer"]
    assert surviving(report) == {None: True, "one": True}


def test_hole_is_told() -> None:
    async def scenario() -> VerifyReport:
        chain = await build()
        await chain.store.delete(chain.keys[2])
        return await verify(chain.store, settle_s=0)

    report = asyncio.run(scenario())
    assert "0000000003 is missing" in report.chain_problem
    assert report.damage == ()
    assert report.orphans == ()
    assert surviving(report) == {None: True, "one": True}


async def put_late(chain: Chain) -> Chain:
    """Let a fenced owner put one object after its successor's epoch."""
    rival = Chain(chain.store)
    vars(rival).update(vars(chain) | {"rows": [], "keys": []})
    await chain.begin()
    rival.number += 1
    rival.write(1, 0, b"late" * 128)
    await rival.seal()
    return rival


def test_what_is_put_while_the_container_is_read_is_neither_damage_nor_an_orphan() -> None:
    class Growing(StoreWrapper):
        """Its owner puts two segments as soon as the catalog is read, and the last one before the other."""

        def __init__(self, chain: Chain) -> None:
            super().__init__(chain.store)
            self.chain = chain

        async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            if not prefix:
                for _ in range(2):
                    self.chain.write(1, 0, b"x" * 512)
                    await self.chain.seal()
                await self._inner.delete(self.chain.keys[-2])
            async for info in self._inner.list_prefix(prefix):
                yield info

    async def scenario() -> VerifyReport:
        return await verify(Growing(await build()))

    report = asyncio.run(scenario())
    assert report.is_sound
    assert (report.orphans, report.objects) == ((), 4)


def test_object_that_no_object_can_be_is_named_and_not_read() -> None:
    class Claiming(StoreWrapper):
        """Claims sizes of a terabyte, and fails a test that believes them."""

        async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
            async for info in self._inner.list_prefix(prefix):
                yield info._replace(size_bytes=1 << 40) if info.key in ODD else info

        async def get(self, key: str) -> bytes:
            raise AssertionError(key)

        async def get_range(self, key: str, offset: int, length: int) -> bytes:
            assert length < 1 << 20
            return await self._inner.get_range(key, offset, length)

    async def scenario() -> VerifyReport:
        chain = await build()
        for key in ODD:
            await chain.store.replace(key, [b"?"])
        return await verify(Claiming(chain.store))

    report = asyncio.run(scenario())
    assert report.strangers == ("readme",)
    assert [(damage.key, damage.problem.partition(";")[0]) for damage in report.damage] == [
        (key, "1099511627776 bytes cannot be") for key in ("catalog/00000000", "heartbeat/0000000001")
    ]


ODD = ("catalog/00000000", "heartbeat/0000000001", "readme")


def test_objects_of_a_fenced_owner_are_orphans_and_strangers_are_named() -> None:
    async def scenario() -> VerifyReport:
        chain = await build()
        await put_late(chain)
        await chain.store.put_if_absent("notes/readme.txt", [b"hello"])
        return await verify(chain.store)

    report = asyncio.run(scenario())
    assert report.orphans == ("chain/00000000/0000000006",)
    assert report.strangers == ("notes/readme.txt",)
    assert report.is_sound


def test_damage_to_an_orphan_has_the_lsns_that_its_trailer_claims() -> None:
    async def scenario() -> tuple[VerifyReport, int]:
        chain = await build()
        rival = await put_late(chain)
        trailer = decode_trailer(await chain.store.get(rival.keys[0]), "")
        await flip(rival, rival.keys[0], trailer.index_offset)
        return await verify(chain.store), trailer.first_lsn

    report, lsn = asyncio.run(scenario())
    assert report.orphans == ("chain/00000000/0000000006",)
    assert lsn > 0
    assert [(damage.part, damage.lsn_first, damage.lsn_last) for damage in report.damage] == [("index", lsn, lsn)]
    assert all(surviving(report).values())


def test_damaged_heartbeat_is_named() -> None:
    async def scenario() -> VerifyReport:
        chain = await build()
        await chain.store.put_if_absent("heartbeat/0000000001", [b"?"])
        return await verify(chain.store)

    assert [damage.key for damage in asyncio.run(scenario()).damage] == ["heartbeat/0000000001"]


def test_container_without_a_domain_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="holds no protected domain"):
        asyncio.run(verify(MemoryStore()))


def test_url_is_opened_and_closed(tmp_path: Path) -> None:
    async def scenario() -> VerifyReport:
        store = open_store(tmp_path.as_uri())
        chain = Chain(store)
        await chain.begin()
        chain.add_disk(1, "a", SIZE)
        await chain.seal()
        await store.close()
        return await verify(tmp_path.as_uri())

    assert asyncio.run(scenario()).is_sound


WRITES = st.lists(
    st.tuples(st.integers(1, 2), st.integers(0, 15), st.integers(1, 8), st.sampled_from("wwwzms")), max_size=40
)


@settings(max_examples=25)
@given(WRITES, st.data())
def test_a_point_survives_exactly_if_it_can_be_recovered(
    writes: list[tuple[int, int, int, str]], data: st.DataObject
) -> None:
    async def scenario() -> None:
        chain = Chain(MemoryStore())
        await chain.begin()
        chain.add_disk(1, "a", 16 * 4096)
        chain.add_disk(2, "b", 16 * 4096)
        for number, (disk, block, blocks, what) in enumerate(writes):
            length = min(blocks, 16 - block) * 4096
            if what == "w":
                chain.write(disk, block * 4096, os.urandom(length))
            elif what == "z":
                chain.zero(disk, block * 4096, length)
            elif what == "m":
                chain.mark(f"mark {number}")
            elif chain.rows:
                await chain.seal()
        if chain.rows:
            await chain.seal()
        await damage_frames(chain, data)
        report = await verify(chain.store)
        for check in report.points:
            assert check.survives == await is_recovered(chain, check.point.lsn)

    asyncio.run(scenario())


async def damage_frames(chain: Chain, data: st.DataObject) -> None:
    for key in chain.keys[1:]:
        stored = await chain.store.get(key)
        trailer = decode_trailer(stored, key)
        frames = decode_index(stored[trailer.index_offset : trailer.index_end], trailer, key).frames
        for frame in frames:
            if data.draw(st.integers(0, 4)) == 0:
                await flip(chain, key, int(frame["offset"]))


async def is_recovered(chain: Chain, lsn: int) -> bool:
    with TemporaryDirectory() as target:
        try:
            report = await rehydrate(chain.store, at=lsn, target=target, format="raw")
        except DamagedObject:
            return False
        for number, disk in enumerate(report.disks, 1):
            assert disk.path.read_bytes() == chain.replay(number, disk.size_bytes, lsn)
        return True
