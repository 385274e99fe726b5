"""Describes a log volume for people and programs, without changing it, even while its owner writes.

Invariant: damage is a part of the description, not an error. So everything that can be read is shown.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from uuid import UUID

from jetdr_core.errors import JetdrError
from jetdr_core.replication_log.recovery_scan import RecoveryOutcome, recover
from jetdr_core.replication_log.registry import look_at_volume
from jetdr_core.replication_log.section import Section
from jetdr_core.replication_log.superblock import SectionBody, SectionRow
from jetdr_core.replication_log.volume import LogVolume

_ATTEMPTS = 3
"""How often to look before calling it damage: a running owner may move the tail meanwhile."""


@dataclass(frozen=True)
class SectionDescription:
    """One section. Sizes are in bytes, positions virtual. What damage hides is None."""

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
    volume, device = look_at_volume(path)
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


def describe_section(volume: LogVolume, row: SectionRow) -> SectionDescription:
    """Describe one section of a volume that was opened for inspection."""
    bare = SectionDescription(row.name, row.domain_uuid, row.offset, row.section_bytes)
    description = bare
    for _ in range(_ATTEMPTS):
        description = _describe_once(volume, row, bare)
        if description.damage is None:
            break
    return description


def _describe_once(volume: LogVolume, row: SectionRow, bare: SectionDescription) -> SectionDescription:
    try:
        section = volume.open_section(row.name)
    except (JetdrError, OSError) as error:
        return dataclasses.replace(bare, damage=str(error))
    try:
        return _described(section, _with_superblock(bare, section.body))
    finally:
        section.close()


def _described(section: Section, known: SectionDescription) -> SectionDescription:
    try:
        return _with_outcome(known, section.body, recover(section.device, section.body, where=section.where))
    except (JetdrError, OSError) as error:
        return dataclasses.replace(known, damage=str(error))


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
        batches=outcome.batches,
        clean=outcome.clean,
        cut_bytes=outcome.cut_bytes,
        end=outcome.case.label if outcome.case else "the log is full",
    )


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
