"""ChainObject: describes a segment or an epoch object: its place in history, what it holds, what is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from jetdr_core.catalog import chain_number, iso_time
from jetdr_core.cli.catalog_json import Json, time_json
from jetdr_core.cli.terminal import Terminal
from jetdr_core.cli.words import human_bytes, plural
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import DamagedObject
from jetdr_core.record import Kind
from jetdr_core.segment import Codec, ObjectKind, SegmentIndex, Trailer, believed_trailer, decode_epoch, decode_origin
from jetdr_core.verify import Checked, check_chain_object

__all__ = ["ChainObject"]

_ENTRY_COLUMNS = ("lsn", "time_ns", "disk", "kind", "flags", "offset", "length", "frame", "frame_offset")
_FRAME_COLUMNS = ("offset", "stored_bytes", "raw_bytes", "codec", "checksum")


@dataclass(frozen=True, slots=True)
class ChainObject:
    """``checked`` is all that could be read of the object. ``owner`` is the body of an epoch object, or empty."""

    name: str
    checked: Checked
    owner: Json

    @classmethod
    def of(cls, data: bytes, name: str, domain_key: DomainKey | None = None) -> ChainObject:
        """Check the bytes called ``name``, with ``domain_key`` their tags too.

        Raises :class:`UnsupportedVersion` for a newer format, and :class:`WrongKey` for the key of another domain.
        """
        with suppress(DamagedObject):
            if domain_key is not None:
                domain_key = domain_key.bound_to(decode_origin(data, name).domain_uuid)
            believed_trailer(data, chain_number(name), domain_key, name)
        checked = check_chain_object(data, name, domain_key)
        return cls(name, checked, _owner(data, checked))

    @property
    def is_damaged(self) -> bool:
        return not self.checked.is_whole

    # -- text ----------------------------------------------------------------------------------------------------------

    def show(self, terminal: Terminal, *, entries: bool) -> None:
        trailer, index = self.checked.trailer, self.checked.index
        kind = "chain object" if trailer is None else _KINDS[trailer.kind]
        terminal.say(f"{self.name}: {kind}, {human_bytes(self.checked.bytes_read)}", style="bold")
        for line in self._lines():
            terminal.say(f"  {line}")
        if index is not None and entries:
            terminal.say_table([f">{name}" for name in _ENTRY_COLUMNS], _rows(index.entries, _ENTRY_COLUMNS))
            terminal.say_table(["frame", *_FRAME_COLUMNS], _numbered(_rows(index.frames, _FRAME_COLUMNS)))
        for part, problem in self._problems():
            terminal.say(f"  DAMAGED {part}: {problem}", style="red")

    def _lines(self) -> Iterator[str]:
        trailer, index = self.checked.trailer, self.checked.index
        if trailer is not None:
            yield f"domain {trailer.domain_uuid}, epoch {trailer.epoch}, timeline {trailer.timeline}"
            yield f"checksum {self.checked.checksum.hex()}, follows {trailer.predecessor.hex()}"
            if trailer.is_tagged:
                yield f"made as object {trailer.number}, tagged with key {trailer.key_id.hex()}"
            yield from _range_lines(trailer)
        for name, value in self.owner.items():
            yield f"{name}: {value}"
        if index is not None:
            yield from _disk_lines(index)
            for record in index.control:
                disk = f" disk {record.disk}" if record.disk else ""
                yield f"LSN {record.lsn} {record.kind.name}{disk} {record.body}"

    def _problems(self) -> list[tuple[str, str]]:
        frames = [(f"frame {number}", problem) for number, problem in self.checked.frames_damaged.items()]
        return [*self.checked.problems, *frames]

    # -- JSON ----------------------------------------------------------------------------------------------------------

    def as_json(self, *, entries: bool) -> Json:
        document: Json = {"kind": None, "name": self.name, "object_bytes": self.checked.bytes_read}
        if self.checked.trailer is not None:
            document |= _trailer_json(self.checked.trailer) | {"checksum": self.checked.checksum.hex()}
        if self.owner:
            document["epoch_body"] = self.owner
        if self.checked.index is not None:
            document |= _index_json(self.checked.index, entries=entries)
        document["damage"] = [{"part": part, "problem": problem} for part, problem in self._problems()]
        return document


_KINDS = {ObjectKind.SEGMENT: "segment", ObjectKind.EPOCH: "epoch object"}


def _owner(data: bytes, checked: Checked) -> Json:
    trailer = checked.trailer
    if trailer is None or trailer.kind != ObjectKind.EPOCH or checked.problems:
        return {}
    return decode_epoch(memoryview(data)[trailer.index_offset : trailer.index_end], trailer, checked.key).encode()


def _range_lines(trailer: Trailer) -> Iterator[str]:
    if trailer.kind == ObjectKind.EPOCH:
        yield f"begins at LSN {trailer.first_lsn}, {iso_time(trailer.first_time_ns)}"
        return
    times = f"{iso_time(trailer.first_time_ns)} to {iso_time(trailer.last_time_ns)}"
    yield f"LSN {trailer.first_lsn} to {trailer.last_lsn}, {times}"
    yield (
        f"captured {human_bytes(trailer.payload_bytes)}, stored {human_bytes(trailer.stored_bytes)} "
        f"in {plural(trailer.frame_count, 'frame')}"
    )


def _disk_lines(index: SegmentIndex) -> Iterator[str]:
    for disk in np.unique(index.entries["disk"]).tolist():
        rows = index.entries[index.entries["disk"] == disk]
        zeros = rows["kind"] == Kind.ZERO
        yield (
            f"disk {disk}: {plural(int((~zeros).sum()), 'extent')} of data "
            f"({human_bytes(int(rows['length'][~zeros].sum()))}), {int(zeros.sum())} of zeros "
            f"({human_bytes(int(rows['length'][zeros].sum()))})"
        )


def _rows(table: np.ndarray, columns: tuple[str, ...]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = table[list(columns)].tolist()
    return rows


def _numbered(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return [(number, *row) for number, row in enumerate(rows)]


def _trailer_json(trailer: Trailer) -> Json:
    return {
        "kind": _KINDS[trailer.kind],
        "domain_uuid": str(trailer.domain_uuid),
        "epoch": trailer.epoch,
        "timeline": trailer.timeline,
        "predecessor": trailer.predecessor.hex(),
        "number": trailer.number if trailer.is_tagged else None,
        "key_id": trailer.key_id.hex() if trailer.is_tagged else None,
        "lsn_first": trailer.first_lsn,
        "lsn_last": trailer.last_lsn,
        **time_json("time_first", trailer.first_time_ns),
        **time_json("time_last", trailer.last_time_ns),
        "payload_bytes": trailer.payload_bytes,
        "stored_bytes": trailer.stored_bytes,
    }


def _index_json(index: SegmentIndex, *, entries: bool) -> Json:
    control = [
        {
            "lsn": record.lsn,
            **time_json("time", record.time_ns),
            "kind": record.kind.name,
            "disk": record.disk,
            "body": record.body,
        }
        for record in index.control
    ]
    frames = [
        dict(zip(_FRAME_COLUMNS, row, strict=True)) | {"codec": Codec(row[3]).name.lower()}
        for row in index.frames[list(_FRAME_COLUMNS)].tolist()
    ]
    document: Json = {"frames": frames, "entry_count": len(index.entries), "control": control}
    if entries:
        rows = _rows(index.entries, _ENTRY_COLUMNS)
        document["entries"] = [dict(zip(_ENTRY_COLUMNS, row, strict=True)) for row in rows]
    return document
