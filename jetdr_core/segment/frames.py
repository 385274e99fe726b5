"""Frames: payload, compressed and checksummed piece by piece, and back. Pure. lz4 and xxhash release the GIL.

Invariants: a frame has at most 256 KiB raw. It is stored raw if LZ4 saves less than 3 %. The checksum covers the stored
bytes, so that damage is found before LZ4 reads them. A frame that is one slice of payload is compressed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future

import lz4.block
import numpy as np
import xxhash
from typing_extensions import Buffer

from jetdr_core.domain_key import Bytes, ContentKey
from jetdr_core.errors import DamagedObject, Forged
from jetdr_core.record import RecordBatch
from jetdr_core.segment.layout import FRAME, FRAME_TAGGED, HEADER_BYTES, SAVING_PERCENT_MIN, Codec, FrameTable
from jetdr_core.segment.pieces import Slice

CHANGED = "it was changed by somebody who lacks the domain's key"


def raw_frames(batches: Sequence[RecordBatch], slices: Sequence[Slice]) -> list[memoryview]:
    """The raw bytes of each frame. A frame that is one slice is a view of its batch's payload, any other is a copy."""
    parts: list[list[memoryview]] = []
    for frame, batch, start, end in slices:
        if frame == len(parts):
            parts.append([])
        parts[frame].append(batches[batch].payload[start:end])
    return [views[0] if len(views) == 1 else memoryview(b"".join(views)) for views in parts]


def encode_frames(
    raws: Sequence[memoryview],
    *,
    verify: bool,
    helper: Executor | None = None,
    content_key: ContentKey | None = None,
) -> tuple[FrameTable, list[Buffer]]:
    """The frame table and the bytes to store. The bytes of a frame that is stored raw are the view given.

    With ``content_key`` the table has a tag for each frame.

    ``verify`` decodes each compressed frame again and compares it before this returns. With ``helper`` that happens
    there, while the next frames are being compressed.
    """
    table = np.zeros(len(raws), FRAME if content_key is None else FRAME_TAGGED)
    stored: list[Buffer] = []
    checks: list[Future[None]] = []
    offset = HEADER_BYTES
    for row, raw in enumerate(raws):
        data, codec = _encode(raw)
        if verify and codec is Codec.LZ4:
            if helper is None:
                _check(data, raw)
            else:
                checks.append(helper.submit(_check, data, raw))
        size, tag = len(data), b""
        if content_key is not None:
            data, tag = content_key.protect(row, data)
        columns = (offset, size, len(raw), xxhash.xxh3_64_intdigest(data), codec)
        table[row] = columns if content_key is None else (*columns, tag)
        stored.append(data)
        offset += size
    for check in checks:
        check.result()
    return table, stored


def _encode(raw: memoryview) -> tuple[Bytes, Codec]:
    packed = lz4.block.compress(raw, store_size=False)
    if len(packed) * 100 > len(raw) * (100 - SAVING_PERCENT_MIN):
        return raw, Codec.RAW
    return packed, Codec.LZ4


def _check(packed: Buffer, raw: memoryview) -> None:
    if not _same(lz4.block.decompress(packed, uncompressed_size=len(raw)), raw):
        raise RuntimeError("a frame does not decode to what was encoded; the memory of this machine is unreliable")


def _same(left: bytes, right: memoryview) -> bool:
    # a memoryview compares byte by byte; frames are whole sectors, so they can be compared word by word
    return np.array_equal(np.frombuffer(left, np.uint64), np.frombuffer(right, np.uint64))


def decode_frame(
    stored: Buffer, row: np.void, key: str, *, number: int = 0, content_key: ContentKey | None = None
) -> bytes | memoryview:
    """The raw bytes of a frame. ``row`` is its row in the frame table of a :class:`~jetdr_core.segment.SegmentIndex`.

    With the ``content_key`` of that index, the tag of frame ``number`` is checked too: :class:`Forged` if it is wrong.
    :class:`DamagedObject` names the object ``key`` and the frame's place. The result for a frame that is stored raw is
    ``stored`` itself.
    """
    offset, stored_bytes, raw_bytes, checksum, codec = row.item()[:5]
    view = memoryview(stored)
    if len(view) != stored_bytes or xxhash.xxh3_64_intdigest(view) != checksum:
        raise DamagedObject(key, f"frame at {offset}", "checksum is wrong")
    if content_key is not None:
        revealed = content_key.reveal(number, view, row["tag"].tobytes())
        if revealed is None:
            raise Forged(key, f"frame at {offset}", f"has a wrong tag: {CHANGED}")
        view = memoryview(revealed)
    if codec == Codec.RAW:
        return view
    return unpack_block(view, raw_bytes, key, f"frame at {offset}")


def unpack_block(stored: memoryview, raw_bytes: int, key: str, part: str) -> bytes:
    """Decompress an LZ4 block to exactly ``raw_bytes``. The caller has bounded that number."""
    try:
        raw: bytes = lz4.block.decompress(stored, uncompressed_size=raw_bytes)
    except lz4.block.LZ4BlockError as error:
        raise DamagedObject(key, part, f"not an LZ4 block: {error}") from None
    if len(raw) != raw_bytes:
        raise DamagedObject(key, part, f"{len(raw)} bytes instead of {raw_bytes}")
    return raw
