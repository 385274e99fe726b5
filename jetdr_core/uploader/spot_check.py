"""``spot_check``: reads a part of one chain object, and checks it with the domain's key.

An object that was changed in place keeps its size, and may keep every checksum. Only its tags tell. The trailer and the
index of the object are checked, and one frame, chosen at random: who changes a thousand objects is soon found out, who
changes one when somebody verifies or recovers.
"""

from __future__ import annotations

import asyncio
import random

from jetdr_core.catalog import chain_key
from jetdr_core.catalog.footer import read_trailer
from jetdr_core.domain_key import DomainKey
from jetdr_core.segment import (
    TRAILER_BYTES,
    ObjectKind,
    SegmentIndex,
    Trailer,
    decode_epoch,
    decode_frame,
    decode_index,
)
from jetdr_core.store import ObjectStore

__all__ = ["spot_check"]


async def spot_check(store: ObjectStore, number: int, object_bytes: int, domain_key: DomainKey) -> None:
    """Check object ``number`` with at most three requests. Raises :class:`Forged` or :class:`DamagedObject`."""
    trailer = (await read_trailer(store, number, object_bytes, domain_key)).trailer
    key = chain_key(number)
    footer = await store.get_range(key, trailer.index_offset, trailer.footer_bytes)
    index = await asyncio.to_thread(_index, footer[:-TRAILER_BYTES], trailer, key, domain_key)
    if index is not None and len(index.frames):
        frame = random.randrange(len(index.frames))
        row = index.frames[frame]
        stored = await store.get_range(key, int(row["offset"]), int(row["stored_bytes"]))
        decode_frame(stored, row, key, number=frame, content_key=index.content_key)


def _index(stored: bytes, trailer: Trailer, key: str, domain_key: DomainKey) -> SegmentIndex | None:
    """The index, checked. None for an epoch object, whose owner is checked instead."""
    if trailer.kind == ObjectKind.EPOCH:
        decode_epoch(stored, trailer, key, domain_key)
        return None
    return decode_index(stored, trailer, key, domain_key)
