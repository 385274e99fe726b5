"""DiskMap: the dirty map of one disk, with the sidecar that it is kept in.

Invariants: a map that begins without an earlier one gets a file of its own, so that whoever still has the earlier file
open does not write to it. What is at the sidecar's place is believed only if an earlier run of this user made it. A
sidecar that cannot be had costs nobody anything but a copy of the whole disk after the next unclean stop.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import UUID

from jetdr_core._core import DirtyMap, MapFound, MapStart, MapState
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.primary import Primary
from jetdr_core.durable import new_file, sync_folder
from jetdr_core.errors import InvalidRequest
from jetdr_core.limits import BLOCK_BYTES
from jetdr_core.ownership import open_own
from jetdr_core.replication_log import ReplicationLog
from jetdr_core.resync import Region, regions_between

__all__ = ["WHY", "DiskMap", "MapMaker", "sidecar_place"]

log_ = logging.getLogger(__name__)

WHY: dict[MapFound, str] = {
    MapFound.NONE: "it has no dirty map",
    MapFound.DAMAGED: "its dirty map is damaged",
    MapFound.NEWER: "its dirty map is of a newer version",
    MapFound.FOREIGN: "its dirty map is another disk's",
    MapFound.RESIZED: "its dirty map is of a disk of another size",
    MapFound.OTHER_LOG: "its dirty map was kept with another log",
    MapFound.STALE: "its dirty map was not kept when the log was last used",
    MapFound.REPLACED: "another file took its place",
    MapFound.CHANGED: "it was changed after its dirty map was last kept",
    MapFound.OLDER: "its dirty map is older than the log",
    MapFound.LOG_OLDER: "its dirty map relies on records that the log no longer has",
}


class _Sidecar:
    """An open sidecar, as native code takes a device."""

    block_bytes = BLOCK_BYTES

    def __init__(self, fd: int, place: Path) -> None:
        self._fd = fd
        self._place = place

    def fileno(self) -> int:
        return self._fd

    def remove(self) -> None:
        """Remove the file, unless another has its name by now."""
        with suppress(OSError):
            if os.path.samestat(os.stat(self._place, follow_symlinks=False), os.fstat(self._fd)):
                self._place.unlink()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class DiskMap:
    """``native`` is for the disk's IO filter. ``name`` is the disk's, for messages."""

    def __init__(self, name: str, native: DirtyMap, sidecar: _Sidecar | None) -> None:
        self.native = native
        self._name = name
        self._sidecar = sidecar
        self._ended = False
        self._reported = False

    @property
    def owed_bytes(self) -> int:
        """Of how much a copy is owed, in whole regions, at most the size of the disk."""
        return min(self.native.state().owed_bytes, self.native.size_bytes)

    def look(self) -> MapState:
        """Return how the map is."""
        return self.native.state()

    def owes_any(self) -> bool:
        """Return whether a copy of anything is owed."""
        return self.native.next_owed(0) is not None

    @property
    def surely_owes(self) -> bool:
        return self.owes_any()

    def settle(self) -> None:
        """Nothing to wait for: logging is always on, so no write in flight becomes owed without its caller's error."""

    def report_failure(self) -> None:
        """Log, once, that the map is not kept on disk any more."""
        failed = self.native.state().failed_errno
        if failed and self._sidecar is not None and not self._reported:
            self._reported = True
            log_.error(
                "disk %s: its dirty map cannot be written: %s. After an unclean stop all of the disk is resynced",
                self._name,
                os.strerror(failed),
            )

    def owed_regions(self, primary: Primary) -> Iterator[Region]:
        """Return what is owed a copy, data and holes in order. What comes to be owed meanwhile may be left out."""
        at = 0
        while (extent := self.native.next_owed(at)) is not None:
            offset, length = extent
            at = offset + length
            yield from regions_between(primary.device.fileno(), offset, at)

    def end(self) -> None:
        """Nobody writes to the disk any more. The map is kept for the next opening. The last call, like give_up."""
        if not self._ended:
            self.native.end()
            self._close()

    def give_up(self) -> None:
        """The disk goes on without this map, so that nobody may believe it later."""
        if not self._ended:
            self.native.give_up()
            if self._sidecar is not None:
                self._sidecar.remove()
            self._close()

    def _close(self) -> None:
        """Close the sidecar, whose descriptor native code must not use any more."""
        self._ended = True
        if self._sidecar is not None:
            self._sidecar.close()


@dataclass(frozen=True, slots=True)
class MapMaker:
    """Begins the maps of the disks of a domain. ``earlier`` is the generation that the log was last used under.

    ``folder`` is where sidecars lie, or empty: beside their disks.
    """

    log: ReplicationLog
    earlier: Generation
    folder: str

    def begin(self, number: int, name: str, primary: Primary, start: MapStart, size_bytes: int) -> DiskMap:
        """Begin the map of a disk of ``size_bytes``, whose primary is open."""
        head, sidecar = self.log.outcome.head, self._open(number, name, primary, start, size_bytes)
        native = DirtyMap(
            cast("BlockDevice | None", sidecar),  # native code asks a descriptor for no more
            primary_fd=primary.device.fileno(),
            domain=self.log.body.domain_uuid.bytes,
            disk=number.to_bytes(16, "little"),
            size_bytes=size_bytes,
            section_id=self.log.body.section_id,
            timeline=self.log.body.timeline,
            earlier=self.earlier,
            generation=Generation.of_log(self.log),
            start=start,
            log_lsn=head.lsn,
            log_time_ns=head.time_ns,
        )
        if native.found is not MapFound.BELIEVED:
            log_.warning("disk %s: all of it is to be copied: %s", name, WHY[native.found])
        return DiskMap(name, native, sidecar)

    def place(self, number: int, primary: Primary) -> Path | None:
        """Return where the sidecar lies. None if nobody has said so: a device has no place beside it."""
        if not self.folder and not (primary.path and os.path.isfile(primary.path)):
            return None
        return sidecar_place(self.folder, self.log.body.domain_uuid, number, primary.path)

    def _open(self, number: int, name: str, primary: Primary, start: MapStart, size_bytes: int) -> _Sidecar | None:
        place = self.place(number, primary)
        if place is None:
            return None
        try:
            if start is MapStart.MARKED:
                with suppress(FileNotFoundError):
                    return _Sidecar(_open_left(place), place)
            return _Sidecar(_make(place, DirtyMap.file_bytes(size_bytes)), place)
        except (InvalidRequest, OSError) as error:
            log_.warning("disk %s: its dirty map is kept in memory alone: %s", name, error)
            return None


def sidecar_place(folder: str, domain_uuid: UUID, number: int, path: str) -> Path:
    """Return where the sidecar of the disk at ``path`` lies. ``folder`` empty: beside it."""
    return Path(folder) / f"{domain_uuid}-{number}.jetdr-map" if folder else Path(f"{path}.jetdr-map")


def _open_left(place: Path) -> int:
    """Open what an earlier run left. One that has another name too is not, because that file would be written to."""
    fd = open_own(place, os.O_RDWR)
    if os.fstat(fd).st_nlink == 1:
        return fd
    os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "it has another name too", str(place))


def _make(place: Path, length: int) -> int:
    """Make a sidecar of zeros in place of an earlier one. Content and name are durable at return."""
    if os.path.lexists(place):
        os.close(open_own(place, os.O_RDONLY))  # refuses what no run of this user made
        place.unlink()
    with new_file(place) as file:
        file.write(bytes(length))
    sync_folder(place.parent)
    return open_own(place, os.O_RDWR)
