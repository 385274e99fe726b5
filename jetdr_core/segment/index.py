"""The index of a segment: frame table, entries and control records, as bytes, and back. Pure.

Invariants: the tables of a decoded index are checked (:mod:`~jetdr_core.segment.tables`). Decoding allocates no more
than the checked numbers of the trailer say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import lz4.block
import xxhash
from typing_extensions import Buffer

from jetdr_core.errors import DamagedObject
from jetdr_core.record import ControlRecord
from jetdr_core.segment.columns import pack_columns, unpack_columns
from jetdr_core.segment.control_records import decode_control, encode_control
from jetdr_core.segment.frames import unpack_block
from jetdr_core.segment.layout import ENTRY, FRAME, EntryTable, FrameTable, ObjectKind
from jetdr_core.segment.tables import check_tables
from jetdr_core.segment.trailer import Trailer

_FRAME_ASCENDING = ("offset",)
_ENTRY_ASCENDING = ("lsn", "time_ns")


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
    check_tables(frames, entries, control, trailer, key)
    return SegmentIndex(frames, entries, control)


def unpack_index(stored: Buffer, trailer: Trailer, key: str) -> bytes:
    """The raw bytes of an index, whose checksum is verified."""
    view = memoryview(stored)
    if len(view) != trailer.index_stored_bytes or xxhash.xxh3_64_intdigest(view) != trailer.index_checksum:
        raise DamagedObject(key, "index", "checksum is wrong")
    return unpack_block(view, trailer.index_raw_bytes, key, "index")
