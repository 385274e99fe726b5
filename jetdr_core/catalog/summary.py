"""Summaries: one object that stands for the footers of a complete group. Pure: the codec, and the check against the
chain. docs/formats/chain.md has the layout.

Invariants: a summary is a cache, which may be stale or missing. It is used only if

- it continues what was read before it (predecessor, LSN, epoch, time),
- it lists exactly the objects and sizes that the store lists, and
- its last row agrees with the trailer of that object.

Otherwise the footers are read. Every number is checked before it is used. In a domain with a key a summary has a tag,
and one without a right tag is not used.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import lz4.block
import numpy as np
import xxhash
from typing_extensions import Buffer

from jetdr_core.catalog.follow import Head
from jetdr_core.catalog.footer import Footer
from jetdr_core.catalog.keys import group_numbers, summary_key
from jetdr_core.catalog.links import LINK, ORPHAN, LinkTable, chained, link
from jetdr_core.domain_key import SALT_BYTES, SUMMARY_PART, TAG_BYTES, DomainKey, TagPurpose
from jetdr_core.errors import DamagedObject, Forged, UnsupportedVersion
from jetdr_core.limits import CHAIN_GROUP, CONTROL_BYTES_MAX
from jetdr_core.record import ControlRecord
from jetdr_core.segment import CHECKSUM_BYTES, ObjectKind
from jetdr_core.segment.columns import pack_columns, unpack_columns
from jetdr_core.segment.control_records import decode_control, encode_control
from jetdr_core.segment.frames import unpack_block

_MAGIC = b"JDRSUM\0\1"
_VERSION = 1
_VERSION_TAGGED = 2
_VERSION_ENCRYPTED = 3
_HEADER = struct.Struct("<8sH2xI16s16sIIIIQQ")
_SIGNED_BYTES = _HEADER.size - 8
_ASCENDING = ("number", "first_lsn", "last_lsn", "first_time_ns", "last_time_ns", "epoch")
_RAW_BYTES_MAX = 256 * CONTROL_BYTES_MAX
_LZ4_RATIO_MAX = 255

SUMMARY_BYTES_MAX = _HEADER.size + _RAW_BYTES_MAX + _RAW_BYTES_MAX // 255 + 16 + SALT_BYTES + 2 * TAG_BYTES
"""The longest summary: one that LZ4 cannot compress. A group with more to say has none."""


class Summary(NamedTuple):
    """A complete group that follows ``predecessor``: a row for each of its objects, and their control records."""

    group: int
    domain_uuid: UUID
    predecessor: bytes
    links: LinkTable
    control: Sequence[ControlRecord]

    def head(self, before: Head) -> Head:
        """The chain's head after this group."""
        last = chained(self.links)[-1]
        records = self.links[self.links["kind"] == ObjectKind.SEGMENT]
        time_ns = int(records["last_time_ns"][-1]) if len(records) else before.time_ns_last
        checksum = last["checksum"].tobytes()
        return Head(checksum, int(last["epoch"]), int(last["timeline"]), int(last["last_lsn"]), time_ns)


def encode_summary(summary: Summary, domain_key: DomainKey | None = None) -> bytes | None:
    """The bytes of a summary, or None if the group has none: nothing chains, or there are too many control records."""
    raw = pack_columns(summary.links, _ASCENDING) + encode_control(summary.control)
    if len(raw) > _RAW_BYTES_MAX or not len(chained(summary.links)):
        return None
    body: bytes = lz4.block.compress(raw, store_size=False)
    if domain_key is not None and domain_key.encrypts:
        body = _encrypted(body, domain_key)
    header = _HEADER.pack(
        _MAGIC,
        _version(domain_key),
        summary.group,
        summary.domain_uuid.bytes,
        summary.predecessor,
        len(summary.links),
        len(summary.control),
        len(raw),
        len(body),
        xxhash.xxh3_64_intdigest(body),
        0,
    )[:_SIGNED_BYTES]
    data = header + xxhash.xxh3_64_intdigest(header).to_bytes(8, "little") + body
    return data if domain_key is None else data + domain_key.tag(TagPurpose.SUMMARY, data)


def _version(domain_key: DomainKey | None) -> int:
    if domain_key is None:
        return _VERSION
    return _VERSION_ENCRYPTED if domain_key.encrypts else _VERSION_TAGGED


def _encrypted(body: bytes, domain_key: DomainKey) -> bytes:
    """Salt, encrypted body and its tag. A summary may be written anew, so each has a key of its own."""
    content_key = domain_key.new_content_key()
    stored, tag = content_key.protect(SUMMARY_PART, body)
    return b"".join((content_key.salt, stored, tag))


def _decrypted(body: memoryview, domain_key: DomainKey | None, key: str) -> memoryview:
    if domain_key is None or not domain_key.encrypts:
        raise DamagedObject(key, "body", "is encrypted, and no key to that was given")
    content_key = domain_key.content_key(bytes(body[:SALT_BYTES]))
    plain = content_key.reveal(SUMMARY_PART, body[SALT_BYTES:-TAG_BYTES], bytes(body[-TAG_BYTES:]))
    if plain is None:
        raise Forged(key, "body", "has no right tag")
    return memoryview(plain)


def decode_summary(
    data: Buffer, group: int, *, with_control: bool = True, domain_key: DomainKey | None = None
) -> Summary:
    """Decode and check the summary of ``group``. :class:`DamagedObject` or :class:`UnsupportedVersion` names it.

    Without ``with_control`` the control records, which take most of the memory, are neither decoded nor checked. With
    ``domain_key``, :class:`Forged` is raised unless an owner of the domain made it.
    """
    key, view = summary_key(group), memoryview(data)
    if len(view) < _HEADER.size:
        raise DamagedObject(key, "header", f"{len(view)} bytes are not a summary")
    magic, version, number, uuid, predecessor, rows, controls, raw_bytes, body_bytes, body_checksum, checksum = (
        _HEADER.unpack(view[: _HEADER.size])
    )
    if magic != _MAGIC or xxhash.xxh3_64_intdigest(view[:_SIGNED_BYTES]) != checksum:
        raise DamagedObject(key, "header", "magic or checksum is wrong")
    if version > _VERSION_ENCRYPTED:
        raise UnsupportedVersion(f"{key}: summary of format {version}", hint="use a newer engine", key=key)
    end = len(view) if version == _VERSION else max(_HEADER.size, len(view) - TAG_BYTES)
    if domain_key is not None and not domain_key.is_tag(bytes(view[end:]), TagPurpose.SUMMARY, view[:end]):
        raise Forged(key, "summary", "has no right tag")
    body = view[_HEADER.size : end]
    if number != group or len(body) != body_bytes or xxhash.xxh3_64_intdigest(body) != body_checksum:
        raise DamagedObject(key, "body", "group, size or checksum is wrong")
    if version == _VERSION_ENCRYPTED:
        body = _decrypted(body, domain_key, key)
    table_bytes = rows * LINK.itemsize
    if rows != len(group_numbers(group)) or not table_bytes <= raw_bytes <= min(
        _RAW_BYTES_MAX, _LZ4_RATIO_MAX * body_bytes
    ):
        raise DamagedObject(key, "body", f"{rows} rows in {raw_bytes} bytes cannot be")
    raw = memoryview(unpack_block(body, raw_bytes, key, "body"))
    links = unpack_columns(raw[:table_bytes], LINK, rows, _ASCENDING)
    control = decode_control(raw[table_bytes:], controls, key) if with_control else []
    summary = Summary(group, UUID(bytes=uuid), predecessor, links, control)
    problem = _problem(summary.links, group) or (_control_problem(links, control) if with_control else "")
    if problem:
        raise DamagedObject(key, "rows", problem)
    return summary


def _problem(links: LinkTable, group: int) -> str:
    """Why the rows cannot be one stretch of a chain. Empty if they can."""
    if (links["number"] != np.array(group_numbers(group), np.uint64)).any() or (links["kind"] > ObjectKind.EPOCH).any():
        return "numbers or kinds are wrong"
    rows = chained(links)
    if not len(rows):
        return "nothing chains"
    records = rows["kind"] == ObjectKind.SEGMENT
    if (rows["last_lsn"] - rows["first_lsn"] + np.uint64(1) != 0)[~records].any():
        return "an epoch object holds records"
    if (rows["last_lsn"] < rows["first_lsn"])[records].any() or (rows["first_lsn"] == 0).any():
        return "a segment holds no record"
    if (rows["first_lsn"][1:] != rows["last_lsn"][:-1] + np.uint64(1)).any():
        return "LSNs do not follow one another"
    newer = np.diff(rows["epoch"].astype(np.int64)) > 0
    if (newer != ~records[1:]).any() or (rows["epoch"][1:] < rows["epoch"][:-1]).any():
        return "epochs do not follow one another"
    times = np.column_stack([rows["first_time_ns"], rows["last_time_ns"]])[records].reshape(-1)
    if (np.diff(times) < 0).any() or (times < 0).any():
        return "times decrease"
    return _sizes_problem(rows)


def _sizes_problem(rows: LinkTable) -> str:
    end = rows["index_offset"] + rows["index_stored_bytes"]
    if (rows["object_bytes"] < end).any() or (rows["index_offset"] > rows["object_bytes"]).any():
        return "an index lies outside its object"
    return ""


def _control_problem(links: LinkTable, control: Sequence[ControlRecord]) -> str:
    rows = chained(links)
    if int(rows["control_count"].sum(dtype=np.uint64)) != len(control):
        return "control records are missing"
    lsns = np.array([record.lsn for record in control], np.uint64)
    ends = np.searchsorted(lsns, rows["last_lsn"], "right") - np.searchsorted(lsns, rows["first_lsn"], "left")
    if (np.maximum(ends, 0) != rows["control_count"]).any():
        return "control records lie outside their segments"
    return ""


def contradiction(summary: Summary, head: Head, domain_uuid: UUID, sizes: dict[int, int], anchor: Footer) -> str:
    """Why the store contradicts ``summary``. Empty if it does not.

    ``head`` is the chain before it, ``sizes`` what the store lists, ``anchor`` the trailer of its last chained row.
    """
    rows = chained(summary.links)
    first = rows[0]
    if summary.domain_uuid != domain_uuid or summary.predecessor != head.checksum:
        return "it does not continue the chain"
    if int(first["first_lsn"]) != head.lsn_last + 1 or (rows["timeline"] != head.timeline).any():
        return "its LSNs do not continue the chain's"
    newer = int(first["epoch"]) - head.epoch
    if newer < 0 or (newer > 0) != (first["kind"] == ObjectKind.EPOCH):
        return "its epoch does not continue the chain's"
    records = rows[rows["kind"] == ObjectKind.SEGMENT]
    if len(records) and int(records["first_time_ns"][0]) < head.time_ns_last:
        return "its times go back"
    if sizes != dict(zip(summary.links["number"].tolist(), summary.links["object_bytes"].tolist(), strict=True)):
        return "the store lists other objects"
    if rows[-1].item() != np.array([link(anchor.number, anchor.trailer, anchor.checksum)], LINK)[0].item():
        return f"{anchor.key} is another object than it says"
    return ""


assert LINK.itemsize * CHAIN_GROUP < _RAW_BYTES_MAX
assert ORPHAN not in (ObjectKind.SEGMENT, ObjectKind.EPOCH)
assert LINK["checksum"].itemsize == CHECKSUM_BYTES
