"""Bodies of control records and of epoch objects: one frozen class per kind. Pure.

``encode`` gives the JSON object that goes into a log or a store, and :func:`~jetdr_core.record.control_payload` turns
it into bytes. ``decode`` takes a JSON object that was read from a log or a store, and trusts nothing in it.
docs/formats/segment.md has the table.

Invariants: each key is spelled here and nowhere else. ``decode`` checks type and range of every field that it knows,
and raises :class:`DamagedObject` for the first wrong one. It ignores other fields, so that a newer engine may add some.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple, Self

from jetdr_core.errors import DamagedObject, InvalidRequest
from jetdr_core.identity import check_config_name, check_mark_name, check_name
from jetdr_core.limits import DIGEST_BYTES_MAX, DISK_BYTES_MAX, SECTOR_BYTES
from jetdr_core.record import ControlRecord, Kind

__all__ = [
    "DIGESTS_MAX",
    "ConfigFile",
    "ControlBody",
    "Digest",
    "Digests",
    "DiskAdd",
    "DiskGrow",
    "DiskReady",
    "DiskRemove",
    "EpochOwner",
    "GapClose",
    "GapOpen",
    "Mark",
    "Void",
    "body_of",
]

Body = Mapping[str, object]

DIGESTS_MAX = 8
"""The most extents of one DIGESTS record. A body has no more than 64 values."""

_HEX_DIGEST = re.compile(r"[0-9a-f]{32}")


class _Fields:
    """The fields of one JSON object that was read from a log or a store. Asking for a field checks it."""

    def __init__(self, body: Body, where: str, part: str) -> None:
        self._body = body
        self._where = where
        self._part = part

    def text(self, name: str, default: str | None = None) -> str:
        value = self._body.get(name, default)
        if not isinstance(value, str):
            raise self.damaged(f"{name!r} is {value!r}")
        return value

    def text_if_there(self, name: str) -> str | None:
        return self.text(name) if name in self._body else None

    def name(self, name: str, check: Callable[[str], str]) -> str:
        """Text that ``check`` accepts, because it becomes a file name or part of a key."""
        try:
            return check(self.text(name))
        except InvalidRequest as error:
            raise self.damaged(str(error)) from None

    def flag(self, name: str) -> bool:
        """A boolean. False if it is missing."""
        value = self._body.get(name, False)
        if not isinstance(value, bool):
            raise self.damaged(f"{name!r} is {value!r}")
        return value

    def size_bytes(self) -> int:
        size = self._number("size_bytes")
        if not 0 < size <= DISK_BYTES_MAX or size % SECTOR_BYTES:
            raise self.damaged(f"'size_bytes' is {size!r}")
        return size

    def time_ns_if_there(self, name: str) -> int | None:
        if name not in self._body:
            return None
        time_ns = self._number(name)
        if time_ns < 0:
            raise self.damaged(f"{name!r} is {time_ns!r}")
        return time_ns

    def rows(self, name: str, rows_max: int) -> list[list[object]]:
        """A list of lists. Empty if it is missing."""
        rows = self._body.get(name, [])
        if not isinstance(rows, list) or len(rows) > rows_max or not all(isinstance(row, list) for row in rows):
            raise self.damaged(f"{name!r} is {rows!r:.200}")
        return rows

    def _number(self, name: str) -> int:
        value = self._body.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.damaged(f"{name!r} is {value!r}")
        return value

    def damaged(self, problem: str) -> DamagedObject:
        return DamagedObject(self._where, self._part, problem)


@dataclass(frozen=True, slots=True)
class Mark:
    """Names the recovery point at this LSN."""

    kind: ClassVar[Kind] = Kind.MARK

    name: str

    def encode(self) -> dict[str, object]:
        return {"name": self.name}

    @classmethod
    def decode(cls, body: Body, where: str) -> Self:
        return cls(_fields(cls.kind, body, where).name("name", check_mark_name))


@dataclass(frozen=True, slots=True)
class GapOpen:
    """From this LSN the domain is not consistent.

    ``since_ns`` is an earlier instant from which nothing is known, for example the last one before an unclean stop.
    With ``ahead_ns``, record times are ahead of the true time by that much from this record on. Record times go on
    where they were, and readers take it off. ``since_ns`` is ahead as the record itself is.
    """

    kind: ClassVar[Kind] = Kind.GAP_OPEN

    reason: str
    since_ns: int | None = None
    ahead_ns: int | None = None

    def encode(self) -> dict[str, object]:
        times = {"since_ns": self.since_ns, "ahead_ns": self.ahead_ns}
        return {"reason": self.reason, **{name: time for name, time in times.items() if time is not None}}

    @classmethod
    def decode(cls, body: Body, where: str) -> Self:
        found = _fields(cls.kind, body, where)
        return cls(found.text("reason", ""), found.time_ns_if_there("since_ns"), found.time_ns_if_there("ahead_ns"))


@dataclass(frozen=True, slots=True)
class _Empty:
    """A body without fields."""

    def encode(self) -> dict[str, object]:
        return {}

    @classmethod
    def decode(cls, _body: Body, _where: str) -> Self:
        return cls()


class GapClose(_Empty):
    """From this LSN the domain is consistent again."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.GAP_CLOSE


@dataclass(frozen=True, slots=True)
class DiskAdd:
    """From this LSN the record's disk is protected. It is ready at once unless it holds data, which must be copied.

    ``path`` is where the primary lies. ``uuid`` identifies the disk.
    """

    kind: ClassVar[Kind] = Kind.DISK_ADD

    name: str
    uuid: str
    size_bytes: int
    path: str
    holds_data: bool

    def encode(self) -> dict[str, object]:
        return {
            "name": self.name,
            "uuid": self.uuid,
            "size_bytes": self.size_bytes,
            "path": self.path,
            "holds_data": self.holds_data,
        }

    @classmethod
    def decode(cls, body: Body, where: str) -> Self:
        found = _fields(cls.kind, body, where)
        return cls(
            name=found.name("name", lambda name: check_name("disk", name)),
            uuid=found.text("uuid", ""),
            size_bytes=found.size_bytes(),
            path=found.text("path", ""),
            holds_data=found.flag("holds_data"),
        )


class DiskReady(_Empty):
    """The initial copy of the record's disk is complete."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.DISK_READY


class DiskRemove(_Empty):
    """The record's disk is no longer protected."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.DISK_REMOVE


@dataclass(frozen=True, slots=True)
class DiskGrow:
    """The record's disk has a new size."""

    kind: ClassVar[Kind] = Kind.DISK_GROW

    size_bytes: int

    def encode(self) -> dict[str, object]:
        return {"size_bytes": self.size_bytes}

    @classmethod
    def decode(cls, body: Body, where: str) -> Self:
        return cls(_fields(cls.kind, body, where).size_bytes())


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration file of the domain's machines. It replaces an earlier one with the same name."""

    kind: ClassVar[Kind] = Kind.CONFIG

    name: str
    text: str

    def encode(self) -> dict[str, object]:
        return {"name": self.name, "text": self.text}

    @classmethod
    def decode(cls, body: Body, where: str) -> Self:
        found = _fields(cls.kind, body, where)
        return cls(found.name("name", check_config_name), found.text("text"))


class Digest(NamedTuple):
    """The disk held bytes with XXH3-128 ``digest`` in [offset, offset + length) exactly at ``lsn``."""

    lsn: int
    offset: int
    length: int
    digest: bytes

    @classmethod
    def decode(cls, row: Sequence[object]) -> Self | None:
        """The checked values of a row. None if they cannot be."""
        if any(isinstance(value, bool) for value in row):
            return None
        match row:
            case [int(lsn), int(offset), int(length), str(text)] if _HEX_DIGEST.fullmatch(text):
                is_possible = 0 <= lsn < 1 << 63 and 0 < length <= DIGEST_BYTES_MAX
                is_on_disk = 0 <= offset <= DISK_BYTES_MAX - length and not (offset | length) % SECTOR_BYTES
                return cls(lsn, offset, length, bytes.fromhex(text)) if is_possible and is_on_disk else None
        return None


@dataclass(frozen=True, slots=True)
class Digests:
    """What some extents of the record's disk held, each before the record's own LSN. A summary leaves them out."""

    kind: ClassVar[Kind] = Kind.DIGESTS

    extents: tuple[Digest, ...] = ()

    def encode(self) -> dict[str, object]:
        return {"extents": [[*extent[:3], extent.digest.hex()] for extent in self.extents]}

    @classmethod
    def decode(cls, body: Body, where: str) -> Self:
        found = _fields(cls.kind, body, where)
        extents = []
        for row in found.rows("extents", DIGESTS_MAX):
            extent = Digest.decode(row)
            if extent is None:
                raise found.damaged(f"{row!r:.200} is no digest of an extent")
            extents.append(extent)
        return cls(tuple(extents))


class Void(_Empty):
    """The record was abandoned, because its producer died before it published. The LSN carries nothing."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.VOID


ControlBody = Mark | GapOpen | GapClose | DiskAdd | DiskReady | DiskRemove | DiskGrow | ConfigFile | Digests | Void

_OF_KIND: dict[Kind, type[ControlBody]] = {
    body.kind: body
    for body in (Mark, GapOpen, GapClose, DiskAdd, DiskReady, DiskRemove, DiskGrow, ConfigFile, Digests, Void)
}


def body_of(record: ControlRecord) -> ControlBody:
    """The checked body of a control record. :class:`DamagedObject` names its LSN."""
    return _OF_KIND[record.kind].decode(record.body, f"LSN {record.lsn}")


def _fields(kind: Kind, body: Body, where: str) -> _Fields:
    return _Fields(body, where, f"{kind.name} record")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochOwner:
    """The body of an epoch object: who claimed the domain. None stands for a field that the object does not have.

    ``owner`` is the UUID of the claiming machine and ``host`` its name. ``log`` identifies the log section in use.
    ``nonce`` distinguishes two claims that are otherwise equal. Only a chain's first object has the ``domain``'s name
    and ``domain_uuid``.
    """

    domain: str | None = None
    domain_uuid: str | None = None
    host: str | None = None
    log: str | None = None
    nonce: str | None = None
    owner: str | None = None

    def encode(self) -> dict[str, object]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def decode(cls, body: Body, where: str) -> Self:
        """Check the body of the epoch object ``where``."""
        found = _Fields(body, where, "epoch")
        texts = {field.name: found.text_if_there(field.name) for field in fields(cls)}
        if texts["domain"] is not None:
            found.name("domain", lambda name: check_name("domain", name))
        return cls(**texts)
