"""The index of a segment: frame table, entries and control records, as bytes, and back. Pure.

Invariants: the tables of a decoded index are checked (:mod:`~jetdr_core.segment.tables`). Decoding allocates no more
than the checked numbers of the trailer say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import lz4.block
import xxhash
from typing_extensions import Buffer

from jetdr_core.domain_key import INDEX_PART, ContentKey, DomainKey
from jetdr_core.errors import DamagedObject, Forged, WrongKey
from jetdr_core.record import ControlRecord
from jetdr_core.segment.columns import pack_columns, unpack_columns
from jetdr_core.segment.control_records import decode_control, encode_control
from jetdr_core.segment.frames import CHANGED, unpack_block
from jetdr_core.segment.layout import ENTRY, EntryTable, FrameTable, ObjectKind
from jetdr_core.segment.tables import check_tables
from jetdr_core.segment.trailer import Trailer

_FRAME_ASCENDING = ("offset",)
_ENTRY_ASCENDING = ("lsn", "time_ns")


class SegmentIndex(NamedTuple):
    """What a segment holds, and where. ``control`` is in LSN order and includes VOID records.

    ``content_key`` checks the frames. It is None if the index was read without the domain's key.
    """

    frames: FrameTable
    entries: EntryTable
    control: list[ControlRecord]
    content_key: ContentKey | None = None


def encode_index(frames: FrameTable, entries: EntryTable, control: Sequence[ControlRecord]) -> tuple[bytes, int]:
    """Encode the index. Returns it as stored, and its raw size."""
    raw = pack_columns(frames, _FRAME_ASCENDING) + pack_columns(entries, _ENTRY_ASCENDING) + encode_control(control)
    return lz4.block.compress(raw, store_size=False), len(raw)


def decode_index(stored: Buffer, trailer: Trailer, key: str, domain_key: DomainKey | None = None) -> SegmentIndex:
    """Decode and check the index that ``trailer`` describes. :class:`DamagedObject` names the object ``key``.

    With ``domain_key`` the index must be the one that ``trailer`` has the tag of. The caller has checked the trailer.
    """
    if trailer.kind != ObjectKind.SEGMENT:
        raise DamagedObject(key, "index", "an epoch object has no index")
    raw = memoryview(unpack_index(stored, trailer, key, domain_key))
    frames_end = trailer.frame_count * trailer.frame_type.itemsize
    entries_end = frames_end + trailer.entry_count * ENTRY.itemsize
    frames = unpack_columns(raw[:frames_end], trailer.frame_type, trailer.frame_count, _FRAME_ASCENDING)
    entries = unpack_columns(raw[frames_end:entries_end], ENTRY, trailer.entry_count, _ENTRY_ASCENDING)
    control = decode_control(raw[entries_end:], trailer.control_count, key)
    check_tables(frames, entries, control, trailer, key)
    return SegmentIndex(frames, entries, control, content_key(trailer, domain_key))


@contextmanager
def encrypted_is_damage(key: str) -> Iterator[None]:
    """Raise :class:`DamagedObject` for :class:`WrongKey`: object ``key`` is encrypted, but its domain is not.

    Whoever can write to a store without a key could plant it. No key would help, and everything else can be read.
    """
    try:
        yield
    except WrongKey as error:
        raise DamagedObject(key, "index", "is encrypted, and the domain is not") from error


def content_key(trailer: Trailer, domain_key: DomainKey | None) -> ContentKey | None:
    """The key of the object's content. None without the domain's key, and for an object without tags."""
    return domain_key.content_key(trailer.salt) if domain_key is not None and trailer.is_tagged else None


def unpack_index(stored: Buffer, trailer: Trailer, key: str, domain_key: DomainKey | None = None) -> bytes:
    """The raw bytes of an index, whose checksum is verified, and with ``domain_key`` its tag.

    :class:`WrongKey` if it is encrypted and there is no key.
    """
    view = memoryview(stored)
    if len(view) != trailer.index_stored_bytes or xxhash.xxh3_64_intdigest(view) != trailer.index_checksum:
        raise DamagedObject(key, "index", "checksum is wrong")
    checker = content_key(trailer, domain_key)
    if checker is None and trailer.is_encrypted:
        raise WrongKey(f"{key} is encrypted, and no key was given", hint="give the domain's key")
    if checker is not None:
        revealed = checker.reveal(INDEX_PART, view, trailer.index_tag)
        if revealed is None:
            raise Forged(key, "index", f"has a wrong tag: {CHANGED}")
        view = memoryview(revealed)
    return unpack_block(view, trailer.index_raw_bytes, key, "index")
