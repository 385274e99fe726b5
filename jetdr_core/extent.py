"""The live piece of a plan, and the extent that is damaged.

A piece says which bytes of which frame belong to which place of a disk. ``native/kernels/scatter.h`` has the same row.

Invariant: a piece takes 32 bytes, so that a plan with millions of pieces stays small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["PIECE", "DamagedExtent", "Pieces", "damaged_extents", "describe_extents"]

PIECE = np.dtype(
    [
        ("offset", "<u8"),  # in the disk
        ("lsn", "<u8"),
        ("length", "<u4"),
        ("frame_offset", "<u4"),
        ("frame", "<u4"),  # row in the segment plan's table of frames
        ("disk", "<u4"),  # row in the plan's table of disks
    ]
)
assert PIECE.itemsize == 32

Pieces = npt.NDArray[np.void]
"""Structured array of dtype :data:`PIECE`."""

_EXTENTS_NAMED_MAX = 4


@dataclass(frozen=True, slots=True)
class DamagedExtent:
    """``length`` bytes at ``offset`` of ``disk``, written by LSNs first to last. Their only copy is in ``key``."""

    disk: str
    offset: int
    length: int
    lsn_first: int
    lsn_last: int
    key: str
    problem: str

    def __str__(self) -> str:
        several = f" to {self.lsn_last}" if self.lsn_last != self.lsn_first else ""
        return f"disk {self.disk!r} [{self.offset}, {self.offset + self.length}) of LSN {self.lsn_first}{several}"


def damaged_extents(disk: str, rows: Iterable[tuple[int, int, int]], key: str, problem: str) -> list[DamagedExtent]:
    """``rows`` of (offset, length, LSN), in any order, as extents of ``disk``. Neighbours are merged."""
    merged: list[list[int]] = []
    for offset, length, lsn in sorted(rows):
        if merged and offset <= merged[-1][1]:
            last = merged[-1]
            merged[-1] = [last[0], max(last[1], offset + length), min(last[2], lsn), max(last[3], lsn)]
        else:
            merged.append([offset, offset + length, lsn, lsn])
    return [DamagedExtent(disk, start, end - start, low, high, key, problem) for start, end, low, high in merged]


def describe_extents(extents: Sequence[DamagedExtent]) -> str:
    """One line that names the first few extents and counts the others."""
    named = ", ".join(map(str, extents[:_EXTENTS_NAMED_MAX]))
    more = len(extents) - _EXTENTS_NAMED_MAX
    return f"{named} and {more} more" if more > 0 else named
