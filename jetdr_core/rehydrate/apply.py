"""FrameWriter: verifies the frames of a fetched range, decompresses them, and writes their live pieces to the targets.

Invariants: a frame is verified before a byte of it is written. A piece is written once, by the one range that holds it.
A :class:`FrameWriter` has no state that changes, so any number of worker threads may share it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import Buffer

from jetdr_core._kernels import scatter_write
from jetdr_core.errors import DamagedObject
from jetdr_core.extent import DamagedExtent, Pieces, damaged_extents, describe_extents
from jetdr_core.rehydrate.plan import FrameRange
from jetdr_core.rehydrate.recovery_disk import RecoveryDisk
from jetdr_core.segment import decode_frame

__all__ = ["FrameWriter", "damage_of", "raise_damage"]


class FrameWriter:
    """Writes to ``disks``, whose rows are those of the plan."""

    def __init__(self, disks: Sequence[RecoveryDisk]) -> None:
        self._disks = disks

    def apply(self, fetched: FrameRange, data: Buffer) -> list[DamagedExtent]:
        """Write what is good, and return what is damaged, which is not written. OSError if a target fails."""
        damage: list[DamagedExtent] = []
        pieces = fetched.pieces
        starts = np.searchsorted(pieces["frame"], np.arange(fetched.first, fetched.end + 1)).tolist()
        with memoryview(data) as view:
            for place, row in enumerate(range(fetched.first, fetched.end)):
                live = pieces[starts[place] : starts[place + 1]]
                try:
                    self._apply_frame(fetched, row, view, live)
                except DamagedObject as error:
                    damage += damage_of(live, self._disks, fetched.segment.place.key, str(error))
        return damage

    def _apply_frame(self, fetched: FrameRange, row: int, data: memoryview, pieces: Pieces) -> None:
        frame = fetched.segment.frames[row]
        start = int(frame["offset"]) - fetched.offset
        raw = decode_frame(data[start : start + int(frame["stored_bytes"])], frame, fetched.segment.place.key)
        first, last = int(pieces["disk"][0]), int(pieces["disk"][-1])
        if first == last:
            self._write(first, raw, pieces)
            return
        for disk in np.unique(pieces["disk"]).tolist():
            self._write(disk, raw, pieces[pieces["disk"] == disk])

    def _write(self, disk: int, raw: Buffer, pieces: Pieces) -> None:
        target = self._disks[disk].target
        try:
            scatter_write(target.fd, raw, pieces)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target.files.partial)) from error


def damage_of(pieces: Pieces, disks: Sequence[RecoveryDisk], key: str, problem: str) -> list[DamagedExtent]:
    """``pieces`` as damaged extents, disk by disk."""
    damage: list[DamagedExtent] = []
    for disk in np.unique(pieces["disk"]).tolist():
        rows = pieces[pieces["disk"] == disk]
        damage += damaged_extents(disks[disk].name, rows[["offset", "length", "lsn"]].tolist(), key, problem)
    return damage


def raise_damage(damage: Sequence[DamagedExtent]) -> None:
    """Raise :class:`DamagedObject` about ``damage``, if there is any."""
    if damage:
        raise DamagedObject(
            damage[0].key,
            describe_extents(damage),
            damage[0].problem.removeprefix(f"{damage[0].key}: "),
            hint="recover another point, or keep going without what is damaged",
        )
