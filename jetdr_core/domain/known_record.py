"""KnownRecord: what a domain remembers of its store, so that it can be opened while the store is away. Pure.

A log alone does not open a domain. Which disks it has, and since when it is not consistent, may be told by control
records that the log no longer holds. Nor does the log say which claim of the chain it goes on from.
docs/formats/known.md has the format.

Invariants: a record that fits a log has every control record that the log has trimmed. A generation that the log may
have begun, and a claim that may be in the chain, is noted before it can be there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from uuid import UUID

import xxhash

from jetdr_core.catalog import HISTORY_BYTES_MAX, DomainHistory, decode_history
from jetdr_core.domain.generation import Generation
from jetdr_core.errors import DamagedObject
from jetdr_core.json_text import decode_json
from jetdr_core.limits import BLOCK_BYTES, RECORD_BYTES_MAX

__all__ = ["KNOWN_BYTES_MAX", "KnownRecord", "decode_known", "encode_known"]

VERSION = 1
CLAIMS_MAX = 100
"""So many openings in a row may have ended between claim and service. Then the next one needs the store."""

_HEAD_BYTES_MAX = 32 << 10
KNOWN_BYTES_MAX = _HEAD_BYTES_MAX + HISTORY_BYTES_MAX
"""The longest file."""

_WHERE = "what is known of the store"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRecord:
    """``chain`` is the last claim known to be in the chain, and ``claims`` are those that may be there since.

    ``log`` is the generation that the log was last begun with, and ``next`` one that it may have been begun with since.
    ``history`` is the block of the folded history up to ``lsn``. ``ended``: log and host component ended in order since
    the log was begun, so the primaries hold everything. ``write_back``: until then they may lag that log.
    ``record_bytes_max``: the most payload of a record of that log.
    """

    domain_uuid: UUID
    section_id: int
    timeline: int
    chain: Generation
    claims: tuple[Generation, ...] = ()
    log: Generation
    next: Generation | None = None
    ended: bool = False
    write_back: bool
    record_bytes_max: int
    lsn: int
    history: bytes

    def fits(self, log: Generation) -> bool:
        """Whether this is what the log of that generation remembers."""
        return log.epoch > 0 and any(one is not None and one.is_same(log) for one in (self.log, self.next))

    def vouches(self, log: Generation, chain: Generation) -> bool:
        """Whether a log of that generation goes on from that claim, because nothing was uploaded in between."""
        return self.fits(log) and any(one.is_same(chain) for one in (self.chain, *self.claims))

    def generation_next(self) -> Generation:
        """Return a generation of its own, newer than all that log and chain may have."""
        known = (self.chain, *self.claims, self.log, *([] if self.next is None else [self.next]))
        return Generation.next_after(*known)

    def beginning(self, own: Generation, generation: Generation, *, write_back: bool) -> KnownRecord:
        """The log, of generation ``own``, is about to begin ``generation``. The mode changes at a clean log only."""
        return replace(self, log=own, next=generation, ended=False, write_back=write_back)

    def claiming(self, own: Generation, generation: Generation, *, write_back: bool) -> KnownRecord | None:
        """The same, and it is about to be claimed before. None if too many claims were made in vain."""
        if len(self.claims) >= CLAIMS_MAX:
            return None
        begun = self.beginning(own, generation, write_back=write_back)
        return replace(begun, claims=(*self.claims, generation))

    def begun(self, generation: Generation) -> KnownRecord:
        """The log has begun ``generation``."""
        return replace(self, log=generation, next=None)

    def joining(self) -> KnownRecord | None:
        """The generation of the log is about to be claimed. None if too many claims were made in vain."""
        if self.log in self.claims:
            return self
        return replace(self, claims=(*self.claims, self.log)) if len(self.claims) < CLAIMS_MAX else None

    def joined(self) -> KnownRecord:
        """The chain names the generation of the log."""
        return replace(self, chain=self.log, claims=())

    def folded_history(self) -> DomainHistory:
        """Return the history up to ``lsn``. :class:`DamagedObject` if no engine wrote it."""
        return decode_history(self.history, self.domain_uuid, _WHERE)


def encode_known(record: KnownRecord) -> bytes:
    head = {
        "version": VERSION,
        "domain_uuid": str(record.domain_uuid),
        "section_id": record.section_id,
        "timeline": record.timeline,
        "chain": str(record.chain),
        "claims": [str(claim) for claim in record.claims],
        "log": str(record.log),
        "next": None if record.next is None else str(record.next),
        "ended": record.ended,
        "write_back": record.write_back,
        "record_bytes_max": record.record_bytes_max,
        "lsn": record.lsn,
        "history_bytes": len(record.history),
        "history_checksum": xxhash.xxh3_64_hexdigest(record.history),
    }
    return json.dumps(head | {"checksum": _checksum(head)}).encode() + b"\n" + record.history


def decode_known(raw: bytes) -> KnownRecord:
    """Decode a file. :class:`DamagedObject` if no engine wrote it, or a newer one did."""
    end = raw.find(b"\n", 0, _HEAD_BYTES_MAX)
    try:
        return _decode(decode_json(raw[: max(0, end)]), raw[end + 1 :])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedObject(_WHERE, "head", f"it cannot be read: {error}") from None


def _decode(head: dict[str, object], history: bytes) -> KnownRecord:
    if head.pop("checksum") != _checksum(head) or head["version"] != VERSION:
        raise ValueError("version or checksum is wrong")
    if (head["history_bytes"], head["history_checksum"]) != (len(history), xxhash.xxh3_64_hexdigest(history)):
        raise ValueError("the history is not the one that belongs to it")
    claims, next_ = head["claims"], head["next"]
    if not isinstance(claims, list) or len(claims) > CLAIMS_MAX:
        raise ValueError("the claims are no list, or too many")
    return KnownRecord(
        domain_uuid=UUID(_text(head["domain_uuid"])),
        section_id=_whole(head["section_id"]),
        timeline=_whole(head["timeline"]),
        chain=Generation.parse(_text(head["chain"])),
        claims=tuple(Generation.parse(_text(claim)) for claim in claims),
        log=Generation.parse(_text(head["log"])),
        next=None if next_ is None else Generation.parse(_text(next_)),
        ended=head["ended"] is True,
        write_back=head["write_back"] is True,
        record_bytes_max=_record_bytes_max(head["record_bytes_max"]),
        lsn=_whole(head["lsn"]),
        history=history,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r} is no number of 64 bits")
    return value


def _record_bytes_max(value: object) -> int:
    record_bytes = _whole(value)
    if not 0 < record_bytes <= RECORD_BYTES_MAX or record_bytes % BLOCK_BYTES:
        raise ValueError(f"records of {record_bytes} bytes")
    return record_bytes


def _checksum(head: object) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(head, sort_keys=True).encode())
