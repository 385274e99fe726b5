"""Recheck: reads what earlier runs left of a disk, and tells which of it is still what the journal says.

Hours may lie between two runs of a recovery, and the target may have been changed meanwhile: by a restored snapshot of
the target's file system, by a failing disk, by somebody. So nothing that was written before is believed:

- The pieces of each row of the journal must have the row's digest.
- All other bytes must be zeros. Only those that may hold data are read, so holes cost nothing.
- A stream must have the digest with which it was announced, and a descriptor must be the one that is due.

Cost: one sequential read of what was written, without a request to the store. Memory: one buffer per thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jetdr_core._kernels import gather_digest
from jetdr_core.errors import TargetExists
from jetdr_core.extent import Pieces
from jetdr_core.rehydrate.journal import APPLIED, AppliedTable, Journal
from jetdr_core.rehydrate.plan import Mask, SegmentPlan
from jetdr_core.rehydrate.target import TargetDisk
from jetdr_core.vmdk.holes import data_ranges

__all__ = ["Rechecked", "Told", "foreign_ranges", "recheck_finished", "recheck_partial"]

_READ_BYTES = 1 << 20
_THREADS = 4

log = logging.getLogger(__name__)

Told = Callable[[int], None]
"""Called with the good bytes so far, from any thread."""


@dataclass(slots=True)
class Rechecked:
    """What became of the disk's pieces. ``good`` has a mask a segment over the pieces that a plan has of this disk.

    Bytes that the journal names and that are not as they were written are *changed*.
    """

    good: dict[int, Mask] = field(default_factory=dict)
    bytes_good: int = 0
    bytes_changed: int = 0


def recheck_partial(
    target: TargetDisk, journal: Journal | None, segments: Sequence[SegmentPlan], row: int, told: Told
) -> Rechecked:
    """Check an unfinished disk, the one in ``row`` of the plan ``segments``. What it has no piece for becomes zeros."""
    with target.reading():
        found = _found(target.fd, journal, segments, row, told)
        foreign = list(foreign_ranges(target.fd, target.identity.size_bytes, segments, row))
    with target.writing():
        for start, end in foreign:
            os.pwrite(target.fd, bytes(end - start), start)
    if found.bytes_changed or foreign:
        log.warning(
            "%s was changed since it was written: %d bytes are written again, and %d places are zeroed",
            target.path,
            found.bytes_changed,
            len(foreign),
        )
    return found


def recheck_finished(
    target: TargetDisk, journal: Journal | None, segments: Sequence[SegmentPlan], row: int, told: Told
) -> Rechecked:
    """Check a disk that has its final name. :class:`TargetExists` unless it is what was written there."""
    with target.reading():
        found = _found(target.fd, journal, segments, row, told)
        is_own = found.bytes_changed == 0 and target.is_as_announced(journal)
        if target.fd >= 0:
            is_own &= not any(foreign_ranges(target.fd, target.identity.size_bytes, segments, row))
    if not is_own:
        raise TargetExists(
            f"{target.path} is not as this recovery wrote it",
            hint="move it away with the files that belong to it, and run this again",
        )
    return found


def _found(fd: int, journal: Journal | None, segments: Sequence[SegmentPlan], row: int, told: Told) -> Rechecked:
    """What the journal says of the file ``fd``. The journal's word is taken if there is none (-1)."""
    found = Rechecked()
    applied = journal.applied if journal else np.empty(0, APPLIED)
    applied = applied[np.argsort(applied["segment"], kind="stable")]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="jetdr-recheck") as pool:
        for segment in segments:
            number = segment.place.number
            low, high = np.searchsorted(applied["segment"], [number, number + 1])
            if low < high:
                _add_segment(found, fd, applied[low:high], segment, row, pool)
                told(found.bytes_good)
    return found


def _add_segment(
    found: Rechecked, fd: int, applied: AppliedTable, segment: SegmentPlan, row: int, pool: ThreadPoolExecutor
) -> None:
    pieces = segment.pieces_of(row)
    numbers = segment.frame_numbers[pieces["frame"]]
    lows = np.searchsorted(numbers, applied["frame_first"], "left").tolist()
    highs = np.searchsorted(numbers, applied["frame_last"], "right").tolist()
    digests = applied["digest"].tolist()

    def is_good(nth: int) -> bool:
        return fd < 0 or gather_digest(fd, pieces[lows[nth] : highs[nth]]) == digests[nth]

    good, named = np.zeros(len(pieces), np.bool_), np.zeros(len(pieces), np.bool_)
    for nth, holds in enumerate(pool.map(is_good, range(len(applied)))):
        named[lows[nth] : highs[nth]] = True
        good[lows[nth] : highs[nth]] |= holds
    found.good[segment.place.number] = good
    found.bytes_good += int(pieces["length"][good].sum(dtype=np.uint64))
    found.bytes_changed += int(pieces["length"][named & ~good].sum(dtype=np.uint64))


def foreign_ranges(fd: int, size_bytes: int, segments: Sequence[SegmentPlan], row: int) -> Iterator[tuple[int, int]]:
    """The ranges (start, end), of 1 MiB at most, that hold data although the plan has no piece of the disk there."""
    starts, ends = _without_piece([segment.pieces_of(row) for segment in segments], size_bytes)
    for data_start, data_end in data_ranges(fd, size_bytes):
        first = int(np.searchsorted(ends, data_start, "right"))
        last = int(np.searchsorted(starts, data_end, "left"))
        for start, end in zip(starts[first:last].tolist(), ends[first:last].tolist(), strict=True):
            yield from _not_zero(fd, max(start, data_start), min(end, data_end))


def _without_piece(pieces: Sequence[Pieces], size_bytes: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Where the disk has no piece: starts and ends, ascending. Pieces of one plan never overlap."""
    offsets = np.concatenate([np.empty(0, np.uint64), *(part["offset"] for part in pieces)])
    lengths = np.concatenate([np.empty(0, np.uint64), *(part["length"].astype(np.uint64) for part in pieces)])
    order = np.argsort(offsets, kind="stable")
    starts = np.concatenate([np.zeros(1, np.uint64), (offsets + lengths)[order]])
    ends = np.append(offsets[order], np.uint64(size_bytes))
    room = ends > starts
    return starts[room], ends[room]


def _not_zero(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    for place in range(start, end, _READ_BYTES):
        data = os.pread(fd, min(_READ_BYTES, end - place), place)
        if data != bytes(len(data)):
            yield place, place + len(data)
