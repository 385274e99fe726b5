"""SegmentBody: the frames and the index of a segment, which is everything but its place in the chain.

Encoding takes the time, and the place is known late: only when the object before it is sealed. So bodies are built
ahead, in several threads, and sealed in order.

Invariants: pure. Compression and checksums release the GIL. A body is complete and verified before anyone can see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import xxhash
from typing_extensions import Buffer

from jetdr_core.domain_key import INDEX_PART, TAG_BYTES, Bytes, ContentKey
from jetdr_core.limits import SEGMENT_BYTES_MAX, SEGMENT_RECORDS_MAX
from jetdr_core.record import ControlRecord, Kind, RecordBatch, control_records
from jetdr_core.segment.frames import encode_frames, raw_frames
from jetdr_core.segment.index import encode_index
from jetdr_core.segment.pieces import Captured, captured, cut


@dataclass(frozen=True, slots=True)
class SegmentBody:
    """The contents of one chain object, ready to be sealed.

    ``frames`` may be views of the batches' payload, which must not change until the object is stored. ``content_key``
    is what frames and index were tagged with. None: they have no tags.
    """

    frames: list[Buffer]
    index: Bytes
    index_checksum: int
    index_raw_bytes: int
    first_lsn: int
    last_lsn: int
    first_time_ns: int
    last_time_ns: int
    payload_bytes: int
    stored_bytes: int
    entry_count: int
    control: list[ControlRecord]
    content_key: ContentKey | None = None
    index_tag: bytes = bytes(TAG_BYTES)


def build_body(
    batches: Sequence[RecordBatch],
    *,
    verify: bool = True,
    helper: Executor | None = None,
    content_key: ContentKey | None = None,
) -> SegmentBody:
    """Encode consecutive ``batches``: at least one record, dense LSNs, and no more than fits into one segment.

    With ``content_key``, which must be new, frames and index get tags, and are encrypted if it says so.

    ``verify`` decodes every compressed frame again and compares. That takes about a fifth more processor time if the
    data compresses. It is done in ``helper`` if there is one, which must not be the executor that this runs in.
    Thread-safe.
    """
    records = captured(batches)
    _check_size(records)
    pieces = cut(records)
    raws = raw_frames(batches, pieces.slices)
    frames, stored = encode_frames(raws, verify=verify, helper=helper, content_key=content_key)
    control = [record for batch in batches for record in control_records(batch)]
    raw_index, index_raw_bytes = encode_index(frames, pieces.entries, control)
    index, index_tag = protect_index(raw_index, content_key)
    headers = records.headers
    return SegmentBody(
        frames=stored,
        index=index,
        index_checksum=xxhash.xxh3_64_intdigest(index),
        index_raw_bytes=index_raw_bytes,
        first_lsn=int(headers["lsn"][0]),
        last_lsn=int(headers["lsn"][-1]),
        first_time_ns=int(headers["time_ns"][0]),
        last_time_ns=int(headers["time_ns"][-1]),
        payload_bytes=int(headers["length"][headers["kind"] == Kind.WRITE].sum()),
        stored_bytes=int(frames["stored_bytes"].sum(dtype=np.uint64)),
        entry_count=len(pieces.entries),
        control=control,
        content_key=content_key,
        index_tag=index_tag,
    )


def protect_index(index: bytes, content_key: ContentKey | None) -> tuple[Bytes, bytes]:
    """An encoded index as it is to be stored, and its tag, which is zeros without a key."""
    return (index, bytes(TAG_BYTES)) if content_key is None else content_key.protect(INDEX_PART, index)


def _check_size(records: Captured) -> None:
    count, payload_bytes = len(records.headers), int(records.batch_position[-1])
    if count > SEGMENT_RECORDS_MAX or payload_bytes > SEGMENT_BYTES_MAX:
        raise ValueError(f"{count} records with {payload_bytes} bytes of payload are too much for one segment")
