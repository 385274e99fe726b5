"""The plan is the newest byte of every place, and nothing else is fetched."""

from __future__ import annotations

import asyncio
import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetdr_core.errors import DamagedObject
from jetdr_core.rehydrate.plan import (
    GET_BYTES_MAX,
    GET_UNNEEDED_BYTES_MAX,
    PlannedDisk,
    Planner,
    SegmentPlace,
    frame_ranges,
)
from jetdr_core.segment import ObjectKind, SegmentIndex, decode_frame, decode_index, decode_trailer
from jetdr_core.store.memory import MemoryStore
from tests.rehydrate.chains import Chain

SIZE = 64 << 10
SECTOR = 512
WRITES = st.lists(
    st.tuples(st.integers(1, 2), st.integers(0, SIZE // SECTOR - 1), st.integers(1, 40), st.booleans(), st.booleans()),
    min_size=1,
    max_size=60,
)


async def indexes_of(chain: Chain) -> list[tuple[SegmentPlace, SegmentIndex]]:
    """Newest first."""
    found = []
    for number, key in reversed(list(enumerate(chain.keys, 1))):
        data = await chain.store.get(key)
        trailer = decode_trailer(data, key)
        if trailer.kind == ObjectKind.SEGMENT:
            index = decode_index(data[trailer.index_offset : trailer.index_end], trailer, key)
            found.append((SegmentPlace(number, key, trailer.first_lsn, trailer.last_lsn), index))
    return found


async def planned(chain: Chain, lsn: int, *disks: PlannedDisk) -> Planner:
    planner = Planner(disks, lsn)
    for place, index in await indexes_of(chain):
        if place.lsn_first <= lsn and not planner.complete:
            planner.add(place, index)
    return planner


async def chain_of(writes: list[tuple[int, int, int, bool, bool]]) -> Chain:
    chain = Chain(MemoryStore())
    await chain.begin()
    for disk, sector, sectors, zero, seal in writes:
        length = min(sectors * SECTOR, SIZE - sector * SECTOR)
        if zero:
            chain.zero(disk, sector * SECTOR, length)
        else:
            chain.write(disk, sector * SECTOR, os.urandom(length))
        if seal:
            await chain.seal()
    if chain.rows:
        await chain.seal()
    return chain


async def images_of(chain: Chain, planner: Planner) -> list[bytes]:
    images = [bytearray(disk.size_bytes) for disk in planner.disks]
    written = [np.zeros(disk.size_bytes, bool) for disk in planner.disks]
    for segment in planner.segments:
        data = await chain.store.get(segment.place.key)
        for piece in segment.pieces:
            row = segment.frames[piece["frame"]]
            start, source = int(row["offset"]), int(piece["frame_offset"])
            raw = decode_frame(data[start : start + int(row["stored_bytes"])], row, segment.place.key)
            offset, length = int(piece["offset"]), int(piece["length"])
            images[piece["disk"]][offset : offset + length] = raw[source : source + length]
            assert not written[piece["disk"]][offset : offset + length].any(), "each byte is written once"
            written[piece["disk"]][offset : offset + length] = True
    return [bytes(image) for image in images]


@settings(max_examples=60)
@given(WRITES, st.data())
def test_plan_at_any_lsn_equals_a_replay(writes: list[tuple[int, int, int, bool, bool]], data: st.DataObject) -> None:
    async def scenario() -> None:
        chain = await chain_of(writes)
        lsn = data.draw(st.integers(0, chain.lsn))
        planner = await planned(chain, lsn, PlannedDisk(2, "b", SIZE), PlannedDisk(1, "a", SIZE))
        assert await images_of(chain, planner) == [chain.replay(disk, SIZE, lsn) for disk in (2, 1)]

    asyncio.run(scenario())


@settings(max_examples=40)
@given(WRITES, st.data())
def test_plan_less_what_is_applied_is_the_rest(
    writes: list[tuple[int, int, int, bool, bool]], data: st.DataObject
) -> None:
    async def scenario() -> None:
        chain = await chain_of(writes)
        planner = await planned(chain, chain.lsn, PlannedDisk(1, "a", SIZE), PlannedDisk(2, "b", SIZE))
        for segment in planner.segments:
            first = data.draw(st.integers(0, 2))
            last = data.draw(st.integers(first, 3))
            of_disk = segment.frame_numbers[segment.pieces_of(1)["frame"]]
            left = segment.without({1: (first <= of_disk) & (of_disk <= last)})
            expected = [
                (int(piece["disk"]), int(piece["offset"]))
                for piece in segment.pieces
                if not (piece["disk"] == 1 and first <= segment.frame_numbers[piece["frame"]] <= last)
            ]
            found = [] if left is None else left.pieces[["disk", "offset"]].tolist()
            assert found == expected
            if left is not None:
                numbers = left.frame_numbers[left.pieces["frame"]]
                assert set(numbers.tolist()) == set(left.frame_numbers.tolist())
                assert (left.frames == segment.frames[np.isin(segment.frame_numbers, left.frame_numbers)]).all()

    asyncio.run(scenario())


def test_overwritten_history_adds_nothing_to_the_plan() -> None:
    async def scenario() -> None:
        chain = Chain(MemoryStore())
        await chain.begin()
        for _ in range(5):
            for offset in range(0, SIZE, 4096):
                chain.write(1, offset, os.urandom(4096))
            await chain.seal()
        planner = await planned(chain, chain.lsn, PlannedDisk(1, "a", SIZE))
        assert planner.complete
        assert [segment.place.key for segment in planner.segments] == [chain.keys[-1]]
        assert planner.disks[0].bytes_live == SIZE
        assert planner.disks[0].uncovered() == []

    asyncio.run(scenario())


def test_zeros_cover_but_are_not_planned() -> None:
    async def scenario() -> None:
        chain = Chain(MemoryStore())
        await chain.begin()
        chain.write(1, 0, os.urandom(SIZE // 2))
        await chain.seal()
        chain.zero(1, 0, SIZE // 4)
        await chain.seal()
        planner = await planned(chain, chain.lsn, PlannedDisk(1, "a", SIZE))
        assert planner.disks[0].bytes_live == SIZE // 4
        assert planner.disks[0].uncovered() == [(SIZE // 2, SIZE // 2)]
        assert await images_of(chain, planner) == [chain.replay(1, SIZE, chain.lsn)]

    asyncio.run(scenario())


def test_write_beyond_the_disk_is_damage_and_named() -> None:
    async def scenario() -> None:
        chain = await chain_of([(1, 100, 20, False, True)])
        with pytest.raises(DamagedObject, match=r"index entry of LSN 1: .*outside of disk 'a' of 51200 bytes"):
            await planned(chain, chain.lsn, PlannedDisk(1, "a", 100 * SECTOR))

    asyncio.run(scenario())


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_ranges_cover_the_needed_frames_and_little_else(seed: int) -> None:
    """One segment of 64 incompressible frames; later writes punch out some of them."""

    async def scenario() -> None:
        random = np.random.default_rng(seed)
        frame, frames = 256 << 10, 64
        chain = Chain(MemoryStore())
        await chain.begin()
        for number in range(frames):
            chain.write(1, number * frame, random.bytes(frame))
        await chain.seal()
        for number in np.flatnonzero(random.random(frames) < random.random()).tolist():
            chain.zero(1, number * frame, frame - random.choice([0, 512]))
        if chain.rows:
            await chain.seal()
        planner = await planned(chain, chain.lsn, PlannedDisk(1, "a", frames * frame))
        for segment in planner.segments:
            ranges = list(frame_ranges(segment))
            assert [row for get in ranges for row in range(get.first, get.end)] == list(range(len(segment.frames)))
            assert sum(len(get.pieces) for get in ranges) == len(segment.pieces)
            for get, following in itertools.pairwise(ranges):
                assert get.length <= GET_BYTES_MAX
                joined = following.offset + following.length - get.offset
                between = following.offset - get.offset - get.length
                first_alone = int(segment.frames[following.first]["stored_bytes"])
                assert between > GET_UNNEEDED_BYTES_MAX or joined > GET_BYTES_MAX - first_alone

    asyncio.run(scenario())
