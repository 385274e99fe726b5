"""VolumeView: the description of a log volume, as text and as JSON."""

from __future__ import annotations

from dataclasses import dataclass

from jetdr_core.cli.catalog_json import Json, time_json
from jetdr_core.cli.terminal import Terminal
from jetdr_core.replication_log import SectionDescription, VolumeDescription

__all__ = ["VolumeView"]


@dataclass(frozen=True, slots=True)
class VolumeView:
    """A described log volume."""

    volume: VolumeDescription

    @property
    def name(self) -> str:
        return self.volume.path

    @property
    def is_damaged(self) -> bool:
        return any(section.damage is not None for section in self.volume.sections)

    def show(self, terminal: Terminal, *, entries: bool = False) -> None:
        """Print the volume. It has no ``entries``."""
        del entries
        for line in self.volume.lines():
            terminal.say(line, style="red" if "DAMAGED" in line else "")

    def as_json(self, *, entries: bool = False) -> Json:
        del entries
        return {
            "kind": "log volume",
            "path": self.volume.path,
            "volume_uuid": str(self.volume.volume_uuid),
            "owner": str(self.volume.owner),
            "size_bytes": self.volume.size_bytes,
            "device_bytes": self.volume.device_bytes,
            "superblock_sequence": self.volume.superblock_sequence,
            "sections": [_section(section) for section in self.volume.sections],
        }


def _section(section: SectionDescription) -> Json:
    return {
        "name": section.name,
        "domain_uuid": str(section.domain_uuid),
        "offset": section.offset,
        "section_bytes": section.section_bytes,
        "epoch": section.epoch,
        "timeline": section.timeline,
        "data_bytes": section.data_bytes,
        "used_bytes": section.used_bytes,
        "tail_position": section.tail_position,
        "head_position": section.head_position,
        "lsn_first": section.lsn_first,
        "lsn_last": section.lsn_last,
        "lsn_uploaded": section.lsn_uploaded,
        **time_json("time_last", section.time_last_ns),
        "batches": section.batches,
        "clean": section.clean,
        "cut_bytes": section.cut_bytes,
        "end": section.end,
        "moving": section.moving,
        "damage": section.damage,
    }
