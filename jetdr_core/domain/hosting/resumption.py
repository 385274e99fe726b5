"""Resumption: what a hosted domain finds of its ring and its host component, and how it goes on from there.

Invariants: what can be refused is refused by :func:`look`, which changes nothing; the ring gives back what the log
holds only once that is durable; a ring that is given up is forgotten only with logging off, so that writes go past it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jetdr_core._core import Ring
from jetdr_core.catalog import DomainHistory
from jetdr_core.domain.hosting.bypassed_file import BypassedFile
from jetdr_core.domain.hosting.continuity import NOTHING_OWED, Found, HostFound, LogFound, RingFound, decide
from jetdr_core.domain.hosting.replay import flush, replay
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.domain.log_section import check_write_mode, write_mode
from jetdr_core.domain.primary import Primary
from jetdr_core.errors import InvalidRequest, JetdrError, RingApart, StallTimeout
from jetdr_core.host import HostOptions
from jetdr_core.replication_log import ReplicationLog

__all__ = ["Resumption", "RingSettings", "look"]

log_ = logging.getLogger(__name__)

RESET_LIMIT_S = 60.0
"""A host component that holds room in the ring for longer has a primary that does not answer."""

RESET_POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSettings:
    """How a ring that is made or begun anew is to be."""

    payload_bytes: int
    slots: int
    lsn_next: int
    time_ns_last: int
    record_bytes_max: int


@dataclass(slots=True)
class Resumption:
    """Made by :func:`look`; :meth:`begin` then fills in ``ring`` and all below it.

    ``goes_on``: the survivor, if any, was last used with this log at this epoch. ``lsn_kept``: up to there the ring may
    hold control records that the log did not. ``gap``: why one is owed behind what log and store hold, ``stopped``: why
    logging was switched off here; empty for neither.
    """

    place: RingPlace
    marker: BypassedFile | None
    survivor: Ring | None
    goes_on: bool
    ring: Ring | None = None
    lsn_kept: int = 0
    gap: str = ""
    stopped: str = ""

    def close(self) -> None:
        """Leave the ring to others; twice is harmless."""
        for ring in (self.survivor, self.ring):
            if ring is not None:
                ring.leave()

    def claimed(self, log: ReplicationLog, epoch: int) -> None:
        """The log is about to begin ``epoch``: a ring that goes on with it now will do so then."""
        if self.survivor is not None and self.goes_on:
            self.place.note(log.body.epoch, epoch)

    def begin(
        self,
        log: ReplicationLog,
        settings: RingSettings,
        history: DomainHistory,
        primaries: Mapping[int, Primary],
        *,
        found_log: LogFound,
    ) -> Ring:
        """Get the ring that the log, begun and not yet started, is to drain. What is owed stands in :attr:`gap`."""
        if self.marker is not None:
            self.marker.make_folder()
        survivor = self.survivor
        write_back = self.marker is not None
        if survivor is None or survivor.write_back != write_back:  # of the other mode: the log was closed clean since
            ring_found = RingFound.NONE
        elif not self.goes_on:
            ring_found = RingFound.APART if survivor.host_alive else RingFound.NONE
        else:
            ring_found = _meet(survivor, settings.lsn_next - 1, found_log)
        found = Found(
            ring=ring_found,
            log=found_log,
            host=_host(survivor),
            logging=survivor is None or survivor.logging,
            write_back=write_back,
            marker=self.marker is not None and self.marker.stands,
        )
        continuity = decide(found)
        self.gap, self.stopped = continuity.gap, continuity.stop
        at_rest = found.logging and found.host is not HostFound.ALIVE
        if self.marker is not None and at_rest and continuity == NOTHING_OWED:
            self.marker.remove()  # of a domain that had this name before, or of a host component as it died
        if continuity.replay:
            replay(log, history, primaries)
        if survivor is not None and ring_found is RingFound.KEPT and found.host is HostFound.DIED and write_back:
            _flush(survivor, history, primaries)
        self.ring = self._ring(ring_found, settings, log.body.epoch)
        if self.stopped:
            self.ring.stop_logging()
        self.lsn_kept = self.ring.lsn_reserved
        log_.info("%s: %s; owed: %s", self.place.path, found, self.gap or self.stopped or "nothing")
        return self.ring

    def _ring(self, found: RingFound, settings: RingSettings, epoch: int) -> Ring:
        """The ring to go on with: the survivor if it can be, else a new one in its place."""
        survivor = self.survivor
        if survivor is not None and found is RingFound.KEPT:
            return survivor
        if survivor is not None and survivor.host_alive:
            _forget(survivor, settings)
            self.place.note(epoch)
            return survivor
        if survivor is not None:
            survivor.leave()
        return self.place.make(
            payload_bytes=settings.payload_bytes,
            slots=settings.slots,
            lsn_next=settings.lsn_next,
            time_ns_last=settings.time_ns_last,
            record_bytes_max=settings.record_bytes_max,
            write_back=self.marker is not None,
        )


def look(name: str, options: HostOptions, log: ReplicationLog) -> Resumption:
    """Find the ring, and see that the domain can go on in the way asked for. The caller closes the result."""
    marker = BypassedFile(Path(options.state), name) if options.write_back else None
    check_write_mode(name, log, write_back=options.write_back)
    place = RingPlace(Path(options.runtime) / name, log.body.domain_uuid)
    found = Resumption(place, marker, place.open(), place.goes_on_with(log.body.epoch))
    try:
        _check_survivor(name, options, log, found.survivor)
    except BaseException:
        found.close()
        raise
    return found


def _check_survivor(name: str, options: HostOptions, log: ReplicationLog, ring: Ring | None) -> None:
    if ring is None or not ring.host_alive:
        return
    if ring.write_back != options.write_back:
        raise InvalidRequest(
            f"the host component of domain {name!r} runs in {write_mode(write_back=ring.write_back)} mode",
            hint="stop it, then open the domain in the other mode",
        )
    if ring.record_bytes_max > log.write_bytes_max:
        raise InvalidRequest(
            f"the host component of domain {name!r} writes records of up to {ring.record_bytes_max} bytes, "
            f"the log takes {log.write_bytes_max}",
            hint="use a larger log, or stop the host component first",
        )


def _flush(ring: Ring, history: DomainHistory, primaries: Mapping[int, Primary]) -> None:
    """What the host component wrote before it died need not be in the log: a full one has room for the ring's rest."""
    try:
        failed = flush(history, primaries)
    except (JetdrError, OSError) as error:
        log_.warning("a primary cannot be opened, and the log keeps what it may lack: %s", error)
        return
    for disk in failed:
        ring.note_primary_failure(disk)
    ring.primaries_flushed()


def _meet(ring: Ring, lsn_log: int, log: LogFound) -> RingFound:
    """Does the ring go on where the log ends? If so it gives back what the log holds."""
    if log is not LogFound.NEW:
        try:
            ring.adopt(lsn_log)
            return RingFound.KEPT
        except RingApart:
            pass
    behind = ring.lsn_reserved < lsn_log and not ring.host_alive
    return RingFound.NONE if behind else RingFound.APART


def _host(ring: Ring | None) -> HostFound:
    if ring is None or ring.host_ended:
        return HostFound.ENDED
    return HostFound.ALIVE if ring.host_alive else HostFound.DIED


def _forget(ring: Ring, settings: RingSettings) -> None:
    """The host component lives on, its ring begins anew, with logging off."""
    ring.stop_logging()
    deadline = time.monotonic() + RESET_LIMIT_S
    while not ring.reset(
        lsn_next=settings.lsn_next, time_ns_last=settings.time_ns_last, record_bytes_max=ring.record_bytes_max
    ):
        if time.monotonic() > deadline:
            raise StallTimeout(
                f"the host component did not let go of the ring within {RESET_LIMIT_S} s",
                hint="a disk of it does not answer; open the domain again when it does, or stop the host component",
            )
        time.sleep(RESET_POLL_S)
