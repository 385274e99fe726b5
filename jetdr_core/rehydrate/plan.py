"""The plan: which bytes of which frames make up the disks at an LSN. Pure: it is given indexes and does no I/O.

Invariants: segments are added newest first. Each byte of each disk is taken from the newest record at or below the LSN
that covers it, so no overwritten byte is ever planned. Zeros cover but are never fetched, because targets begin as
holes.

Memory: 32 bytes for each live piece and one row for each needed frame. While planning, 32 bytes for each interval too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jetdr_core._kernels import IntervalMap
from jetdr_core.domain_key import ContentKey
from jetdr_core.errors import DamagedObject
from jetdr_core.extent import PIECE, Pieces
from jetdr_core.segment import NO_FRAME, SegmentIndex

__all__ = [
    "GET_BYTES_MAX",
    "GET_RANGES_MAX",
    "GET_UNNEEDED_BYTES_MAX",
    "FrameRange",
    "Mask",
    "PlannedDisk",
    "Planner",
    "SegmentPlace",
    "SegmentPlan",
    "batches",
    "bytes_by_disk",
    "frame_ranges",
    "lost_pieces",
    "without_piece",
]

Mask = npt.NDArray[np.bool_]
"""A choice of rows of a table."""

GET_BYTES_MAX = 4 << 20
"""The longest range-GET. No frame is longer."""

GET_UNNEEDED_BYTES_MAX = 64 << 10
"""The most unneeded bytes between two needed frames that are fetched, because another GET would cost more."""


GET_RANGES_MAX = 64
"""The most ranges that are fetched together. Together they are no longer than :data:`GET_BYTES_MAX`."""


class PlannedDisk:
    """One disk of a plan: its number in the records, its size at the point, and which of its bytes are found so far.

    ``bytes_live`` counts the bytes to be fetched, ``frames`` the frames that hold them. With ``only``, ranges (start,
    end) that ascend and do not touch, nothing else of the disk is planned.
    """

    def __init__(self, number: int, name: str, size_bytes: int, only: Sequence[tuple[int, int]] | None = None) -> None:
        self.number = number
        self.name = name
        self.size_bytes = size_bytes
        self.bytes_live = self.frames = 0
        self._covered = IntervalMap()
        if only is not None:
            edges = np.array([0, *(edge for wanted in only for edge in wanted), size_bytes], np.uint64)
            unwanted = edges[1::2] > edges[::2]
            self._covered.overlay(edges[::2][unwanted], (edges[1::2] - edges[::2])[unwanted])

    @property
    def is_covered(self) -> bool:
        """Whether the newest record of every byte is found."""
        return self._covered.covered_bytes >= self.size_bytes

    def add(self, row: int, entries: npt.NDArray[np.void], key: str) -> Pieces:
        """The pieces, of disk row ``row``, that ``entries`` of segment ``key`` add: bytes not covered before."""
        newest_first = entries[entries["disk"] == self.number][::-1]
        self._check_bounds(newest_first, key)
        fresh = self._covered.overlay(newest_first["offset"], newest_first["length"])
        source = newest_first[fresh["source"]]
        data = source["frame"] != NO_FRAME
        pieces = _pieces(row, fresh[data], source[data])
        self.bytes_live += int(pieces["length"].sum(dtype=np.uint64))
        self.frames += len(np.unique(pieces["frame"])) if len(pieces) > 1 else len(pieces)
        return pieces

    def uncovered(self) -> list[tuple[int, int]]:
        """Extents (offset, length) for which no record is found so far."""
        edges = self._covered.intervals()
        starts = [0, *edges["end"].tolist()]
        ends = [*edges["start"].tolist(), self.size_bytes]
        return [(start, end - start) for start, end in zip(starts, ends, strict=True) if end > start]

    def release(self) -> None:
        """Free the interval map. Nothing more may be added."""
        self._covered = IntervalMap()

    def _check_bounds(self, entries: npt.NDArray[np.void], key: str) -> None:
        size = np.uint64(self.size_bytes)
        outside = (entries["length"] > size) | (entries["offset"] > size - np.minimum(entries["length"], size))
        if outside.any():
            entry = entries[int(outside.argmax())]
            raise DamagedObject(
                key,
                f"index entry of LSN {entry['lsn']}",
                f"[{entry['offset']}, +{entry['length']}) lies outside of disk {self.name!r} "
                f"of {self.size_bytes} bytes",
            )


class SegmentPlace(NamedTuple):
    """A segment's number in the chain, its key and its LSN range."""

    number: int
    key: str
    lsn_first: int
    lsn_last: int


@dataclass(frozen=True, slots=True, eq=False)
class SegmentPlan:
    """What is needed of one segment.

    ``frames`` are rows of its frame table, and ``frame_numbers`` their numbers in it, ascending. ``pieces`` are sorted
    by frame, disk and offset. A piece's ``frame`` is a row of ``frames``, its ``disk`` a row of the planner's disks.
    ``content_key`` checks the frames, if the catalog was opened with the domain's key.
    """

    place: SegmentPlace
    frame_numbers: npt.NDArray[np.uint32]
    frames: npt.NDArray[np.void]
    pieces: Pieces
    content_key: ContentKey | None = None

    def pieces_of(self, row: int) -> Pieces:
        """The pieces of one disk, in the order of the plan."""
        pieces: Pieces = self.pieces[self.pieces["disk"] == row]
        return pieces

    def without(self, good: Mapping[int, Mask]) -> SegmentPlan | None:
        """The plan less the pieces in ``good``: masks over :meth:`pieces_of`, by disk row. None if that is all."""
        if not good:
            return self
        left = np.ones(len(self.pieces), np.bool_)
        for row, mask in good.items():
            left[self.pieces["disk"] == row] = ~mask
        return self if left.all() else self._only(self.pieces[left])

    def _only(self, pieces: Pieces) -> SegmentPlan | None:
        if not len(pieces):
            return None
        used, pieces["frame"] = np.unique(pieces["frame"], return_inverse=True)
        return SegmentPlan(self.place, self.frame_numbers[used], self.frames[used], pieces, self.content_key)


@dataclass(frozen=True, slots=True, eq=False)
class FrameRange:
    """One range-GET: rows [first, end) of ``segment.frames``, which lie in bytes [offset, offset + length)."""

    segment: SegmentPlan
    first: int
    end: int
    offset: int
    length: int

    @property
    def pieces(self) -> Pieces:
        bounds = np.searchsorted(self.segment.pieces["frame"], [self.first, self.end])
        return self.segment.pieces[bounds[0] : bounds[1]]


def bytes_by_disk(pieces: Pieces) -> dict[int, int]:
    """Live bytes by disk row."""
    lengths = np.bincount(pieces["disk"], pieces["length"]).tolist()
    return {row: int(length) for row, length in enumerate(lengths) if length}


def frame_ranges(segment: SegmentPlan) -> Iterator[FrameRange]:
    """Merge the needed frames, which lie in the object in this order, into range-GETs, across small distances."""
    starts: list[int] = segment.frames["offset"].tolist()
    ends: list[int] = (segment.frames["offset"] + segment.frames["stored_bytes"]).tolist()
    first = 0
    for row in range(1, len(starts) + 1):
        joins = (
            row < len(starts)
            and starts[row] - ends[row - 1] <= GET_UNNEEDED_BYTES_MAX
            and ends[row] - starts[first] <= GET_BYTES_MAX
        )
        if not joins:
            yield FrameRange(segment, first, row, starts[first], ends[row - 1] - starts[first])
            first = row


def without_piece(segments: Sequence[SegmentPlan], row: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Where a disk of ``size_bytes`` has no piece: ranges (start, end), ascending. Pieces of one plan never overlap."""
    place = 0
    for start, end in _extents([segment.pieces_of(row) for segment in segments]):
        if start > place:
            yield place, start
        place = end
    if place < size_bytes:
        yield place, size_bytes


def lost_pieces(segments: Sequence[SegmentPlan], row: int, good: Mapping[int, Mask]) -> Iterator[tuple[int, int]]:
    """The pieces of one disk that are not in ``good`` (masks over :meth:`SegmentPlan.pieces_of`): ranges, ascending."""
    lost = [segment.pieces_of(row) for segment in segments]
    for nth, segment in enumerate(segments):
        if segment.place.number in good:
            lost[nth] = lost[nth][~good[segment.place.number]]
    return _extents(lost)


def _extents(tables: Sequence[Pieces]) -> Iterator[tuple[int, int]]:
    """The ranges (start, end) of pieces, ascending."""
    offsets = np.concatenate([np.empty(0, np.uint64), *(pieces["offset"] for pieces in tables)])
    lengths = np.concatenate([np.empty(0, np.uint64), *(pieces["length"].astype(np.uint64) for pieces in tables)])
    order = np.argsort(offsets, kind="stable")
    starts = offsets[order].tolist()
    return zip(starts, (offsets + lengths)[order].tolist(), strict=True)


def batches(ranges: Iterable[FrameRange]) -> Iterator[list[FrameRange]]:
    """Consecutive ranges that are fetched and written together, because each alone may be a single small write."""
    batch: list[FrameRange] = []
    length = 0
    for wanted in ranges:
        if batch and (len(batch) == GET_RANGES_MAX or length + wanted.length > GET_BYTES_MAX):
            yield batch
            batch, length = [], 0
        batch.append(wanted)
        length += wanted.length
    if batch:
        yield batch


class Planner:
    """Collects the live pieces of ``disks`` at ``lsn``. Not thread-safe.

    Takes the index of every segment that begins at or below ``lsn``, newest first, until :attr:`complete`.
    """

    def __init__(self, disks: Sequence[PlannedDisk], lsn: int) -> None:
        self.disks = tuple(disks)
        self.lsn = lsn
        self.segments: list[SegmentPlan] = []

    @property
    def complete(self) -> bool:
        """Whether the newest record of every byte of every disk is found, so that no older segment is needed."""
        return all(disk.is_covered for disk in self.disks)

    def add(self, place: SegmentPlace, index: SegmentIndex) -> SegmentPlan | None:
        """Take what the segment has of bytes that are not covered yet. None if that is nothing but zeros."""
        entries = index.entries
        if len(entries) and int(entries["lsn"][-1]) > self.lsn:
            entries = entries[entries["lsn"] <= self.lsn]
        found = [disk.add(row, entries, place.key) for row, disk in enumerate(self.disks) if not disk.is_covered]
        pieces = found[0] if len(found) == 1 else np.concatenate([np.empty(0, PIECE), *found])
        if not len(pieces):
            return None
        plan = _segment_plan(place, index, pieces)
        self.segments.append(plan)
        return plan

    def release(self) -> None:
        """Free the interval maps. Nothing more may be added."""
        for disk in self.disks:
            disk.release()


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
    if len(pieces) > 1:
        pieces = pieces[np.lexsort((pieces["offset"], pieces["disk"], pieces["frame"]))]
    numbers, pieces["frame"] = np.unique(pieces["frame"], return_inverse=True)
    return SegmentPlan(place, numbers, index.frames[numbers], pieces, index.content_key)
