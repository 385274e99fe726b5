"""What somebody can do who may write to the store, but lacks the domain's key: change bytes and recompute checksums."""

from __future__ import annotations

from typing import Any

import lz4.block
import xxhash

from jetdr_core.segment import FRAME, TRAILER_BYTES, Trailer, decode_trailer
from jetdr_core.segment.columns import pack_columns, unpack_columns
from jetdr_core.segment.layout import CHECKSUM_AT, FRAME_TAGGED, HEADER_BYTES


def trailer_of(data: bytes) -> Trailer:
    return decode_trailer(data[-TRAILER_BYTES:], "forge")


def with_checksums(data: bytes, *, frames: bool = True) -> bytes:
    """``data`` with every checksum as it must be after a change: those of the header, frames, index and trailer.

    ``frames=False``: the index is not readable any more, or was changed itself.
    """
    said = trailer_of(data)
    header, body = bytearray(data[:HEADER_BYTES]), data[HEADER_BYTES : said.index_offset]
    header[-8:] = xxhash.xxh3_64_intdigest(header[:-8]).to_bytes(8, "little")
    index, raw_bytes = data[said.index_offset : said.index_end], said.index_raw_bytes
    if frames and said.frame_count and not said.is_encrypted:
        index, raw_bytes = _with_frame_checksums(data, index, said)
    return (
        bytes(header)
        + body
        + index
        + with_trailer_checksum(
            data[-TRAILER_BYTES:],
            index_stored_bytes=len(index),
            index_raw_bytes=raw_bytes,
            index_checksum=xxhash.xxh3_64_intdigest(index),
            object_bytes=said.index_offset + len(index) + TRAILER_BYTES,
            header_checksum=int.from_bytes(header[-8:], "little"),
        )
    )


def with_trailer_checksum(raw: bytes, **fields: int) -> bytes:
    """The trailer ``raw`` with other values at the places of ``fields``, and with its own checksum."""
    at = {
        "index_stored_bytes": (136, 4),
        "index_raw_bytes": (140, 4),
        "index_checksum": (144, 8),
        "object_bytes": (152, 8),
        "header_checksum": (160, 8),
    }
    trailer = bytearray(raw)
    for name, value in fields.items():
        place, size = at[name]
        trailer[place : place + size] = value.to_bytes(size, "little")
    trailer[CHECKSUM_AT:] = xxhash.xxh3_64_intdigest(trailer[:CHECKSUM_AT]).to_bytes(8, "little")
    return bytes(trailer)


def changed(data: bytes, place: int, change: int = 0xFF) -> bytes:
    """``data`` with one byte changed and every checksum right, as far as the object can still be understood."""
    flipped = bytearray(data)
    flipped[place] ^= change
    said = trailer_of(data)
    if place >= len(data) - TRAILER_BYTES:
        return bytes(flipped[:-TRAILER_BYTES]) + with_trailer_checksum(bytes(flipped[-TRAILER_BYTES:]))
    return with_checksums(bytes(flipped), frames=place < said.index_offset)


def _with_frame_checksums(data: bytes, index: bytes, said: Trailer) -> tuple[bytes, int]:
    raw = lz4.block.decompress(index, uncompressed_size=said.index_raw_bytes)
    kind: Any = FRAME_TAGGED if said.is_tagged else FRAME
    end = said.frame_count * kind.itemsize
    table = unpack_columns(raw[:end], kind, said.frame_count, ("offset",))
    for row in table:
        start = int(row["offset"])
        row["checksum"] = xxhash.xxh3_64_intdigest(data[start : start + int(row["stored_bytes"])])
    raw = pack_columns(table, ("offset",)) + raw[end:]
    return lz4.block.compress(raw, store_size=False), len(raw)
