"""The codec of a folded history: the control records of a chain as one block, after their records are gone. Pure.

docs/formats/history.md has the layout. A history is folded from control records, and those may no longer be within
reach: the store is away, or the segments that held them are retired.

Invariants: nothing is allocated on the word of the block alone, and its checksum is compared first. Every field is
checked as the control record that it stems from is checked. A block that decodes is a history that some chain of
records gives. The same history gives the same bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, TypeVar
from uuid import UUID

import lz4.block
import xxhash
from typing_extensions import Buffer

from jetdr_core.catalog.history import ClockTurn, DiskFacts, DomainHistory, Gap, HistoryFacts, Turn
from jetdr_core.catalog.point import RecoveryPoint
from jetdr_core.errors import DamagedObject, InvalidRequest, UnsupportedVersion
from jetdr_core.identity import check_config_name, check_mark_name, check_name
from jetdr_core.json_text import decode_json
from jetdr_core.limits import DISK_BYTES_MAX, SECTOR_BYTES
from jetdr_core.segment.frames import unpack_block

__all__ = ["HISTORY_BYTES_MAX", "decode_history", "encode_history"]

T = TypeVar("T")

_MAGIC = b"JDRHIST\1"
_VERSION = 2
_VERSION_WITHOUT_CLOCK = 1
"""A history whose clock was never corrected is written as earlier releases did, who can read it."""
_HEADER = struct.Struct("<8sHxxI16sQQQQQ")  # magic, version, timeline, domain, LSN, raw and stored size, two checksums
_SIGNED_BYTES = _HEADER.size - 8
_LZ4_RATIO_MAX = 255
_RAW_BYTES_MAX = 64 << 20
_NUMBER_MAX = (1 << 63) - 1
_DISK_MAX = (1 << 32) - 1

HISTORY_BYTES_MAX = _HEADER.size + _RAW_BYTES_MAX + _RAW_BYTES_MAX // 255 + 16
"""The longest block: one that LZ4 cannot compress."""


def encode_history(facts: HistoryFacts, domain_uuid: UUID) -> bytes | None:
    """Return the block of a history, or None if it is too long for one."""
    version = _VERSION if facts.clock_turns else _VERSION_WITHOUT_CLOCK
    raw = json.dumps(facts[2:] if facts.clock_turns else facts[2:-1], separators=(",", ":")).encode()
    if len(raw) > _RAW_BYTES_MAX:
        return None
    body: bytes = lz4.block.compress(raw, store_size=False)
    numbers = (len(raw), len(body), xxhash.xxh3_64_intdigest(body))
    header = _HEADER.pack(_MAGIC, version, facts.timeline, domain_uuid.bytes, facts.lsn, *numbers, 0)[:_SIGNED_BYTES]
    return header + xxhash.xxh3_64_intdigest(header).to_bytes(8, "little") + body


def decode_history(data: Buffer, domain_uuid: UUID, where: str) -> DomainHistory:
    """Return the history of that domain. :class:`DamagedObject` or :class:`UnsupportedVersion` names ``where``."""
    view = memoryview(data)
    if not _HEADER.size <= len(view) <= HISTORY_BYTES_MAX:
        raise DamagedObject(where, "header", f"{len(view)} bytes are not a history")
    magic, version, timeline, uuid, lsn, raw_bytes, body_bytes, body_checksum, checksum = _HEADER.unpack(
        view[: _HEADER.size]
    )
    if magic != _MAGIC or xxhash.xxh3_64_intdigest(view[:_SIGNED_BYTES]) != checksum:
        raise DamagedObject(where, "header", "magic or checksum is wrong")
    if version > _VERSION:
        raise UnsupportedVersion(f"{where}: history of format {version}", hint="use a newer engine")
    body = view[_HEADER.size :]
    if len(body) != body_bytes or xxhash.xxh3_64_intdigest(body) != body_checksum:
        raise DamagedObject(where, "body", "size or checksum is wrong")
    if uuid != domain_uuid.bytes:
        raise DamagedObject(where, "header", "it is the history of another domain")
    if raw_bytes > min(_RAW_BYTES_MAX, _LZ4_RATIO_MAX * body_bytes):
        raise DamagedObject(where, "body", f"{raw_bytes} bytes cannot be in {body_bytes}")
    raw = unpack_block(body, raw_bytes, where, "body")
    try:
        facts = _Reader(lsn).facts(timeline, decode_json(raw))
    except (ValueError, TypeError, InvalidRequest) as error:
        raise DamagedObject(where, "body", str(error)) from None
    return DomainHistory.of(facts)


class _Reader:
    """Checks what a block says. Every method raises ``ValueError`` or ``TypeError`` for what no engine wrote."""

    def __init__(self, lsn: int) -> None:
        self._lsn = _whole(lsn, 0, _NUMBER_MAX)

    def facts(self, timeline: int, parts: Any) -> HistoryFacts:
        baseline, disks, marks, gaps, configs, turns, *clock_turns = parts
        if len(clock_turns) > 1:
            raise ValueError(f"it has {len(parts)} parts")
        found = HistoryFacts(
            timeline=timeline,
            lsn=self._lsn,
            baseline=None if baseline is None else self._point(timeline, baseline),
            disks=tuple(self._disk(*row) for row in _rows(disks)),
            marks=tuple(self._mark(timeline, row) for row in _rows(marks)),
            gaps=tuple(self._gap(*row) for row in _rows(gaps)),
            configs=tuple(self._config(*row) for row in _rows(configs)),
            turns=tuple(self._turn(*row) for row in _rows(turns)),
            clock_turns=tuple(self._clock_turn(*row) for rows in clock_turns for row in _rows(rows)),
        )
        _check(found)
        return found

    def _at(self, lsn: object, after: int = 0) -> int:
        """The LSN of a record, which comes after ``after``."""
        return _whole(lsn, after + 1, self._lsn)

    def _at_if_there(self, lsn: object, after: int) -> int | None:
        return None if lsn is None else self._at(lsn, after)

    def _point(self, timeline: int, row: Any) -> RecoveryPoint:
        found, lsn, time_ns, name = row
        if found != timeline or name is not None:
            raise ValueError(f"the baseline is {row!r}")
        return RecoveryPoint(timeline, self._at(lsn), _time(time_ns))

    def _mark(self, timeline: int, row: Any) -> RecoveryPoint:
        found, lsn, time_ns, name = row
        if found != timeline:
            raise ValueError(f"mark {name!r} is of timeline {found!r}")
        return RecoveryPoint(timeline, self._at(lsn), _time(time_ns), check_mark_name(name))

    def _disk(self, *row: Any) -> DiskFacts:
        number, name, uuid, path, added, ready, removed, sizes = row
        added = self._at(added)
        return DiskFacts(
            _whole(number, 1, _DISK_MAX),
            check_name("disk", name),
            _text(uuid),
            _text(path),
            added,
            self._at_if_there(ready, added - 1),
            self._at_if_there(removed, added),
            _sizes([(self._at(lsn, added - 1), _size(size)) for lsn, size in _rows(sizes)], added),
        )

    def _gap(self, *row: Any) -> Gap:
        lsn, time_ns, reason, lsn_close, time_close_ns = row
        if (lsn_close is None) != (time_close_ns is None):
            raise ValueError(f"a gap is closed half: {row!r}")
        lsn = self._at(lsn)
        close_ns = None if time_close_ns is None else _time(time_close_ns)
        return Gap(lsn, _time(time_ns), _text(reason), self._at_if_there(lsn_close, lsn), close_ns)

    def _config(self, lsn: object, name: str, text: object) -> tuple[int, str, str]:
        return self._at(lsn), check_config_name(name), _text(text)

    def _turn(self, lsn: object, time_ns: object, consistent: object) -> Turn:
        if not isinstance(consistent, bool):
            raise TypeError(f"a turn is {consistent!r}")
        return Turn(self._at(lsn), _time(time_ns), consistent)

    def _clock_turn(self, lsn: object, time_ns: object, ahead_ns: object) -> ClockTurn:
        return ClockTurn(self._at(lsn), _time(time_ns), _time(ahead_ns))


def _check(facts: HistoryFacts) -> None:
    """See that the parts can stand beside one another."""
    _refuse_twice("disk number", [disk.disk for disk in facts.disks])
    _refuse_twice("disk", [disk.name for disk in facts.disks if disk.lsn_removed is None])
    _refuse_twice("mark", [mark.name for mark in facts.marks])
    _refuse_disorder("marks", facts.marks, lambda mark: mark.lsn)
    _refuse_disorder("gaps", facts.gaps, lambda gap: gap.lsn_open)
    _refuse_disorder("configuration files", facts.configs, lambda config: config[0])
    _refuse_disorder("turns", facts.turns, lambda turn: turn.lsn)
    if any(one.lsn_close is None or one.lsn_close > other.lsn_open for one, other in pairwise(facts.gaps)):
        raise ValueError("two gaps overlap")
    _refuse_disorder("turns of the clock", facts.clock_turns, lambda turn: turn.lsn)
    if any(one.ahead_ns >= other.ahead_ns for one, other in pairwise(facts.clock_turns)):
        raise ValueError("a turn of the clock goes back")
    if [turn.consistent for turn in facts.turns] != [nth % 2 == 0 for nth in range(len(facts.turns))]:
        raise ValueError("turns do not alternate")
    if facts.turns and (facts.baseline is None or facts.turns[0].lsn < facts.baseline.lsn):
        raise ValueError("the domain was consistent before its baseline")


def _rows(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} is no list")
    return value


def _whole(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{value!r} is not between {least} and {most}")
    return value


def _time(value: object) -> int:
    return _whole(value, 0, _NUMBER_MAX)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _size(value: object) -> int:
    size = _whole(value, 1, DISK_BYTES_MAX)
    if size % SECTOR_BYTES:
        raise ValueError(f"a disk has {size} bytes")
    return size


def _sizes(sizes: list[tuple[int, int]], added: int) -> tuple[tuple[int, int], ...]:
    """The sizes of a disk, which has its first one from the beginning, and never shrinks."""
    if not sizes or sizes[0][0] != added or any(one > other for one, other in pairwise(sizes)):
        raise ValueError(f"the sizes of a disk are {sizes[:8]}")
    if any(one[1] > other[1] for one, other in pairwise(sizes)):
        raise ValueError("a disk shrinks")
    return tuple(sizes)


def _refuse_twice(what: str, values: list[T]) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"a {what} is there twice")


def _refuse_disorder(what: str, rows: Iterable[T], lsn: Callable[[T], int]) -> None:
    if any(one >= other for one, other in pairwise(map(lsn, rows))):
        raise ValueError(f"{what} are not in LSN order")
