"""Standby: sees that the guests of a domain that is closed have their disks.

A domain may be closed for long: its log's device is away, its section is damaged, its log and store do not belong
together. None of that concerns its guests. A host component that lives goes on by itself. One that has died, or that
was never started after the machine was, is started here from the known file and the configuration.

Invariants: what it serves bypasses the log, or goes into the ring that holds all that is pending. That guests may have
bypassed the log is in the state folder, durably, before the host component is started, and the next opening owes a gap.
In write-back nothing is served unless the primaries, with the ring, hold everything that was acknowledged. The caller
sees to it that the domain is not open meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jetdr_core._core import MapStart, Ring
from jetdr_core.catalog import DiskState
from jetdr_core.domain.disk_identity import read_stamp
from jetdr_core.domain.generation import Generation, Word
from jetdr_core.domain.hosting.bypassed_file import BypassedFile, served_file
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.domain.known_file import KnownFile
from jetdr_core.domain.known_record import KnownRecord
from jetdr_core.errors import JetdrError
from jetdr_core.file_making import told
from jetdr_core.host import HostComponent, HostOptions, MapRequest, StartDisk
from jetdr_core.options import DomainOptions

__all__ = ["ClosedGuests", "Standby"]

log = logging.getLogger(__name__)

ALL_OWED = MapRequest(MapStart.UNCERTAIN, 0, 0, str(Generation(0)), str(Generation(0)), 0, 0)
"""No log is of this generation. So the map is believed only once a log has gone on with it."""

NEVER = Generation(0)
"""No log is of this generation, so no log is continued by a ring that says so."""


@dataclass(frozen=True, slots=True)
class ClosedGuests:
    """How the guests of a closed domain are.

    ``bypassing_since_ns``: since when a host component that was started here lets writes bypass the log, 0 if none.
    ``why_waiting``: why guests wait for their disks, or for some of them. Empty if they do not.
    """

    bypassing_since_ns: int = 0
    why_waiting: str = ""


class Standby:
    """For the domain ``name``. ``paths`` tells where its disks are, by name. One call at a time, and each may block."""

    def __init__(
        self, name: str, host: HostOptions, options: DomainOptions, paths: Callable[[], Mapping[str, str]]
    ) -> None:
        self._name = name
        self._options = options
        self._host = host
        self._paths = paths
        self._component = HostComponent(name, host)
        self._known_file = KnownFile(Path(host.state), name)
        self._served_file = served_file(Path(host.state), name)
        self._bypassed_file = BypassedFile(Path(host.state), name)
        self._since_ns = 0
        self._incomplete = ""

    def look(self) -> ClosedGuests:
        """See that a host component runs, and start it if that loses nothing."""
        try:
            if not self._component.running():
                self._start()
            elif self._incomplete:
                self._add_disks(self._record())
        except _NeverServed:
            return ClosedGuests()
        except (JetdrError, OSError, _Wait) as error:
            return ClosedGuests(why_waiting=told(error))
        return ClosedGuests(self._since_ns, self._incomplete)

    def end(self) -> None:
        """The domain is opened: what was found here is out of date."""
        self._since_ns, self._incomplete = 0, ""

    def _record(self) -> KnownRecord:
        record = self._known_file.read()
        if record is None and not self._component.folder.exists():
            raise _NeverServed
        if record is None:
            raise _Wait("its state folder does not know the domain, so only its log and store can tell its disks")
        return record

    def _start(self) -> None:
        record = self._record()
        place = RingPlace(Path(self._host.runtime) / self._name, record.domain_uuid)
        ring = place.open()
        try:
            if ring is not None and ring.host_alive:
                raise _Wait("its host component lives, but its control socket is gone")
            if self._host.write_back:
                self._start_write_back(record, place, ring)
            else:
                self._start_write_through(record, place, ring)
        finally:
            if ring is not None:
                ring.leave()
        log.warning("domain %s: its host component was started while the domain is closed", self._name)

    def _start_write_through(self, record: KnownRecord, place: RingPlace, ring: Ring | None) -> None:
        """Writes bypass the log: what a host component that died had not logged is unknown to the ring anyway."""
        if record.write_back and not record.ended:
            raise _Wait("its log ran in write-back mode and was not closed, so it may hold what its disks lack")
        self._begin_bypass()
        if ring is None:
            self._make_ring(record, place)
        else:
            ring.stop_logging()
        self._component.start(place.path, record.domain_uuid, map_folder=self._options.map_folder)
        self._add_disks(record)

    def _start_write_back(self, record: KnownRecord, place: RingPlace, ring: Ring | None) -> None:
        """A ring that the log is known to go on with has all that is pending. Without one nothing may be pending."""
        goes_on = any(one is not None and place.goes_on_with(one) for one in (record.log, record.next))
        if ring is not None and (not ring.write_back or not goes_on):
            raise _Wait("its ring was not last used with its log, which may hold what its disks lack")
        if ring is None:
            if not record.ended:
                raise _Wait("its ring is lost, and its log, which was not closed, may hold what its disks lack")
            self._check_stamps(record)
            self._begin_bypass()
            self._bypassed_file.create()
            self._make_ring(record, place)
        states = record.folded_history().disks
        disks = [StartDisk(one.disk, one.name, one.size_bytes, self._path(one)) for one in states]
        self._component.start(place.path, record.domain_uuid, disks=disks, bypassed_path=self._bypassed_file.path)

    def _check_stamps(self, record: KnownRecord) -> None:
        """Refuse disks that were served since the end that ``record`` knows of: the log may hold what they lack."""
        for state in record.folded_history().disks:
            stamp = read_stamp(self._path(state))
            if stamp is not None and record.log.word_of(stamp) in {Word.NEWER, Word.APART}:
                raise _Wait(f"its state folder is an older copy: disk {state.name!r} {Word.NEWER.value}")

    def _begin_bypass(self) -> None:
        self._served_file.make_folder()
        self._served_file.create()
        self._since_ns = time.time_ns()

    def _make_ring(self, record: KnownRecord, place: RingPlace) -> None:
        payload_bytes = self._options.ring_bytes
        while payload_bytes < 2 * record.record_bytes_max:
            payload_bytes *= 2
        ring = place.make(
            payload_bytes=payload_bytes,
            slots=self._options.ring_slots,
            lsn_next=record.lsn + 1,
            time_ns_last=0,
            record_bytes_max=record.record_bytes_max,
            write_back=self._host.write_back,
        )
        try:
            ring.stop_logging()
            place.publish(NEVER)
        finally:
            ring.leave()

    def _add_disks(self, record: KnownRecord) -> None:
        """Have every disk served that can be. The others are tried again."""
        failed = []
        for state in record.folded_history().disks:
            try:
                path = self._path(state)
                if self._host.write_back:
                    self._component.control.add(state.disk, state.size_bytes, 0, state.name, path)
                else:
                    self._component.control.add_mapped(state.disk, state.size_bytes, state.name, path, ALL_OWED)
            except (JetdrError, OSError, _Wait) as error:
                failed.append(told(error))
        self._incomplete = "; ".join(failed)

    def _path(self, state: DiskState) -> str:
        """Where the configuration says that the disk is."""
        path = self._paths().get(state.name)
        if path is None:
            raise _Wait(f"the configuration does not say where disk {state.name!r} is")
        return path


class _NeverServed(Exception):
    """Nothing says that this domain ever had guests."""


class _Wait(Exception):
    """Guests wait, because serving them could lose something."""
