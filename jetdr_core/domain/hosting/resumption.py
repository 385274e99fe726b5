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
from jetdr_core.catalog import DiskState, DomainHistory
from jetdr_core.domain.continuity import (
    NOTHING_OWED,
    Continuity,
    Found,
    HostFound,
    LogFound,
    OnMismatch,
    RingFound,
    check_not_refused,
    decide,
    doubt,
)
from jetdr_core.domain.disk_identity import changed_disks
from jetdr_core.domain.generation import UNKNOWN_ID, Generation, Word
from jetdr_core.domain.hosting.bypassed_file import BypassedFile, served_file
from jetdr_core.domain.hosting.generation_file import LogReach
from jetdr_core.domain.hosting.hosted_mode import HostedMode, Resumed
from jetdr_core.domain.hosting.replay import disks_of_replay, flush, replay
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.domain.hosting.witnesses import Witnesses
from jetdr_core.domain.log_section import check_write_mode, log_found, write_mode
from jetdr_core.domain.mode import ModeParts, RingSettings
from jetdr_core.domain.primary import Primaries
from jetdr_core.errors import HostFailed, InvalidRequest, JetdrError, PrimaryAway, RingApart, StallTimeout
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

    def __init__(
        self,
        name: str,
        options: HostOptions,
        on_mismatch: OnMismatch,
        log: ReplicationLog,
        settings: RingSettings,
        chain: Generation | None,
    ) -> None:
        check_write_mode(name, log, write_back=options.write_back)
        self._component = HostComponent(name, options)
        self._bypassed_file = BypassedFile(Path(options.state), name) if options.write_back else None
        if self._bypassed_file is not None:
            self._bypassed_file.check_folder()
        self._served_file = served_file(Path(options.state), name)
        self._others_wrote = self._served_file.stands
        self._log = log
        self._log_found = log_found(log)
        self._own = Generation.of_log(log)
        self._chain = chain
        self._on_mismatch = on_mismatch
        self._witnesses = self._witnesses_of(log)
        self._disk_word, self._has_seen_disks = Word.SILENT, False
        self._owed = NOTHING_OWED
        self._believed = self._owes_gap = False
        self.changed: tuple[DiskState, ...] = ()
        self.absent: tuple[DiskState, ...] = ()
        self.lagging: tuple[DiskState, ...] = ()
        self._settings = settings
        self._place = RingPlace(Path(options.runtime) / name, log.body.domain_uuid)
        self._survivor = self._place.open()
        self._goes_on = self._place.goes_on_with(self._own)
        self._resumed: Resumed | None = None
        try:
            _check_survivor(name, options, log, self._survivor)
            if self._survivor is not None and self._goes_on:
                log.check_cut(self._survivor.lsn_durable, "the ring knew it durable")
        except BaseException:
            self.close()
            raise

    @property
    def write_back(self) -> bool:
        return self._bypassed_file is not None

    @property
    def state_id(self) -> bytes:
        return UNKNOWN_ID if self._witnesses is None else self._witnesses.state_id

    @property
    def owes_nothing(self) -> bool:
        return self._resumed is not None and self._resumed.owed == NOTHING_OWED

    def check(self, history: DomainHistory, primaries: Primaries) -> None:
        if self._survivor is None or not self._survivor.host_alive:  # it may be writing to them
            absent, placed = primaries.absent(history.disks), primaries.answering(history.disks)
            changed = history.disks if self._served_file.stands else changed_disks(self._log, placed)
            self.absent = tuple(disk for disk in absent if disk.ready)
            self.changed = tuple(disk for disk in changed if disk not in absent)
            self._has_seen_disks = True
            if self._witnesses is not None:
                self._ask_disks(self._witnesses, history, primaries)
        found = self._find(history, RingFound.NONE)
        check_not_refused(self._component.name, found)
        self._owed, self._believed = decide(found), not doubt(found)
        self._check_absent(found, history, primaries)
        self._owes_gap = _owes_gap(found, self._owed) and not self._owed.replay  # which has to end first

    def _ask_disks(self, witnesses: Witnesses, history: DomainHistory, primaries: Primaries) -> None:
        """Ask the primaries which log they were last used with.

        A disk that had failed lags, for it was not served. In a gap that is no doubt about the log, if a replay writes
        nothing to the disk: all disks are then resynced.
        """
        present = [(state, path) for state, path in primaries.placed(history.disks) if not primaries.of(state).fault]
        lagging = [state for state, path in present if witnesses.of_disks([path]) in {Word.OLDER, Word.MISSING}]
        if lagging and history.gap_open is not None:
            concerned = disks_of_replay(self._log)
            self.lagging = tuple(state for state in lagging if state.disk not in concerned)
        self._disk_word = witnesses.of_disks(path for state, path in present if state not in self.lagging)

    def _check_absent(self, found: Found, history: DomainHistory, primaries: Primaries) -> None:
        """Refuse to go on without a disk whose primary lacks writes that its guest was told are safe."""
        owed = decide(found)
        if not self.write_back or found.host is HostFound.ALIVE:
            return
        lost = primaries.needed(history.disks)
        if lost and (found.host is not HostFound.DIED or owed.gap):  # else its ring may have more
            concerned = disks_of_replay(self._log) if owed.replay else set()
            lost = [disk for disk in lost if disk.disk in concerned]
        for disk in lost:
            fault = primaries.of(disk).fault
            raise PrimaryAway(
                f"disk {disk.name!r} lacks writes that only the log of domain {self._component.name!r} has: "
                f"{fault and fault.reason}",
                hint="bring it back or say where it is (jetdr move-disk), and they are written to it. If it is lost, "
                "stop protecting it (jetdr unprotect): the store gets them all the same",
            )

    def claiming(self, generation: Generation) -> None:
        if self._bypassed_file is not None and self._witnesses is not None:
            self._bypassed_file.make_folder()
            if self._owes_gap:
                self._bypassed_file.create()
            replay_chosen = self._owed.replay and bool(self._owed.gap)
            self._witnesses.claiming(generation, believed=self._believed, replay_chosen=replay_chosen)

    def claim_time_ns(self, stored_ns: int) -> int:
        """What the ring holds may be older than this moment."""
        return stored_ns or time.time_ns()

    def claimed(self, generation: Generation) -> None:
        """A ring that goes on with the log now will go on with it in its new generation too."""
        if self._survivor is not None and self._goes_on:
            self._place.note(self._own, generation)

    def begin_ring(self, history: DomainHistory, primaries: Primaries) -> Ring:
        found = self._find(history, self._find_ring(history))
        owed = decide(found)
        check_not_refused(self._component.name, found)  # again: the host component may have died meanwhile
        self._check_absent(found, history, primaries)
        if owed.replay and not self._has_seen_disks:
            raise HostFailed(
                f"the host component of domain {self._component.name!r} died while the domain was being opened",
                hint="open the domain again",
            )
        self._bring_primaries_up(found, owed, history, primaries)
        ring = self._ring(found.ring)
        if owed.stop:
            ring.stop_logging()
        self._resumed = Resumed(
            component=self._component,
            place=self._place,
            bypassed_file=self._bypassed_file,
            served_file=self._served_file,
            ring=ring,
            log=self._log,
            lsn_kept=ring.lsn_reserved,
            owed=owed,
            gap_since_ns=self._settings.time_ns_last + 1,
            changed=self.changed,
            absent=self.absent,
            lagging=self.lagging,
            witnesses=self._witnesses,
            earlier=self._own,
            rested=_rested(found, owed),
            others_wrote=self._others_wrote,
        )
        if self._witnesses is not None:
            self._witnesses.begin(primaries.present_paths(history.disks))
        told, name = "domain %s: what an earlier run left: %s; what is owed: %s", self._component.name
        log_.info(told, name, found, owed.gap or owed.stop or "nothing", extra={"domain": name})
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

    def _witnesses_of(self, log: ReplicationLog) -> Witnesses | None:
        """Only write-back replays a log, and relies on the state folder."""
        if self._bypassed_file is None:
            return None
        lsns = LogReach(log.tail.lsn, log.outcome.head.lsn)
        return Witnesses(self._bypassed_file.folder, self._own, log.body.state_id, self._chain, lsns)

    @property
    def _bypass_is_noted(self) -> bool:
        """Whether a file says that writes bypassed the log. The served file speaks of either write mode."""
        files = (self._bypassed_file, self._served_file)
        return any(file is not None and file.stands for file in files)

    def _chain_word(self) -> Word:
        if self._witnesses is not None:
            return self._witnesses.of_chain()
        return Word.AWAY if self._chain is None else self._own.word_of(self._chain)

    def _find(self, history: DomainHistory, ring: RingFound) -> Found:
        """Ask what survived."""
        survivor = self._survivor
        return Found(
            ring=ring,
            log=self._log_found,
            host=_host(survivor),
            logging=survivor is None or survivor.logging,
            write_back=self.write_back,
            bypassed=self.write_back and self._bypass_is_noted,
            disks=bool(history.disks),
            chain=self._chain_word(),
            state=Word.SILENT if self._witnesses is None else self._witnesses.of_state(),
            disk=self._disk_word,
            changed=bool(self.changed or self.absent),
            half_replayed=self._witnesses is not None and self._witnesses.half_replayed,
            cut_short=bool(self._log.cut_short),
            on_mismatch=self._on_mismatch,
        )

    def _find_ring(self, history: DomainHistory) -> RingFound:
        """What became of the ring. One that meets the log gives back what the log holds.

        A log in doubt is not continued by a ring that nobody writes to any more: the ring may be an older copy too.
        """
        survivor = self._survivor
        without = self._find(history, RingFound.NONE)
        if without.host is not HostFound.ALIVE and doubt(without):
            return RingFound.NONE
        if survivor is None or survivor.write_back != self.write_back:
            return RingFound.NONE  # of the other write mode: the log was closed clean since
        if without.host is HostFound.ENDED and decide(without).resync:
            return RingFound.NONE  # it is at rest too; an opening that fails must not leave it to the next one
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
            self._served_file.remove()  # of a time at which the domain had no disks
        if owed.replay:
            replay(self._log, history, primaries.opened)
        if _owes_gap(found, owed):  # it turned out only now that the ring was looked at, or after the replay
            self._bypassed_file.create()
        if self._survivor is not None and found.ring is RingFound.KEPT and found.host is HostFound.DIED:
            _flush(self._survivor, history, primaries)

    def _ring(self, found: RingFound) -> Ring:
        """The ring to go on with: the survivor if it can be, else a new one in its place."""
        survivor = self._survivor
        if survivor is not None and found is RingFound.KEPT:
            return survivor
        if survivor is not None and survivor.host_alive:
            _begin_anew(survivor, self._settings)
            self._place.note(Generation.of_log(self._log))
            return survivor
        if survivor is not None:
            survivor.leave()
        return self._place.make(**asdict(self._settings), write_back=self.write_back)


def _rested(found: Found, owed: Continuity) -> bool:
    """Whether everything had ended in order, and the log says how it left the disks.

    An unclean log goes on with a ring that survived, but only the dirty maps tell whether a disk was changed since.
    """
    return (
        found.host is HostFound.ENDED and found.logging and found.log is LogFound.CLEAN and not (owed.gap or owed.stop)
    )


def _check_survivor(name: str, options: HostOptions, log: ReplicationLog, ring: Ring | None) -> None:
    if ring is None or not ring.host_alive:
        return
    if ring.write_back != options.write_back:
        raise InvalidRequest(
            f"the host component of domain {name!r} runs in {write_mode(write_back=ring.write_back)} mode",
            hint="open the domain as it was, and end it with its host component (hosts_on_stop = 'stop') first",
        )
    if ring.record_bytes_max > log.record_bytes_max:
        raise InvalidRequest(
            f"the host component of domain {name!r} writes records of up to {ring.record_bytes_max} bytes, "
            f"the log takes {log.record_bytes_max}",
            hint="use a larger log (section_bytes), or end the host component first (hosts_on_stop = 'stop')",
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


def _owes_gap(found: Found, owed: Continuity) -> bool:
    """Whether a gap is to open that nothing durable speaks of. A host component that lives sees to that itself."""
    return found.host is not HostFound.ALIVE and bool(owed.gap or owed.resync)


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
