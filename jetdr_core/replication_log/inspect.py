"""Describes a log volume for people and programs, without changing it, even while its owner writes.

The owner does not wait for readers. While a log is being followed, batches are written at its head, and the tail moves
and is overwritten. So a batch that is not whole says nothing yet. It is damage only if the tail has not passed it, and
if it is still not whole at a second look. What a later batch knows to be durable was complete by then.

Invariant: damage is a part of the description, not an error. So everything that can be read is shown.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from uuid import UUID

from jetdr_core.errors import JetdrError, LogDamaged, LogError
from jetdr_core.limits import BLOCK_BYTES
from jetdr_core.replication_log import superblock
from jetdr_core.replication_log.reader import BadBatch, LogReader
from jetdr_core.replication_log.recovery_scan import RecoveryOutcome, recover
from jetdr_core.replication_log.registry import ReadOnlyVolume, look_at_volume
from jetdr_core.replication_log.section import Section
from jetdr_core.replication_log.superblock import SECTION_LAYOUT, SectionBody, SectionRow
from jetdr_core.replication_log.superblock_copies import SuperblockCopies
from jetdr_core.replication_log.volume import LogVolume

_ATTEMPTS = 64
"""How often a superblock is read at most before it is called damaged: its owner may be writing it."""

_LOOKS_MAX = 64
"""How often the end of a log is looked for before it is told without it: its owner may be writing all the time."""


@dataclass(frozen=True)
class SectionDescription:
    """One section. Sizes are in bytes, positions virtual. What damage hides is None.

    If it was ``moving`` while it was read, what is said of it was true at some moment meanwhile.
    """

    name: str
    domain_uuid: UUID
    offset: int
    section_bytes: int
    epoch: int | None = None
    timeline: int | None = None
    data_bytes: int | None = None
    used_bytes: int | None = None
    tail_position: int | None = None
    head_position: int | None = None
    lsn_first: int | None = None
    lsn_last: int | None = None
    lsn_uploaded: int | None = None
    time_last_ns: int | None = None
    batches: int | None = None
    clean: bool | None = None
    cut_bytes: int | None = None
    end: str | None = None
    damage: str | None = None
    moving: bool = False

    @property
    def fill(self) -> float | None:
        """The used part of the section, 0 to 1."""
        return self.used_bytes / self.data_bytes if self.used_bytes is not None and self.data_bytes else None


@dataclass(frozen=True)
class VolumeDescription:
    """A volume and its sections."""

    path: str
    volume_uuid: UUID
    owner: UUID
    size_bytes: int
    device_bytes: int
    superblock_sequence: int
    sections: tuple[SectionDescription, ...]

    def as_json(self) -> dict[str, object]:
        """Return plain numbers, strings, lists and dicts."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}

    def lines(self) -> list[str]:
        """Return the description for a terminal."""
        head = [
            f"log volume {self.path}",
            f"  volume {self.volume_uuid}, owner {self.owner}",
            f"  {self.size_bytes} bytes ({self.device_bytes} on the device), superblock {self.superblock_sequence}",
        ]
        return head + [line for section in self.sections for line in _section_lines(section)]


def describe_volume(path: str | os.PathLike[str]) -> VolumeDescription:
    """Describe the volume at ``path``. Its sections and their logs are read from tail to head.

    Raises what opening the volume raises. Damage of a section is described, not raised.
    """
    volume, device = _look(path)
    try:
        return VolumeDescription(
            path=os.fspath(path),
            volume_uuid=volume.uuid,
            owner=volume.owner,
            size_bytes=volume.size_bytes,
            device_bytes=device.size_bytes,
            superblock_sequence=volume.sequence,
            sections=tuple(describe_section(volume, row) for row in volume.sections),
        )
    finally:
        device.close()


def _look(path: str | os.PathLike[str]) -> ReadOnlyVolume:
    for _ in range(_ATTEMPTS - 1):
        try:
            return look_at_volume(path)
        except LogError:
            continue
    return look_at_volume(path)


def describe_section(volume: LogVolume, row: SectionRow) -> SectionDescription:
    """Describe one section of a volume that was opened for inspection."""
    bare = SectionDescription(row.name, row.domain_uuid, row.offset, row.section_bytes)
    description = bare
    for _ in range(_ATTEMPTS):
        try:
            section = volume.open_section(row.name)
        except (JetdrError, OSError) as error:
            description = dataclasses.replace(bare, damage=str(error))
            continue
        try:
            return _described(section, bare)
        finally:
            section.close()
    return description


def _described(section: Section, bare: SectionDescription) -> SectionDescription:
    log = _MovingLog(section)
    try:
        outcome = log.find_end()
    except (JetdrError, OSError) as error:
        return dataclasses.replace(_with_superblock(bare, log.body), damage=str(error), moving=log.is_moving)
    known = dataclasses.replace(_with_superblock(bare, log.body), moving=log.is_moving)
    return known if outcome is None else _with_outcome(known, log.body, outcome)


class _MovingLog:
    """The log of a section, followed while its owner may write it. ``body`` is the superblock that was read last."""

    def __init__(self, section: Section) -> None:
        self.body = section.body
        self.is_moving = False
        self._section = section
        self._reader = LogReader(section.device, section.body.area, where=section.where)
        self._cursor = section.body.tail

    def find_end(self) -> RecoveryOutcome | None:
        """Where the log ended at some moment since the call. None if it moved on whenever it was looked at.

        :class:`LogDamaged` if a batch that was durable is not whole.
        """
        for _ in range(_LOOKS_MAX):
            self._follow()
            try:
                outcome = recover(
                    self._section.device, self.body._replace(tail=self._cursor), where=self._section.where
                )
            except LogDamaged:
                if not self._look_again():
                    raise
                continue
            self._cursor = outcome.head
            has_more = self._look_again()
            if outcome.head == self._cursor:
                return outcome._replace(cut_bytes=0, case=None) if has_more else outcome
        return None

    def _follow(self) -> None:
        """Go on to the first batch that is not whole."""
        limit = self.body.tail.position + self.body.data_bytes
        while self._cursor.position + BLOCK_BYTES <= limit:
            found = self._reader.examine(self._cursor, limit)
            if isinstance(found, BadBatch):
                return
            self._cursor = found.end

    def _look_again(self) -> bool:
        """Whether the log goes on: the tail has passed the cursor, which moves there, or its batch is whole by now."""
        before, self.body = self.body, self._read_superblock()
        self.is_moving |= before != self.body
        self._reader.forget()
        if self.body.tail.position > self._cursor.position:
            self._cursor = self.body.tail
            return True
        limit = self.body.tail.position + self.body.data_bytes
        has_room = self._cursor.position + BLOCK_BYTES <= limit
        has_more = has_room and not isinstance(self._reader.examine(self._cursor, limit), BadBatch)
        self.is_moving |= has_more
        return has_more

    def _read_superblock(self) -> SectionBody:
        """The superblock. Copies that differ from look to look are being written, and the one known before is kept."""
        row, where = self._section.row, self._section.where
        copies, seen = SuperblockCopies(self._section.device, SECTION_LAYOUT, row.offset, where=where), None
        for _ in range(_ATTEMPTS):
            before, seen = seen, copies.read_all()
            try:
                election = superblock.elect(SECTION_LAYOUT, seen, where=where)
                return superblock.decode_section(election.winner.body, where=where)
            except LogError:
                if seen == before:
                    raise
        self.is_moving = True
        return self.body


def _with_superblock(bare: SectionDescription, body: SectionBody) -> SectionDescription:
    return dataclasses.replace(
        bare,
        epoch=body.epoch,
        timeline=body.timeline,
        data_bytes=body.data_bytes,
        tail_position=body.tail.position,
        lsn_first=body.tail.lsn + 1,
        lsn_uploaded=body.lsn_uploaded,
        clean=body.clean,
    )


def _with_outcome(known: SectionDescription, body: SectionBody, outcome: RecoveryOutcome) -> SectionDescription:
    return dataclasses.replace(
        known,
        used_bytes=outcome.head.position - body.tail.position,
        head_position=outcome.head.position,
        lsn_last=outcome.head.lsn,
        time_last_ns=outcome.head.time_ns,
        batches=outcome.head.batch_number - body.tail.batch_number,
        clean=outcome.clean,
        cut_bytes=outcome.cut_bytes,
        end=_end(known, outcome),
    )


def _end(known: SectionDescription, outcome: RecoveryOutcome) -> str:
    if outcome.case is not None:
        return outcome.case.label
    return "it goes on" if known.moving else "the log is full"


def _section_lines(section: SectionDescription) -> list[str]:
    lines = [
        f"section {section.name}",
        f"  domain {section.domain_uuid}, {section.section_bytes} bytes at {section.offset}",
    ]
    if section.epoch is not None:
        lines.append(
            f"  epoch {section.epoch}, timeline {section.timeline}, uploaded up to LSN {section.lsn_uploaded}, "
            f"{'closed cleanly' if section.clean else 'in use, or not closed cleanly'}"
        )
    if section.fill is not None:
        lines.append(
            f"  {_held(section)}, {section.used_bytes} of {section.data_bytes} bytes ({section.fill:.1%}), "
            f"positions {section.tail_position} to {section.head_position}"
        )
        lines.append(f"  ends with: {section.end}; {section.cut_bytes} bytes cut")
    if section.moving:
        lines.append("  in use: it moved while it was read")
    if section.damage is not None:
        lines.append(f"  DAMAGED: {section.damage}")
    return lines


def _held(section: SectionDescription) -> str:
    if not section.batches:
        return f"no record, LSN {section.lsn_first} is next"
    return f"LSN {section.lsn_first} to {section.lsn_last} in {section.batches} batches"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, UUID) else value
