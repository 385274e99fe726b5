"""Checks every byte of one object: header, trailer, index, and of each frame the checksum and the decompression. Pure.

With the domain's key the tags of everything are checked too.

Invariant: any bytes give a :class:`Checked`, never an error. Of an object that is longer than any of its kind, not even
the bytes are wanted.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field

from jetdr_core.catalog import chain_number, decode_heartbeat, decode_summary
from jetdr_core.catalog.heartbeat import HEARTBEAT_BYTES
from jetdr_core.catalog.keys import summary_group
from jetdr_core.catalog.summary import SUMMARY_BYTES_MAX
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import DamagedObject, UnsupportedVersion
from jetdr_core.segment import (
    OBJECT_BYTES_MAX,
    TRAILER_BYTES,
    ObjectKind,
    SegmentIndex,
    Trailer,
    believed_trailer,
    check_header,
    decode_epoch,
    decode_frame,
    decode_index,
    decode_trailer,
    encrypted_is_damage,
    object_checksum,
)

__all__ = ["Checked", "check_chain_object", "check_object", "object_bytes_max"]

_HEARTBEAT = re.compile(r"heartbeat/\d{10}")


@dataclass(slots=True)
class Checked:
    """What an object turned out to be. ``problems`` are (part, problem), ``frames_damaged`` problems by frame number.

    ``index`` is None for an epoch object, and if it cannot be read. A stranger has a key that no domain uses.
    """

    key: str
    bytes_read: int
    checksum: bytes = b""
    trailer: Trailer | None = None
    index: SegmentIndex | None = None
    is_stranger: bool = False
    frames_damaged: dict[int, str] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.problems and not self.frames_damaged


def object_bytes_max(key: str) -> int:
    """The size of the longest object that can have that key. 0 for a stranger."""
    if chain_number(key) is not None:
        return OBJECT_BYTES_MAX
    if summary_group(key) is not None:
        return SUMMARY_BYTES_MAX
    return HEARTBEAT_BYTES if _HEARTBEAT.fullmatch(key) else 0


def check_object(data: bytes, key: str, domain_key: DomainKey | None = None) -> Checked:
    """Check the bytes of any object of a domain's container."""
    if chain_number(key) is not None:
        return _checked(data, key, domain_key, encrypted_is_damage(key))
    checked = Checked(key, len(data))
    try:
        if (group := summary_group(key)) is not None:
            decode_summary(data, group, domain_key=domain_key)
        elif _HEARTBEAT.fullmatch(key):
            decode_heartbeat(data, key, domain_key)
        else:
            checked.is_stranger = True
    except (DamagedObject, UnsupportedVersion) as error:
        _note(checked, error)
    return checked


def check_chain_object(data: bytes, key: str, domain_key: DomainKey | None = None) -> Checked:
    """Check the bytes of a segment or an epoch object.

    ``key`` may be any name for them. With ``domain_key`` an object whose ``key`` is that of a chain object must have
    been made for that number. :class:`WrongKey` if it is encrypted and there is no key.
    """
    return _checked(data, key, domain_key, nullcontext())


def _checked(data: bytes, key: str, domain_key: DomainKey | None, encryption: AbstractContextManager[None]) -> Checked:
    checked = Checked(key, len(data))
    try:
        with encryption:
            _check_chain_object(memoryview(data), checked, domain_key)
    except (DamagedObject, UnsupportedVersion) as error:
        _note(checked, error)
    return checked


def _check_chain_object(data: memoryview, checked: Checked, domain_key: DomainKey | None) -> None:
    number = chain_number(checked.key)
    with suppress(UnsupportedVersion):
        checked.trailer = decode_trailer(data, checked.key)
        checked.checksum = object_checksum(data[-TRAILER_BYTES:])
    trailer = believed_trailer(data, number, domain_key, checked.key)
    if trailer.object_bytes != len(data):
        raise DamagedObject(checked.key, "trailer", f"says {trailer.object_bytes} bytes, the object has {len(data)}")
    try:
        check_header(data, trailer, checked.key)
    except DamagedObject as error:
        _note(checked, error)
    index = data[trailer.index_offset : trailer.index_end]
    if trailer.kind == ObjectKind.EPOCH:
        decode_epoch(index, trailer, checked.key, domain_key)
        return
    checked.index = decode_index(index, trailer, checked.key, domain_key)
    for frame, row in enumerate(checked.index.frames):
        start = int(row["offset"])
        stored = data[start : start + int(row["stored_bytes"])]
        try:
            decode_frame(stored, row, checked.key, number=frame, content_key=checked.index.content_key)
        except DamagedObject as error:
            checked.frames_damaged[frame] = str(error).removeprefix(f"{checked.key}: ")


def _note(checked: Checked, error: DamagedObject | UnsupportedVersion) -> None:
    part = error.part if isinstance(error, DamagedObject) else "format"
    checked.problems.append((part, str(error).removeprefix(f"{checked.key}: {part}: ")))
