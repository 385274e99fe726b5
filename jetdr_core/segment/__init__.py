"""The segment codec: records to immutable chain objects, and back. Pure: no I/O, no clock, no state.

Invariants: an object is header, frames, index and trailer. Every byte is under a checksum, and every number that was
read is checked before it is used.
"""

from jetdr_core.segment.body import SegmentBody, build_body
from jetdr_core.segment.frames import decode_frame
from jetdr_core.segment.index import SegmentIndex, decode_index, encrypted_is_damage
from jetdr_core.segment.layout import (
    CHECKSUM_BYTES,
    ENTRY,
    FRAME,
    HEADER_BYTES,
    NO_FRAME,
    NO_PREDECESSOR,
    OBJECT_BYTES_MAX,
    TRAILER_BYTES,
    Codec,
    EntryTable,
    FrameTable,
    ObjectKind,
)
from jetdr_core.segment.seal import SealedSegment, decode_epoch, seal, seal_epoch
from jetdr_core.segment.trailer import (
    Origin,
    Trailer,
    believed_origin,
    believed_trailer,
    check_header,
    check_tag,
    decode_origin,
    decode_trailer,
    object_checksum,
)

__all__ = [
    "CHECKSUM_BYTES",
    "ENTRY",
    "FRAME",
    "HEADER_BYTES",
    "NO_FRAME",
    "NO_PREDECESSOR",
    "OBJECT_BYTES_MAX",
    "TRAILER_BYTES",
    "Codec",
    "EntryTable",
    "FrameTable",
    "ObjectKind",
    "Origin",
    "SealedSegment",
    "SegmentBody",
    "SegmentIndex",
    "Trailer",
    "believed_origin",
    "believed_trailer",
    "build_body",
    "check_header",
    "check_tag",
    "decode_epoch",
    "decode_frame",
    "decode_index",
    "decode_origin",
    "decode_trailer",
    "encrypted_is_damage",
    "object_checksum",
    "seal",
    "seal_epoch",
]
