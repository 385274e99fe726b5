"""HostedResumption: what a hosted domain finds of its ring and its host component, and how it goes on from there.

Invariants: what can be refused is refused when a resumption is made, which changes nothing. The ring gives back what
the log holds only once that is durable. A ring that is given up is begun anew only with logging off, so that writes
bypass the log. What is owed because a ring is lost is in the new ring before that has its name.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path

from jetdr_core._core import Ring
from jetdr_core.catalog import DomainHistory
from jetdr_core.domain.continuity import NOTHING_OWED, Continuity, Found, HostFound, LogFound, RingFound, decide
from jetdr_core.domain.hosting.bypassed_file import BypassedFile
from jetdr_core.domain.hosting.hosted_mode import HostedMode, Resumed
from jetdr_core.domain.hosting.replay import flush, replay
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.domain.log_section import check_write_mode, log_found, write_mode
from jetdr_core.domain.mode import ModeParts, RingSettings
from jetdr_core.domain.primary import Primaries
from jetdr_core.errors import InvalidRequest, JetdrError, RingApart, StallTimeout
from jetdr_core.host import HostComponent, HostOptions
from jetdr_core.replication_log import ReplicationLog

__all__ = ["HostedResumption"]

log_ = logging.getLogger(__name__)

RESET_LIMIT_S = 60.0
"""A host component that holds room in the ring for longer has a primary that does not answer."""

RESET_POLL_S = 0.01


class HostedResumption:
    """Implements :class:`jetdr_core.domain.mode.Resumption`."""

    shares_primaries = True

    def __init__(self, name: str, options: HostOptions, log: ReplicationLog, settings: RingSettings) -> None:
        check_write_mode(name, log, write_back=options.write_back)
        self._component = HostComponent(name, options)
        self._bypassed_file = BypassedFile(Path(options.state), name) if options.write_back else None
        if self._bypassed_file is not None:
            self._bypassed_file.check_folder()
        self._log = log
        self._log_found = log_found(log)
        self._settings = settings
        self._place = RingPlace(Path(options.runtime) / name, log.body.domain_uuid)
        self._survivor = self._place.open()
        self._goes_on = self._place.goes_on_with(log.body.epoch)
        self._resumed: Resumed | None = None
        try:
            _check_survivor(name, options, log, self._survivor)
        except BaseException:
            self.close()
            raise

    @property
    def write_back(self) -> bool:
        return self._bypassed_file is not None

    def claim_time_ns(self, stored_ns: int) -> int:
        """What the ring holds may be older than this moment."""
        return stored_ns or time.time_ns()

    def claimed(self, epoch: int) -> None:
        """A ring that goes on with the log now will go on with it at ``epoch`` too."""
        if self._survivor is not None and self._goes_on:
            self._place.note(self._log.body.epoch, epoch)

    def begin_ring(self, history: DomainHistory, primaries: Primaries) -> Ring:
        if self._bypassed_file is not None:
            self._bypassed_file.make_folder()
        found = self._find(history)
        owed = decide(found)
        self._bring_primaries_up(found, owed, history, primaries)
        ring = self._ring(found.ring)
        if owed.stop:
            ring.stop_logging()
        self._resumed = Resumed(
            component=self._component,
            place=self._place,
            bypassed_file=self._bypassed_file,
            ring=ring,
            log=self._log,
            lsn_kept=ring.lsn_reserved,
            gap=owed.gap,
            gap_since_ns=self._settings.time_ns_last + 1,
            stopped=owed.stop,
        )
        log_.info("%s: %s; owed: %s", self._place.path, found, owed.gap or owed.stop or "nothing")
        return ring

    def make_mode(self, parts: ModeParts) -> HostedMode:
        assert self._resumed is not None, "the ring was begun"
        return HostedMode(self._resumed, parts)

    def close(self) -> None:
        if self._survivor is not None:
            self._survivor.leave()
        if self._resumed is not None:
            self._resumed.ring.leave()

    # -- what is there -----------------------------------------------------------------------------------------------

    def _find(self, history: DomainHistory) -> Found:
        """Ask what survived. A ring that meets the log gives back what the log holds."""
        survivor = self._survivor
        return Found(
            ring=self._find_ring(),
            log=self._log_found,
            host=_host(survivor),
            logging=survivor is None or survivor.logging,
            write_back=self.write_back,
            bypassed=self._bypassed_file is not None and self._bypassed_file.stands,
            disks=bool(history.disks),
        )

    def _find_ring(self) -> RingFound:
        survivor = self._survivor
        if survivor is None or survivor.write_back != self.write_back:
            return RingFound.NONE  # of the other write mode: the log was closed clean since
        if not self._goes_on:
            return RingFound.APART if survivor.host_alive else RingFound.NONE
        return _meet(survivor, self._settings.lsn_next - 1, self._log_found)

    # -- what is done about it ---------------------------------------------------------------------------------------

    def _bring_primaries_up(self, found: Found, owed: Continuity, history: DomainHistory, primaries: Primaries) -> None:
        """In write-back, make primaries and bypassed file agree with what was found."""
        if self._bypassed_file is None:
            return
        at_rest = found.logging and found.host is not HostFound.ALIVE
        if at_rest and owed == NOTHING_OWED:
            self._bypassed_file.remove()  # of a domain that had this name before, or of a host component as it died
        if owed.replay:
            replay(self._log, history, primaries.opened)
        if self._survivor is not None and found.ring is RingFound.KEPT and found.host is HostFound.DIED:
            _flush(self._survivor, history, primaries)

    def _ring(self, found: RingFound) -> Ring:
        """The ring to go on with: the survivor if it can be, else a new one in its place."""
        survivor = self._survivor
        if survivor is not None and found is RingFound.KEPT:
            return survivor
        if survivor is not None and survivor.host_alive:
            _begin_anew(survivor, self._settings)
            self._place.note(self._log.body.epoch)
            return survivor
        if survivor is not None:
            survivor.leave()
        return self._place.make(**asdict(self._settings), write_back=self.write_back)


def _check_survivor(name: str, options: HostOptions, log: ReplicationLog, ring: Ring | None) -> None:
    if ring is None or not ring.host_alive:
        return
    if ring.write_back != options.write_back:
        raise InvalidRequest(
            f"the host component of domain {name!r} runs in {write_mode(write_back=ring.write_back)} mode",
            hint="stop it, then open the domain in the other mode",
        )
    if ring.record_bytes_max > log.record_bytes_max:
        raise InvalidRequest(
            f"the host component of domain {name!r} writes records of up to {ring.record_bytes_max} bytes, "
            f"the log takes {log.record_bytes_max}",
            hint="use a larger log, or stop the host component first",
        )


def _flush(ring: Ring, history: DomainHistory, primaries: Primaries) -> None:
    """Flush what the host component wrote before it died: a full log then has room for the rest of the ring."""
    try:
        failed = flush(history, primaries.opened)
    except (JetdrError, OSError) as error:
        log_.warning("a primary cannot be opened, and the log keeps what it may lack: %s", error)
        return
    for disk in failed:
        ring.note_primary_failure(disk)
    ring.primaries_flushed()


def _meet(ring: Ring, lsn_log: int, log: LogFound) -> RingFound:
    """Whether the ring goes on where the log ends. If so it gives back what the log holds."""
    if log is not LogFound.NEW:
        try:
            ring.adopt(lsn_log)
            return RingFound.KEPT
        except RingApart:
            pass
    is_left = ring.lsn_reserved < lsn_log and not ring.host_alive
    return RingFound.NONE if is_left else RingFound.APART


def _host(ring: Ring | None) -> HostFound:
    if ring is None or ring.host_ended:
        return HostFound.ENDED
    return HostFound.ALIVE if ring.host_alive else HostFound.DIED


def _begin_anew(ring: Ring, settings: RingSettings) -> None:
    """The host component lives on; its ring begins anew, with logging off."""
    ring.stop_logging()
    deadline = time.monotonic() + RESET_LIMIT_S
    while not ring.reset(
        lsn_next=settings.lsn_next, time_ns_last=settings.time_ns_last, record_bytes_max=ring.record_bytes_max
    ):
        if time.monotonic() > deadline:
            raise StallTimeout(
                f"the host component did not release the ring within {RESET_LIMIT_S} s",
                hint="one of its disks does not answer; open the domain again when it does, or stop the host component",
            )
        time.sleep(RESET_POLL_S)
