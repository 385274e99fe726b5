"""Losses: damaged bytes, followed through history to tell which recovery points need them. Pure.

A damaged piece is needed by every point from the LSN that wrote it until all its bytes are overwritten. So one walk
over the indexes, oldest first, decides about any number of points.

Invariant: at any time each byte of a disk belongs to at most one loss, the newest.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jetdr_core.segment import EntryTable

__all__ = ["Loss", "Losses"]

Holds = Callable[[int, int], bool]


@dataclass(slots=True)
class Loss:
    """Bytes that no object holds any more: ``length`` at ``offset`` of disk number ``disk``, written by ``lsn``.

    Points from ``lsn`` to before ``lsn_end`` need some of them. None: so does the newest point. ``bytes_left`` counts
    the bytes that are not overwritten yet.
    """

    disk: int
    offset: int
    length: int
    lsn: int
    key: str
    problem: str
    bytes_left: int
    lsn_end: int | None = None


def _end(loss: Loss) -> int:
    assert loss.lsn_end is not None
    return loss.lsn_end


class _Part(NamedTuple):
    """Bytes of a loss that are not overwritten. The parts of one disk are disjoint, and ordered by start."""

    start: int
    end: int
    loss: int


class Losses:
    """Takes every index, oldest first. Costs nothing while nothing is damaged."""

    def __init__(self) -> None:
        self.all: list[Loss] = []
        self._parts: defaultdict[int, list[_Part]] = defaultdict(list)

    def feed(self, entries: EntryTable, damaged: Mapping[int, str], key: str) -> None:
        """Take the entries of segment ``key``. Entries in the frames ``damaged`` (problems by number) are lost."""
        for entry in entries[self._relevant(entries, damaged)].tolist():
            lsn, _, offset, length, disk, frame, *_ = entry
            self._overwrite(disk, offset, offset + length, lsn)
            if frame in damaged:
                self._lose(disk, offset, length, lsn, key, damaged[frame])

    def lose_disks(self, sizes: Iterable[tuple[int, int]], lsn: int, key: str, problem: str) -> None:
        """Take the loss of an index: from ``lsn``, any byte of the disks (number, size) may be wrong."""
        for disk, size_bytes in sizes:
            self._overwrite(disk, 0, size_bytes, lsn)
            self._lose(disk, 0, size_bytes, lsn, key, problem)

    def needed_at(self, points: Iterable[int], holds: Holds) -> Iterator[list[Collection[Loss]]]:
        """For points in ascending order, the losses that each of them needs, disk by disk.

        ``holds`` tells of a disk and a point whether the disk is part of it. A collection is valid until the next one
        is asked for. This is one sweep over points and losses together.
        """
        begins, ends = iter(self.all), iter(sorted((x for x in self.all if x.lsn_end is not None), key=_end))
        begin, end = next(begins, None), next(ends, None)
        needed: defaultdict[int, dict[int, Loss]] = defaultdict(dict)
        for lsn in points:
            while begin is not None and begin.lsn <= lsn:
                needed[begin.disk][id(begin)] = begin
                begin = next(begins, None)
            while end is not None and _end(end) <= lsn:
                needed[end.disk].pop(id(end))
                end = next(ends, None)
            yield [losses.values() for disk, losses in needed.items() if losses and holds(disk, lsn)]

    def left(self) -> Iterator[tuple[Loss, int, int]]:
        """Yield what nothing has overwritten so far, by disk and offset: a loss, and which range (start, end) of it."""
        for _, parts in sorted(self._parts.items()):
            for part in parts:
                yield self.all[part.loss], part.start, part.end

    def _relevant(self, entries: EntryTable, damaged: Mapping[int, str]) -> npt.NDArray[np.bool_]:
        """Which entries matter: all entries of a damaged segment, otherwise those that touch a loss."""
        relevant = np.full(len(entries), bool(damaged))
        if damaged:
            return relevant
        for disk, parts in self._parts.items():
            if parts:
                relevant |= (entries["disk"] == disk) & _touches(entries, parts)
        return relevant

    def _lose(self, disk: int, offset: int, length: int, lsn: int, key: str, problem: str) -> None:
        insort(self._parts[disk], _Part(offset, offset + length, len(self.all)))
        self.all.append(Loss(disk, offset, length, lsn, key, problem, bytes_left=length))

    def _overwrite(self, disk: int, start: int, end: int, lsn: int) -> None:
        parts = self._parts[disk]
        first = bisect_right(parts, start, key=lambda part: part.end)
        last = bisect_left(parts, end, lo=first, key=lambda part: part.start)
        left: list[_Part] = []
        for part in parts[first:last]:
            self._cut(part.loss, min(part.end, end) - max(part.start, start), lsn)
            if part.start < start:
                left.append(part._replace(end=start))
            if part.end > end:
                left.append(part._replace(start=end))
        parts[first:last] = left

    def _cut(self, number: int, length: int, lsn: int) -> None:
        loss = self.all[number]
        loss.bytes_left -= length
        if loss.bytes_left == 0:
            loss.lsn_end = lsn


def _touches(entries: EntryTable, parts: list[_Part]) -> npt.NDArray[np.bool_]:
    starts = np.array([part.start for part in parts], np.uint64)
    ends = np.array([part.end for part in parts], np.uint64)
    after = np.searchsorted(ends, entries["offset"], side="right")
    known = after < len(parts)
    touches: npt.NDArray[np.bool_] = starts[np.where(known, after, 0)] < entries["offset"] + entries["length"]
    return known & touches
