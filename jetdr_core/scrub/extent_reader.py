"""``read_extents``: some extents of some disks as they were at some LSNs, from the store.

It plans as a recovery does, and fetches only the frames that the extents need. One walk over the indexes, newest first,
serves all extents together. The LSNs need not be recovery points.

Invariants: bytes are given only if every frame that they need was checked. What no record ever wrote is zeros. What is
damaged, missing or too far back is said, and never given as bytes.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from itertools import groupby
from typing import NamedTuple

import numpy as np

from jetdr_core.catalog import Catalog, SegmentRead, chain_key
from jetdr_core.catalog.links import LinkTable
from jetdr_core.errors import DamagedObject, JetdrError, ObjectUnavailable, StoreError
from jetdr_core.rehydrate.plan import FrameRange, PlannedDisk, Planner, SegmentPlace, batches, frame_ranges
from jetdr_core.segment import decode_frame
from jetdr_core.store import ObjectRange

__all__ = ["ExtentRead", "WantedExtent", "merged", "read_extents"]


class WantedExtent(NamedTuple):
    """[offset, offset + length) of disk number ``disk`` as it was at ``lsn``. The disk had ``size_bytes`` then."""

    lsn: int
    disk: int
    size_bytes: int
    offset: int
    length: int


class ExtentRead(NamedTuple):
    """An extent, and its ``data``, or the ``problem`` because of which there are none.

    ``keys`` are the objects that hold it. ``is_too_far``: nothing is wrong, but it was not looked for any further.
    """

    wanted: WantedExtent
    data: bytes | None
    keys: tuple[str, ...]
    problem: str = ""
    is_too_far: bool = False


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges (start, end) that ascend and do not touch, from ranges in any order."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


async def read_extents(
    catalog: Catalog, wanted: Sequence[WantedExtent], *, indexes_max: int | None = None
) -> AsyncGenerator[ExtentRead]:
    """Read the extents, in any order. With ``indexes_max`` no more segments are looked at than that."""
    by_moment = sorted(set(wanted), key=lambda extent: extent[:3])
    images = [_Image(list(group)) for _, group in groupby(by_moment, key=lambda extent: extent[:3])]
    await _plan(catalog, images, indexes_max)
    for image in images:
        await image.fetch(catalog)
        for read in image.reads():
            yield read


async def _plan(catalog: Catalog, images: Sequence[_Image], indexes_max: int | None) -> None:
    walk = _Walk(catalog.segments, images)
    lsn = max((image.planner.lsn for image in images), default=0)
    async with aclosing(catalog.indexes_newest_first(lsn, on_damage=walk.leave_out)) as found:
        async for batch in found:
            if await asyncio.to_thread(walk.take, batch):
                return
            if indexes_max is not None and walk.looked_at >= indexes_max:
                walk.cut_off()
                return


class _Walk:
    """Gives the segments to all images."""

    def __init__(self, links: LinkTable, images: Sequence[_Image]) -> None:
        self.looked_at = 0
        self._links = links
        self._numbers = np.ascontiguousarray(links["number"])
        self._images = images

    def take(self, batch: Sequence[SegmentRead]) -> bool:
        """Take a batch. Returns whether nothing more is needed."""
        self.looked_at += len(batch)
        for segment in batch:
            for image in self._images:
                image.take(self._place(segment.number), segment)
        return all(image.planner.complete for image in self._images)

    def leave_out(self, number: int, problem: JetdrError) -> None:
        self.looked_at += 1
        for image in self._images:
            image.lose(self._place(number), str(problem))

    def cut_off(self) -> None:
        for image in self._images:
            image.is_cut_off = True

    def _place(self, number: int) -> SegmentPlace:
        link = self._links[int(np.searchsorted(self._numbers, number))]
        return SegmentPlace(number, chain_key(number), int(link["first_lsn"]), int(link["last_lsn"]))


class _Image:
    """The wanted parts of one disk at one LSN. ``wanted`` are of the same moment."""

    def __init__(self, wanted: Sequence[WantedExtent]) -> None:
        self.wanted = wanted
        self.ranges = merged((extent.offset, extent.offset + extent.length) for extent in wanted)
        self.planned = PlannedDisk(wanted[0].disk, str(wanted[0].disk), wanted[0].size_bytes, self.ranges)
        self.planner = Planner([self.planned], wanted[0].lsn)
        self.is_cut_off = False
        self._starts = [start for start, _ in self.ranges]
        self._data: list[bytearray] = []
        self._held: list[tuple[int, int, str]] = []
        self._lost: list[tuple[int, int, str]] = []

    def take(self, place: SegmentPlace, segment: SegmentRead) -> None:
        if place.lsn_first > self.planner.lsn or self.planner.complete:
            return
        try:
            self.planner.add(place, segment.index)
        except DamagedObject as error:
            self.lose(place, str(error))

    def lose(self, place: SegmentPlace, problem: str) -> None:
        """A segment cannot be read: everything that is not found yet may be in it."""
        if place.lsn_first <= self.planner.lsn:
            self._lost += [(offset, offset + length, problem) for offset, length in self.planned.uncovered()]

    async def fetch(self, catalog: Catalog) -> None:
        self._data = [bytearray(end - start) for start, end in self.ranges]
        ranges = (wanted for segment in self.planner.segments for wanted in frame_ranges(segment))
        for batch in batches(ranges):
            places = [ObjectRange(wanted.segment.place.key, wanted.offset, wanted.length) for wanted in batch]
            for wanted, result in zip(batch, await catalog.store.get_ranges(places), strict=True):
                if isinstance(result, ObjectUnavailable):
                    self._lose_pieces(wanted, wanted.first, wanted.end, result.problem)
                elif isinstance(result, StoreError):
                    raise result
                else:
                    await asyncio.to_thread(self._apply, wanted, result)

    def reads(self) -> list[ExtentRead]:
        """The extents, after :meth:`fetch`. Their bytes are released."""
        unfound = [(at, at + length) for at, length in self.planned.uncovered()] if self.is_cut_off else []
        found = [self._read(extent, unfound) for extent in self.wanted]
        self._data = []
        return found

    def _read(self, extent: WantedExtent, unfound: Sequence[tuple[int, int]]) -> ExtentRead:
        start, end = extent.offset, extent.offset + extent.length
        keys = tuple(dict.fromkeys(key for low, high, key in self._held if low < end and start < high))
        for low, high, problem in self._lost:
            if low < end and start < high:
                return ExtentRead(extent, None, keys, problem)
        if any(low < end and start < high for low, high in unfound):
            return ExtentRead(extent, None, keys, "what holds it lies too far back", is_too_far=True)
        nth = bisect_right(self._starts, start) - 1
        at = start - self._starts[nth]
        return ExtentRead(extent, bytes(self._data[nth][at : at + extent.length]), keys)

    def _apply(self, wanted: FrameRange, data: bytes) -> None:
        segment = wanted.segment
        for row in range(wanted.first, wanted.end):
            frame = segment.frames[row]
            at = int(frame["offset"]) - wanted.offset
            stored = memoryview(data)[at : at + int(frame["stored_bytes"])]
            number = int(segment.frame_numbers[row])
            try:
                raw = decode_frame(stored, frame, segment.place.key, number=number, content_key=segment.content_key)
            except DamagedObject as error:
                self._lose_pieces(wanted, row, row + 1, str(error))
            else:
                self._write(wanted, row, memoryview(raw))

    def _write(self, wanted: FrameRange, row: int, raw: memoryview) -> None:
        for offset, length, frame_offset in _pieces(wanted, row, row + 1):
            nth = bisect_right(self._starts, offset) - 1
            at = offset - self._starts[nth]
            self._data[nth][at : at + length] = raw[frame_offset : frame_offset + length]
            self._held.append((offset, offset + length, wanted.segment.place.key))

    def _lose_pieces(self, wanted: FrameRange, first: int, end: int, problem: str) -> None:
        key = wanted.segment.place.key
        for offset, length, _ in _pieces(wanted, first, end):
            self._held.append((offset, offset + length, key))
            self._lost.append((offset, offset + length, problem))


def _pieces(wanted: FrameRange, first: int, end: int) -> list[tuple[int, int, int]]:
    """(offset, length, offset in the raw frame) of the pieces in rows [first, end) of the segment's frames."""
    pieces = wanted.segment.pieces
    low, high = np.searchsorted(pieces["frame"], [first, end])
    found: list[tuple[int, int, int]] = pieces[low:high][["offset", "length", "frame_offset"]].tolist()
    return found
