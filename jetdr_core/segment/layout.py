"""The layout of a chain object: sizes, offsets and structured types. docs/formats/segment.md describes it.

Invariants: little-endian, fixed width. Magic, version and the trailer's last checksum keep their places in every
version, so that an older engine can tell "newer" from "damaged".
"""

from __future__ import annotations

import enum
import struct

import numpy as np
import numpy.typing as npt

from jetdr_core.domain_key import TAG_BYTES
from jetdr_core.limits import CONTROL_BYTES_MAX, FRAME_BYTES, SEGMENT_BYTES_MAX, SEGMENT_RECORDS_MAX

VERSION = 1
VERSION_TAGGED = 2
"""The version of an object with tags. An engine that knows no tags must not take it for one that it can check."""

HEADER_MAGIC = b"JDRSEG\0\1"
TRAILER_MAGIC = b"JDRTRL\0\1"
HEADER_BYTES = 64
TRAILER_BYTES = 256
CHECKSUM_BYTES = 16
"""An object's checksum: XXH3-128 of its trailer, big-endian as xxHash prints it."""

NO_PREDECESSOR = bytes(CHECKSUM_BYTES)
NO_FRAME = 0xFFFF_FFFF
"""``frame`` of an entry that is zeros, which are not stored."""

ZERO_RUN_BYTES = 16 << 10
"""A shorter run of zeros inside a record stays in its frame, because an entry takes more than LZ4 leaves of it."""

SAVING_PERCENT_MIN = 3
"""A frame that LZ4 shrinks by less is stored raw, so that reading it costs no more than a checksum."""

HEADER = struct.Struct("<8sHB1x16s28xQ")
TRAILER = struct.Struct("<8sHBB4x16sQI4x16sQQqqQQIII4xQIIQQQ8s16sQ16s16s16xQ")
CHECKSUM_AT = TRAILER_BYTES - 8
TAG_AT = CHECKSUM_AT - 16 - TAG_BYTES
"""Where a trailer of any version has its tag, which covers all else before the checksum."""
TAGGED = 1
ENCRYPTED = 2
"""``flags`` of an object with tags, and of one whose frames and index are encrypted too."""


class ObjectKind(enum.IntEnum):
    """What a chain object is."""

    SEGMENT = 1
    """A range of records."""
    EPOCH = 2
    """A change of owner, without records."""


class Codec(enum.IntEnum):
    """How a frame's bytes are stored."""

    RAW = 0
    LZ4 = 1


FRAME = np.dtype(
    [("offset", "<u8"), ("stored_bytes", "<u4"), ("raw_bytes", "<u4"), ("checksum", "<u8"), ("codec", "u1")]
)
"""One frame: where it lies in the object, and how it is stored."""

FRAME_TAGGED = np.dtype([*FRAME.descr, ("tag", f"V{TAG_BYTES}")])
"""The same in an object with tags."""

ENTRY = np.dtype(
    [
        ("lsn", "<u8"),
        ("time_ns", "<i8"),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("disk", "<u4"),
        ("frame", "<u4"),
        ("frame_offset", "<u4"),
        ("kind", "u1"),
        ("flags", "u1"),
    ]
)
"""One piece of a WRITE or ZERO record: ``length`` bytes at ``offset`` of ``disk``. They lie at ``frame_offset`` of
``frame``.
"""

CONTROL = np.dtype([("lsn", "<u8"), ("time_ns", "<i8"), ("disk", "<u4"), ("body_bytes", "<u4"), ("kind", "u1")])
"""One control record. Its JSON body follows the tables."""

FrameTable = npt.NDArray[np.void]
"""Structured array of dtype :data:`FRAME` or :data:`FRAME_TAGGED`."""
EntryTable = npt.NDArray[np.void]
"""Structured array of dtype :data:`ENTRY`, in LSN order, the pieces of one record in offset order."""

ENTRIES_MAX = 2 * SEGMENT_RECORDS_MAX
INDEX_BYTES_MAX = SEGMENT_BYTES_MAX + (64 << 20)
OBJECT_BYTES_MAX = HEADER_BYTES + SEGMENT_BYTES_MAX + INDEX_BYTES_MAX + INDEX_BYTES_MAX // 255 + 16 + TRAILER_BYTES
"""The longest chain object: frames that are stored raw, and an index that LZ4 cannot compress."""

assert HEADER.size == HEADER_BYTES
assert TRAILER.size == TRAILER_BYTES
assert FRAME.itemsize == 25
assert FRAME_TAGGED.itemsize == 41
assert ENTRY.itemsize == 46
assert CONTROL.itemsize == 25
assert ENTRIES_MAX >= SEGMENT_RECORDS_MAX + SEGMENT_BYTES_MAX // FRAME_BYTES + 2 * (
    SEGMENT_BYTES_MAX // ZERO_RUN_BYTES
), "a full segment's records, cut at every frame and around every zero run, have room in one index"
assert SEGMENT_BYTES_MAX + ENTRIES_MAX * ENTRY.itemsize <= INDEX_BYTES_MAX, "nor do control records alone outgrow it"
assert CONTROL_BYTES_MAX < INDEX_BYTES_MAX
