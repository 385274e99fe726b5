"""HostedMap: the dirty map of a disk that the host component serves. HostMaps: what the host component is told of it.

Invariants: a map goes on from an earlier one only if nobody wrote to the disk without it since, as far as anybody here
knows. In any doubt all of the disk is owed a copy. What was said once is not said again: a map that began with nothing
owed may have marks by now, even if the reply was lost.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from jetdr_core._core import MapFound, MapStart, MapState, Ring
from jetdr_core.domain.disk_map import WHY, sidecar_place
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.primary import Primary
from jetdr_core.errors import JetdrError
from jetdr_core.host import HostControl, MapRequest
from jetdr_core.ownership import open_own
from jetdr_core.replication_log import ReplicationLog
from jetdr_core.resync import Region, regions_between

__all__ = ["HostMaps", "HostedMap"]

log_ = logging.getLogger(__name__)


class HostedMap:
    """The map of disk ``number``. ``state`` is as last reported, and None before that."""

    def __init__(self, control: HostControl, number: int, size_bytes: int) -> None:
        self._control = control
        self._number = number
        self._size_bytes = size_bytes
        self.state: MapState | None = None

    @property
    def owed_bytes(self) -> int:
        return 0 if self.state is None else min(self.state.owed_bytes, self._size_bytes)

    def look(self) -> MapState | None:
        return self.state

    def owes_any(self) -> bool:
        return self._control.owed(self._number, 0) is not None

    surely_owes = False
    """With logging on nothing comes to be owed, and with logging off no gap is closed. So nobody need wait to know."""

    def settle(self) -> None:
        """Wait, and ask how much is owed."""
        self._control.settle(self._number)
        found = self._control.stats().get(self._number)
        self.state = None if found is None else found.map

    def owed_regions(self, primary: Primary) -> Iterator[Region]:
        at = 0
        while (extent := self._control.owed(self._number, at)) is not None:
            offset, length = extent
            at = offset + length
            yield from regions_between(primary.device.fileno(), offset, at)


class HostMaps:
    """For the disks of one open domain. ``earlier`` is the generation that the log was last used under.

    ``folder`` is where sidecars lie, or empty: beside their disks. Of a disk that nothing is known of, all is owed.
    """

    def __init__(self, log: ReplicationLog, ring: Ring, earlier: Generation, folder: str) -> None:
        self._log = log
        self.folder = folder
        self._ring = ring
        self._earlier = earlier
        self._starts: dict[int, MapStart] = {}
        self._begun: set[int] = set()

    def remove(self, number: int, path: str) -> None:
        """The disk is not protected any more, so its sidecar is of no use. One that cannot be removed stays."""
        place = sidecar_place(self.folder, self._log.body.domain_uuid, number, path)
        with suppress(JetdrError, OSError):
            os.close(open_own(place, os.O_RDONLY))  # refuses what no run of this user made
            place.unlink()

    def begin(self, starts: Mapping[int, MapStart]) -> None:
        """Say what is known of disks before they are served for the first time."""
        self._starts.update(starts)

    def knows(self, number: int) -> bool:
        """Return whether anything is known of the disk."""
        return number in self._starts

    def doubt(self, number: int) -> None:
        """Somebody else may have written to the disk, or it may be another one."""
        self._starts[number] = MapStart.UNCERTAIN

    def request(self, number: int) -> MapRequest:
        """Return what the host component is told when the disk is added."""
        generation, start = Generation.of_log(self._log), self._starts.get(number, MapStart.UNCERTAIN)
        if start is MapStart.AGREES:
            self._went_on(number)
        is_begun, off, head = number in self._begun, self._ring.off(), self._log.outcome.head
        return MapRequest(
            start=start,
            section_id=self._log.body.section_id,
            timeline=self._log.body.timeline,
            earlier=str(generation if is_begun else self._earlier),
            generation=str(generation),
            log_lsn=self._ring.lsn_durable if is_begun else head.lsn,
            log_time_ns=head.time_ns if not is_begun else 0 if off.logging else max(off.since_ns, 0),
        )

    def added(self, number: int, name: str, found: MapFound | None) -> str:
        """The disk is served, with what was found of its map. Returns why others have changed it, empty if not."""
        self._went_on(number)
        if found in {None, MapFound.BELIEVED}:
            return ""
        log_.warning("disk %s: all of it is to be copied: %s", name, WHY[found])
        return f"disk {name!r}: {WHY[found]}" if found in {MapFound.CHANGED, MapFound.REPLACED} else ""

    def _went_on(self, number: int) -> None:
        self._starts[number] = MapStart.MARKED
        self._begun.add(number)
