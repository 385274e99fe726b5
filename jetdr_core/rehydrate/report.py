"""What a recovery reports at its end. Frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jetdr_core.catalog import RecoveryPoint
from jetdr_core.extent import DamagedExtent

__all__ = ["DiskReport", "Report"]


@dataclass(frozen=True, slots=True)
class DiskReport:
    """One recovered disk. ``path`` is the file to open.

    ``bytes_written`` is what this run wrote of the live data, ``bytes_resumed`` what an earlier, interrupted run had
    written. ``bytes_fetched`` is the disk's share of what was read from the store. ``lsn`` and ``time_ns`` are the
    point's. Extents in ``damaged`` read as zeros, because their only copy is damaged. If an index is damaged, they may
    also be older than the point.
    """

    name: str
    path: Path
    size_bytes: int
    bytes_written: int
    bytes_resumed: int
    bytes_fetched: int
    lsn: int
    time_ns: int
    damaged: tuple[DamagedExtent, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A finished recovery: the point, its disks, and the configuration files written beside them.

    ``is_old`` says that guests wrote on after the point, if it is the latest one of a domain in a gap. Empty if not.
    """

    point: RecoveryPoint
    disks: tuple[DiskReport, ...]
    configs: tuple[Path, ...]
    is_old: str = ""

    @property
    def damaged(self) -> tuple[DamagedExtent, ...]:
        """The damaged extents of all disks."""
        return tuple(extent for disk in self.disks for extent in disk.damaged)
