"""The plan: which bytes of which frames make up the disks at an LSN. Pure: it is handed indexes and does no I/O.

Invariants: segments are added newest first; each byte of each disk goes to the newest record at or below the LSN that
covers it, so no overwritten byte is ever planned; zeros cover but are never fetched (targets begin as holes).
Memory: 32 bytes a live piece and one row a needed frame, plus 32 bytes an interval while planning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jetdr_core._kernels import IntervalMap
from jetdr_core.errors import DamagedObject
from jetdr_core.extent import PIECE, Pieces
from jetdr_core.segment import NO_FRAME, SegmentIndex

__all__ = [
    "GET_BYTES_MAX",
    "GET_HOLE_BYTES_MAX",
    "FrameRange",
    "PlannedDisk",
    "Planner",
    "SegmentPlace",
    "SegmentPlan",
    "frame_ranges",
]

GET_BYTES_MAX = 4 << 20
"""A range-GET grows to this much at most (one frame alone may not exceed it)."""

GET_HOLE_BYTES_MAX = 64 << 10
"""Unneeded bytes between two needed frames that are read along rather than paid for with another GET."""


@dataclass(frozen=True, slots=True)
class PlannedDisk:
    """A disk to rebuild: its number in the records, and its size at the point."""

    number: int
    name: str
    size_bytes: int


class SegmentPlace(NamedTuple):
    """Which segment: its number in the chain, its key, its LSN range."""

    number: int
    key: str
    lsn_first: int
    lsn_last: int


@dataclass(frozen=True, slots=True, eq=False)
class SegmentPlan:
    """What is needed of one segment.

    ``frames`` are rows of its frame table, ``frame_numbers`` their places in it, ascending. ``pieces`` are sorted by
    frame, disk and offset; a piece's ``frame`` is a row of ``frames``, its ``disk`` a row of the planner's disks.
    """

    place: SegmentPlace
    frame_numbers: npt.NDArray[np.uint32]
    frames: npt.NDArray[np.void]
    pieces: Pieces

    def bytes_of(self, disk: int) -> int:
        """Live bytes of the disk in row ``disk``."""
        return int(self.pieces["length"][self.pieces["disk"] == disk].sum(dtype=np.uint64))

    def without(self, applied: Mapping[int, Sequence[tuple[int, int]]]) -> SegmentPlan | None:
        """The plan less what is applied: per disk row, frame numbers (first, last). None if that is all of it."""
        numbers = self.frame_numbers[self.pieces["frame"]]
        left = np.ones(len(self.pieces), np.bool_)
        for disk, done in applied.items():
            of_disk = self.pieces["disk"] == disk
            for first, last in done:
                left &= ~(of_disk & (numbers >= first) & (numbers <= last))
        return self if left.all() else self._only(self.pieces[left])

    def _only(self, pieces: Pieces) -> SegmentPlan | None:
        if not len(pieces):
            return None
        used, pieces["frame"] = np.unique(pieces["frame"], return_inverse=True)
        return SegmentPlan(self.place, self.frame_numbers[used], self.frames[used], pieces)


@dataclass(frozen=True, slots=True, eq=False)
class FrameRange:
    """One range-GET: rows [first, end) of ``segment.frames``, in bytes [offset, offset + length) of the object."""

    segment: SegmentPlan
    first: int
    end: int
    offset: int
    length: int

    @property
    def pieces(self) -> Pieces:
        bounds = np.searchsorted(self.segment.pieces["frame"], [self.first, self.end])
        return self.segment.pieces[bounds[0] : bounds[1]]

    @property
    def frame_span(self) -> tuple[int, int]:
        """First and last frame number, both needed and within."""
        numbers = self.segment.frame_numbers
        return int(numbers[self.first]), int(numbers[self.end - 1])


def frame_ranges(segment: SegmentPlan) -> Iterator[FrameRange]:
    """Merge the needed frames (which lie in the object in this order) into range-GETs, over small holes."""
    starts: list[int] = segment.frames["offset"].tolist()
    ends: list[int] = (segment.frames["offset"] + segment.frames["stored_bytes"]).tolist()
    first = 0
    for row in range(1, len(starts) + 1):
        joins = (
            row < len(starts)
            and starts[row] - ends[row - 1] <= GET_HOLE_BYTES_MAX
            and ends[row] - starts[first] <= GET_BYTES_MAX
        )
        if not joins:
            yield FrameRange(segment, first, row, starts[first], ends[row - 1] - starts[first])
            first = row


class Planner:
    """Collects the live pieces of ``disks`` at ``lsn``. Not thread-safe.

    Hand it the index of every segment that begins at or below ``lsn``, newest first, until :attr:`complete`.
    """

    def __init__(self, disks: Sequence[PlannedDisk], lsn: int) -> None:
        self.disks = tuple(disks)
        self.lsn = lsn
        self.segments: list[SegmentPlan] = []
        self.bytes_live = [0] * len(self.disks)
        self._covered = [IntervalMap() for _ in self.disks]

    @property
    def complete(self) -> bool:
        """Whether every byte of every disk has its newest record: older segments hold nothing that is needed."""
        return all(map(self._is_covered, range(len(self.disks))))

    def add(self, place: SegmentPlace, index: SegmentIndex) -> SegmentPlan | None:
        """Take what the segment holds of bytes that are not covered yet; None if that is nothing but zeros."""
        entries = index.entries
        if len(entries) and int(entries["lsn"][-1]) > self.lsn:
            entries = entries[entries["lsn"] <= self.lsn]
        found = [self._add_disk(row, entries, place.key) for row in range(len(self.disks)) if not self._is_covered(row)]
        pieces = np.concatenate([np.empty(0, PIECE), *found])
        if not len(pieces):
            return None
        plan = _segment_plan(place, index, pieces)
        self.segments.append(plan)
        return plan

    def uncovered(self, row: int) -> list[tuple[int, int]]:
        """Extents (offset, length) of the disk in ``row`` for which no record was found so far."""
        edges = self._covered[row].intervals()
        starts = [0, *edges["end"].tolist()]
        ends = [*edges["start"].tolist(), self.disks[row].size_bytes]
        return [(start, end - start) for start, end in zip(starts, ends, strict=True) if end > start]

    def release(self) -> None:
        """Free the interval maps: nothing more will be added."""
        self._covered = []

    def _is_covered(self, row: int) -> bool:
        return self._covered[row].covered_bytes >= self.disks[row].size_bytes

    def _add_disk(self, row: int, entries: npt.NDArray[np.void], key: str) -> Pieces:
        disk = self.disks[row]
        newest_first = entries[entries["disk"] == disk.number][::-1]
        _check_bounds(newest_first, disk, key)
        fresh = self._covered[row].overlay(newest_first["offset"], newest_first["length"])
        source = newest_first[fresh["source"]]
        data = source["frame"] != NO_FRAME
        pieces = _pieces(row, fresh[data], source[data])
        self.bytes_live[row] += int(pieces["length"].sum(dtype=np.uint64))
        return pieces


def _check_bounds(entries: npt.NDArray[np.void], disk: PlannedDisk, key: str) -> None:
    size = np.uint64(disk.size_bytes)
    outside = (entries["length"] > size) | (entries["offset"] > size - np.minimum(entries["length"], size))
    if outside.any():
        entry = entries[int(outside.argmax())]
        raise DamagedObject(
            key,
            f"index entry of LSN {entry['lsn']}",
            f"[{entry['offset']}, +{entry['length']}) lies outside of disk {disk.name!r} of {disk.size_bytes} bytes",
        )


def _pieces(row: int, fresh: npt.NDArray[np.void], source: npt.NDArray[np.void]) -> Pieces:
    pieces = np.empty(len(fresh), PIECE)
    pieces["offset"] = fresh["offset"]
    pieces["lsn"] = source["lsn"]
    pieces["length"] = fresh["length"]
    pieces["frame_offset"] = source["frame_offset"] + (fresh["offset"] - source["offset"])
    pieces["frame"] = source["frame"]
    pieces["disk"] = row
    return pieces


def _segment_plan(place: SegmentPlace, index: SegmentIndex, pieces: Pieces) -> SegmentPlan:
    pieces = pieces[np.lexsort((pieces["offset"], pieces["disk"], pieces["frame"]))]
    numbers, pieces["frame"] = np.unique(pieces["frame"], return_inverse=True)
    return SegmentPlan(place, numbers, index.frames[numbers], pieces)
