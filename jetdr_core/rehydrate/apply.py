"""FrameWriter: verifies the frames of fetched ranges, decompresses them, and writes their live pieces to the targets.

Invariants: a frame is verified before a byte of it is written. A piece is written once, by the one range that holds it.
A :class:`FrameWriter` has no state that changes, so any number of worker threads may share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from typing_extensions import Buffer

from jetdr_core._kernels import scatter_write
from jetdr_core.errors import DamagedObject, Forged
from jetdr_core.extent import DamagedExtent, Pieces, damaged_extents, describe_extents
from jetdr_core.rehydrate.journal import Applied
from jetdr_core.rehydrate.plan import FrameRange, bytes_by_disk
from jetdr_core.rehydrate.recovery_disk import RecoveryDisk
from jetdr_core.remedies import KEEP_GOING
from jetdr_core.segment import decode_frame

__all__ = ["Fetched", "FrameWriter", "Outcome", "damage_of", "raise_damage"]


class Fetched(NamedTuple):
    """A range and its bytes."""

    wanted: FrameRange
    data: Buffer


@dataclass(slots=True)
class Outcome:
    """What became of some ranges: their damaged extents, and by disk row what was written.

    ``bytes_live`` counts the pieces, the damaged ones included, and ``bytes_fetched`` what was fetched for them.
    ``kind`` is the error that tells the damage: :class:`Forged` if any frame was.
    """

    damage: list[DamagedExtent] = field(default_factory=list)
    applied: dict[int, list[Applied]] = field(default_factory=dict)
    bytes_live: dict[int, int] = field(default_factory=dict)
    bytes_fetched: dict[int, int] = field(default_factory=dict)
    kind: type[DamagedObject] = DamagedObject

    def count(self, wanted: FrameRange, pieces: Pieces) -> None:
        """Count a range, whose pieces are ``pieces``."""
        live_bytes = bytes_by_disk(pieces)
        for row, row_bytes in live_bytes.items():
            fetched_bytes = wanted.length * row_bytes // sum(live_bytes.values())
            self.bytes_live[row] = self.bytes_live.get(row, 0) + row_bytes
            self.bytes_fetched[row] = self.bytes_fetched.get(row, 0) + fetched_bytes


class FrameWriter:
    """Writes to ``disks``, whose rows are those of the plan."""

    def __init__(self, disks: Sequence[RecoveryDisk]) -> None:
        self._disks = disks

    def apply(self, batch: Sequence[Fetched]) -> Outcome:
        """Write what is good. What is damaged is not written. An error of the target names its file."""
        outcome = Outcome()
        for wanted, data in batch:
            pieces = wanted.pieces
            outcome.count(wanted, pieces)
            self._apply(wanted, pieces, data, outcome)
        return outcome

    def _apply(self, wanted: FrameRange, pieces: Pieces, data: Buffer, outcome: Outcome) -> None:
        segment = wanted.segment
        starts = np.searchsorted(pieces["frame"], np.arange(wanted.first, wanted.end + 1)).tolist()
        with memoryview(data) as view:
            for place, row in enumerate(range(wanted.first, wanted.end)):
                live, frame = pieces[starts[place] : starts[place + 1]], segment.frames[row]
                start = int(frame["offset"]) - wanted.offset
                stored = view[start : start + int(frame["stored_bytes"])]
                number = int(segment.frame_numbers[row])
                try:
                    raw = decode_frame(stored, frame, segment.place.key, number=number, content_key=segment.content_key)
                except DamagedObject as error:
                    outcome.damage.extend(damage_of(live, self._disks, segment.place.key, str(error)))
                    if isinstance(error, Forged):
                        outcome.kind = Forged
                else:
                    self._write(raw, live, Applied(segment.place.number, number, number, 0), outcome)

    def _write(self, raw: Buffer, pieces: Pieces, frame: Applied, outcome: Outcome) -> None:
        """Write the pieces of ``frame``. The last row of a disk is extended if it ends with the frame before."""
        first, last = int(pieces["disk"][0]), int(pieces["disk"][-1])
        for row in [first] if first == last else np.unique(pieces["disk"]).tolist():
            part = pieces if first == last else pieces[pieces["disk"] == row]
            rows, target = outcome.applied.setdefault(row, []), self._disks[row].target
            follows = bool(rows) and (rows[-1].segment, rows[-1].frame_last) == (frame.segment, frame.frame_last - 1)
            before = rows.pop() if follows else frame
            with target.writing():
                digest = scatter_write(target.fd, raw, part, before.digest)
            rows.append(before._replace(frame_last=frame.frame_last, digest=digest))


def damage_of(pieces: Pieces, disks: Sequence[RecoveryDisk], key: str, problem: str) -> list[DamagedExtent]:
    """``pieces`` as damaged extents, disk by disk."""
    damage: list[DamagedExtent] = []
    for disk in np.unique(pieces["disk"]).tolist():
        rows = pieces[pieces["disk"] == disk]
        damage += damaged_extents(disks[disk].name, rows[["offset", "length", "lsn"]].tolist(), key, problem)
    return damage


def raise_damage(damage: Sequence[DamagedExtent], kind: type[DamagedObject] = DamagedObject) -> None:
    """Raise ``kind`` about ``damage``, if there is any."""
    if damage:
        raise kind(
            damage[0].key,
            describe_extents(damage),
            damage[0].problem.removeprefix(f"{damage[0].key}: "),
            hint=f"recover another point, or {KEEP_GOING}",
        )
