"""The index of a segment: frame table, entries and control records, as bytes, and back. Pure.

Invariants of a decoded index:

- The frames fill their part of the object.
- Every entry is whole sectors inside a disk. Unless it is zeros, it lies inside its frame.
- Every LSN of the trailer's range occurs, as one control record or as the consecutive pieces of one record.
- Times never decrease along LSN.

Decoding allocates no more than the checked numbers of the trailer say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import lz4.block
import numpy as np
import numpy.typing as npt
import xxhash
from typing_extensions import Buffer

from jetdr_core.errors import DamagedObject
from jetdr_core.limits import DISK_BYTES_MAX, SECTOR_BYTES
from jetdr_core.record import ControlRecord, Kind
from jetdr_core.segment.columns import pack_columns, unpack_columns
from jetdr_core.segment.control_records import decode_control, encode_control
from jetdr_core.segment.frames import check_frames, unpack_block
from jetdr_core.segment.layout import ENTRY, FRAME, NO_FRAME, EntryTable, FrameTable, ObjectKind
from jetdr_core.segment.trailer import Trailer

_FRAME_ASCENDING = ("offset",)
_ENTRY_ASCENDING = ("lsn", "time_ns")
_Mask = npt.NDArray[np.bool_]


class SegmentIndex(NamedTuple):
    """What a segment holds, and where. ``control`` is in LSN order and includes VOID records."""

    frames: FrameTable
    entries: EntryTable
    control: list[ControlRecord]


def encode_index(frames: FrameTable, entries: EntryTable, control: Sequence[ControlRecord]) -> tuple[bytes, int]:
    """Encode the index. Returns it as stored, and its raw size."""
    raw = pack_columns(frames, _FRAME_ASCENDING) + pack_columns(entries, _ENTRY_ASCENDING) + encode_control(control)
    return lz4.block.compress(raw, store_size=False), len(raw)


def decode_index(stored: Buffer, trailer: Trailer, key: str) -> SegmentIndex:
    """Decode and check the index that ``trailer`` describes. :class:`DamagedObject` names the object ``key``."""
    if trailer.kind != ObjectKind.SEGMENT:
        raise DamagedObject(key, "index", "an epoch object has no index")
    raw = memoryview(unpack_index(stored, trailer, key))
    frames_end = trailer.frame_count * FRAME.itemsize
    entries_end = frames_end + trailer.entry_count * ENTRY.itemsize
    frames = unpack_columns(raw[:frames_end], FRAME, trailer.frame_count, _FRAME_ASCENDING)
    entries = unpack_columns(raw[frames_end:entries_end], ENTRY, trailer.entry_count, _ENTRY_ASCENDING)
    control = decode_control(raw[entries_end:], trailer.control_count, key)
    check_frames(frames, trailer.stored_bytes, key)
    problem = _places_problem(entries, frames) or _pieces_problem(entries) or _range_problem(entries, control, trailer)
    if problem:
        raise DamagedObject(key, "entries", problem)
    return SegmentIndex(frames, entries, control)


def unpack_index(stored: Buffer, trailer: Trailer, key: str) -> bytes:
    """The raw bytes of an index, whose checksum is verified."""
    view = memoryview(stored)
    if len(view) != trailer.index_stored_bytes or xxhash.xxh3_64_intdigest(view) != trailer.index_checksum:
        raise DamagedObject(key, "index", "checksum is wrong")
    return unpack_block(view, trailer.index_raw_bytes, key, "index")


def _places_problem(entries: EntryTable, frames: FrameTable) -> str:
    offset, length = entries["offset"], entries["length"]
    if (length == 0).any() or ((offset | length) % SECTOR_BYTES != 0).any():
        return "an extent is empty or not whole sectors"
    if (length > DISK_BYTES_MAX).any() or (offset > DISK_BYTES_MAX - length).any():
        return "an extent lies beyond the largest disk"
    zero = entries["frame"] == NO_FRAME
    if (zero != (entries["kind"] == Kind.ZERO)).any() or (~zero & (entries["kind"] != Kind.WRITE)).any():
        return "kind and frame contradict each other"
    stored = entries[~zero]
    if (stored["frame"] >= len(frames)).any():
        return f"a frame beyond the {len(frames)} there are"
    room = frames["raw_bytes"][stored["frame"]].astype(np.uint64)
    if (stored["length"] > room).any() or (stored["frame_offset"] > room - stored["length"]).any():
        return "a piece reaches beyond its frame"
    return ""


def _pieces_problem(entries: EntryTable) -> str:
    """The pieces of one LSN are one record: the same disk, time and flags, and consecutive offsets."""
    before, after = entries[:-1], entries[1:]
    if (after["lsn"] < before["lsn"]).any():
        return "LSNs decrease"
    same = after["lsn"] == before["lsn"]
    if not same.any():
        return ""
    before, after = before[same], after[same]
    alike = [(after[name] == before[name]).all() for name in ("disk", "time_ns", "flags")]
    if not all(alike) or (after["offset"] != before["offset"] + before["length"]).any():
        return "pieces of one record do not fit together"
    return ""


def _range_problem(entries: EntryTable, control: Sequence[ControlRecord], trailer: Trailer) -> str:
    """Every LSN of the trailer's range occurs once. Times never decrease, and begin and end as the trailer says."""
    first_piece = np.append(True, np.diff(entries["lsn"]) != 0)[: len(entries)]
    lsn, time_ns = entries["lsn"][first_piece], entries["time_ns"][first_piece]
    if control:
        lsn = np.concatenate([lsn, np.array([record.lsn for record in control], np.uint64)])
        order = np.argsort(lsn, kind="stable")
        lsn = lsn[order]
        time_ns = np.concatenate([time_ns, np.array([record.time_ns for record in control], np.int64)])[order]
    records = trailer.last_lsn - trailer.first_lsn + 1
    if len(lsn) != records or int(lsn[0]) != trailer.first_lsn or (np.diff(lsn) != 1).any():
        return f"records are not LSN {trailer.first_lsn} to {trailer.last_lsn}, each once"
    if (np.diff(time_ns) < 0).any() or (int(time_ns[0]), int(time_ns[-1])) != (
        trailer.first_time_ns,
        trailer.last_time_ns,
    ):
        return "times decrease, or are not the trailer's"
    return ""
