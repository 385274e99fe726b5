"""Alarms: what is wrong with a domain now, derived from its session and its status. Pure.

Invariants: an alarm lasts as long as its cause, or, if it is an event, until somebody acknowledges it. Its name keeps
its meaning. docs/operations.md explains each. An alarm whose cause cannot be looked at any more stays, and says as of
when it is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from jetdr_core.catalog import iso_time
from jetdr_core.domain import DiskFault, DiskStatus, DiskTrouble, DomainStatus, HostStatus, MapFailure
from jetdr_core.domain.hosting.standby import ClosedGuests
from jetdr_core.drva.as_of import AsOf, is_present
from jetdr_core.drva.domain_state import Condition, DomainState
from jetdr_core.drva.pause import Pause
from jetdr_core.drva.scrubbed import Scrubbed
from jetdr_core.store import AWAY_S

__all__ = ["ALARMS", "Alarm", "Situation", "alarms_of"]

LOG_NEARLY_FULL = 0.9
LASTS_S = 300.0
"""Backpressure that lasts so long is no peak of load."""
NO_ANSWER_S = 10.0
OPENING_LIMIT_S = 60.0

ALARMS = {
    "fenced": "another owner has taken the domain over, so it stays closed here",
    "closed": "the domain could not be opened, or has failed, and is opened again by itself",
    "no_answer": "the domain has not reported its status for a while, or has been opening for long",
    "host_away": "the host component does not run, so guests have no disks until it has restarted",
    "host_failure": "the host component cannot be started or asked, or logging cannot be switched on again",
    "logging_off": "guests' writes bypass the log; what they write is resynced once logging is on again",
    "store_lost": "the store no longer holds what was uploaded, or its URL leads elsewhere; the log is kept",
    "forged": "an object in the store was not made, or was changed, by somebody who lacks the domain's key",
    "store_away": "the store does not answer, or has no room, or was away when the domain was opened, and nothing is "
    "uploaded; the log takes writes until it is full",
    "heartbeat_refused": "the store refuses heartbeats, so an idle domain's newest point is not proven to be current",
    "store_refuses": "the store answers, but refuses what the domain needs, and is tried again; the log takes writes "
    "until it is full",
    "upload_stopped": "uploading ended with an error; the log takes writes until the domain is opened again",
    "paused": "an operator paused uploading",
    "replica_differs": "the store gives back other bytes than a disk held, though every checksum is right",
    "replica_unreadable": "what the store holds of a disk is damaged or missing, as a sample has shown",
    "rpo": "the oldest write that the store lacks is older than rpo_alarm_s",
    "throttled": "guests' writes have been delayed for over 5 minutes, because they write more than is shipped",
    "log_away": "the log's device fails or does not answer, or the domain waits for it",
    "file_lost": "a file in use was removed, renamed or replaced; its content is gone when the process ends",
    "state_away": "the state folder of the domain cannot be written",
    "log_cut": "the end of the log was cut although whole batches lie after it: its device may be bad",
    "log_nearly_full": "the log section is nearly full; once it is full, guests are delayed, then no longer protected",
    "not_consistent": "the present moment is not a recovery point",
    "clock": "the machine's clock cannot be trusted, so record times do not follow it",
    "primary_failed": "a disk answers its guest with errors",
    "primary_full": "a disk's file system has no room for what its guest writes",
    "disk_not_protected": "a configured disk could not be protected and is tried again",
    "disk_changed": "a disk was changed or replaced while the domain was closed; it is resynced",
    "disk_unstamped": "in write-back a disk did not take its stamp, so an older copy of it may go unnoticed",
    "config_not_applied": "the configuration's file has changed, and what it says needs a restart or is wrong",
    "config_not_kept": "a configuration file of config_files could not be kept, and is tried again",
    "host_not_configured": "a host component serves guests of a domain that is not configured, so none is protected",
    "metrics_away": "the metrics are not served, because their address is taken or unusable; it is tried again",
    "disk_failed": "a disk is missing, in use, or not the one it was; its guest has no disk until it is back",
    "map_failed": "a disk's dirty map cannot be written, so an unclean stop costs a resync of all of the disk",
    "disk_grown": "a disk's file or device has grown, and its guest does not see that yet",
    "disk_not_configured": "the domain protects a disk that no operator names here; it is not opened or served",
}
"""The meaning of every alarm, by name."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """``text`` says what is wrong, with values. ``subject`` tells alarms of one name apart: the disk's name.

    ``since_ns`` is when it began, if that is known. Otherwise it began when it was noticed. ``event`` is the epoch at
    whose beginning something happened that nothing undoes. It is 0 for a state, which ends with its cause.
    """

    name: str
    text: str
    subject: str = ""
    since_ns: int = 0
    event: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the alarms are derived from.

    ``last`` is the newest status there is, and ``rpo_s`` how old the oldest write may be that the store lacks.
    ``failure`` says why the domain is closed, ``forged`` that a forged object is why, and
    ``log_away`` that the log's device is. ``opening_s`` is for how
    long it has been opening, and 0 if it is not. ``unprotected`` has a text for each configured disk that is not
    protected yet, and ``unkept`` one for each configuration file that could not be kept. ``standing`` says how its
    guests are while the domain is closed.
    """

    fenced: bool
    closed: bool
    failure: str
    forged: bool = False
    pause: Pause | None
    log_away: bool = False
    opening_s: float = 0.0
    last: AsOf[DomainStatus] | None
    rpo_s: float | None
    rpo_alarm_s: float
    unprotected: tuple[str, ...]
    standing: ClosedGuests
    condition: Condition
    now_ns: int
    unkept: tuple[str, ...] = ()
    scrubbed: Scrubbed = field(default_factory=Scrubbed)


def alarms_of(situation: Situation) -> list[Alarm]:
    """Return what is wrong, the worst first."""
    if situation.fenced:
        return [Alarm("fenced", situation.failure)]
    found = [Alarm("closed", situation.failure)] if situation.closed and situation.failure else []
    if situation.closed and situation.forged:
        found.append(Alarm("forged", situation.failure))
    if situation.closed and situation.log_away:
        found.append(Alarm("log_away", situation.failure))
    if situation.closed:
        found.extend(_of_guests(situation.standing))
    if (pause := situation.pause) is not None:
        text = f"since {pause.since} {pause.why}; writes stay in the log until 'jetdr resume'"
        found.append(Alarm("paused", text, since_ns=pause.since_ns))
    if situation.scrubbed.differing:
        found.append(Alarm("replica_differs", situation.scrubbed.differing))
    if situation.scrubbed.unreadable:
        found.append(Alarm("replica_unreadable", situation.scrubbed.unreadable))
    found.extend(_of_silence(situation))
    is_known = situation.last is not None or situation.failure  # at a start, what was before says nothing yet
    if is_known and situation.rpo_s is not None and situation.rpo_s > situation.rpo_alarm_s:
        found.append(Alarm("rpo", f"the store lags by {situation.rpo_s:.0f} s, more than {situation.rpo_alarm_s:g} s"))
    if situation.last is not None:
        found.extend(_of_last(situation.last, {alarm.name for alarm in found}))
        found.extend(_of_condition(situation.condition, situation.now_ns))
        found.extend(Alarm("disk_not_protected", text) for text in situation.unprotected)
        found.extend(Alarm("config_not_kept", text) for text in situation.unkept)
    return found


def _of_condition(condition: Condition, now_ns: int) -> Iterator[Alarm]:
    if condition.state is DomainState.THROTTLED and now_ns - condition.since_ns > LASTS_S * 1e9:
        yield Alarm("throttled", f"guests' writes are delayed since {iso_time(condition.since_ns)}: {condition.why}")


def _of_silence(situation: Situation) -> Iterator[Alarm]:
    last = situation.last
    if situation.opening_s > OPENING_LIMIT_S:
        yield Alarm("no_answer", f"the domain has been opening for {situation.opening_s:.0f} s")
    elif last is not None and not situation.closed and last.age_s > NO_ANSWER_S:
        yield Alarm("no_answer", f"no status for {last.age_s:.0f} s")


def _of_last(last: AsOf[DomainStatus], known: set[str]) -> Iterator[Alarm]:
    """Return the alarms of the last status. ``known`` names those of which more is known at present."""
    for alarm in _of_status(last.value):
        if last.is_present:
            yield alarm
        elif alarm.name not in known:
            yield replace(alarm, text=f"{alarm.text} (as of {last.age_s:.0f} s ago)")


def _as_of(alarm: Alarm, age_s: float | None) -> Alarm:
    """Return the alarm as it is known from a value of that age."""
    if age_s is None or is_present(age_s):
        return alarm
    return replace(alarm, text=f"{alarm.text} (as of {age_s:.0f} s ago)")


def _of_guests(standing: ClosedGuests) -> Iterator[Alarm]:
    if standing.bypassing_since_ns:
        since = iso_time(standing.bypassing_since_ns)
        yield Alarm("logging_off", f"the domain is closed, and its guests go on unprotected since {since}")
    if standing.why_waiting:
        yield Alarm("host_away", f"guests wait for their disks: {standing.why_waiting}")


def _of_status(status: DomainStatus) -> Iterator[Alarm]:
    if status.host is not None:
        yield from _of_host(status.host)
    yield from _of_store(status)
    yield from _of_log(status)
    if status.state_trouble is not None:
        trouble = status.state_trouble
        yield Alarm("state_away", f"since {iso_time(trouble.since_ns)}: {trouble.reason}", since_ns=trouble.since_ns)
    for lost in status.lost_files:
        text = f"{lost.what} at {lost.path}, since {iso_time(lost.since_ns)}: {lost.reason}; {lost.remedy}"
        yield Alarm("file_lost", text, lost.path, since_ns=lost.since_ns)
    if not status.consistent:
        yield Alarm("not_consistent", status.why_inconsistent)
    if status.clock:
        yield Alarm("clock", status.clock)
    if status.changed:
        yield Alarm("disk_changed", status.changed, event=status.epoch)
    for disk in status.disks:
        yield from _of_disk(status, disk)


def _of_log(status: DomainStatus) -> Iterator[Alarm]:
    if status.log_trouble is not None:
        trouble = status.log_trouble
        yield Alarm("log_away", f"since {iso_time(trouble.since_ns)}: {trouble.reason}", since_ns=trouble.since_ns)
    if status.log_bytes and status.log_used_bytes > LOG_NEARLY_FULL * status.log_bytes:
        percent = 100 * status.log_used_bytes // status.log_bytes
        yield Alarm("log_nearly_full", f"the log is {percent} % full")
    if status.log_cut:
        yield Alarm("log_cut", status.log_cut, event=status.epoch)


def _of_disk(status: DomainStatus, disk: DiskStatus) -> Iterator[Alarm]:
    if disk.fault is not None:
        yield _of_fault(disk, disk.fault)
    elif disk.primary_bytes > disk.size_bytes:
        yield Alarm(
            "disk_grown",
            f"disk {disk.name!r} at {disk.path} has grown to {disk.primary_bytes} bytes, and {disk.size_bytes} are "
            f"served and protected; 'jetdr grow-disk {status.name} {disk.name}' takes the rest",
            disk.name,
        )
    if disk.trouble is not None:
        alarm = _of_trouble(disk, disk.trouble)
        yield alarm if status.host is None else _as_of(alarm, status.host.counted_age_s)
    if disk.map_failure is not None:
        yield _of_map_failure(disk, disk.map_failure)


def _of_trouble(disk: DiskStatus, trouble: DiskTrouble) -> Alarm:
    where = f"disk {disk.name!r} at {disk.path}, since {iso_time(trouble.since_ns)}"
    if trouble.is_full:
        return Alarm("primary_full", f"{where}: writes wait for room and are then refused: {trouble.reason}", disk.name)
    return Alarm("primary_failed", f"{where}: {trouble.calls} are answered with {trouble.reason!r}", disk.name)


def _of_map_failure(disk: DiskStatus, failure: MapFailure) -> Alarm:
    since = f", since {iso_time(failure.since_ns)}" if failure.since_ns else ""
    return Alarm(
        "map_failed",
        f"disk {disk.name!r} at {disk.path}{since}: its dirty map cannot be written: {failure.reason}; after an "
        "unclean stop all of the disk is resynced; give the map room and let its folder be written, or name another "
        "folder (map_folder), then restart the host component",
        disk.name,
    )


def _of_fault(disk: DiskStatus, fault: DiskFault) -> Alarm:
    since = f"since {iso_time(fault.since_ns)}"
    if not fault.is_named:
        return Alarm("disk_not_configured", f"disk {disk.name!r}, {since}: {fault.reason}; {fault.remedy}", disk.name)
    return Alarm(
        "disk_failed", f"disk {disk.name!r} at {disk.path}, {since}: {fault.reason}; {fault.remedy}", disk.name
    )


def _of_store(status: DomainStatus) -> Iterator[Alarm]:
    if status.forged:
        yield Alarm("forged", status.forged)
    if status.store_lost:
        yield Alarm("store_lost", status.failure)
    if status.heartbeat_refused:
        yield Alarm("heartbeat_refused", _refused_heartbeat(status))
    if status.store_refused and not status.failure:
        since = iso_time(status.store_refused_since_ns)
        yield Alarm("store_refuses", f"nothing is uploaded since {since}; it is tried again: {status.store_refused}")
    elif not status.joined and not status.failure:
        yield Alarm(
            "store_away",
            f"opened without its store {status.store_away_s:.0f} s ago, and nothing is uploaded: {status.store_away}",
        )
    elif status.store_away_s >= AWAY_S and not status.failure:
        yield Alarm("store_away", f"the store has failed for {status.store_away_s:.0f} s: {status.store_away}")
    if status.failure:
        yield Alarm("upload_stopped", status.failure)


def _refused_heartbeat(status: DomainStatus) -> str:
    proven = f"LSN {status.lsn_uploaded} at {iso_time(status.proven_ns)}" if status.proven_ns else "not known"
    since = iso_time(status.heartbeat_refused_since_ns)
    return f"since {since} the newest point that the store proves is {proven}: {status.heartbeat_refused}"


def _of_host(host: HostStatus) -> Iterator[Alarm]:
    if not host.alive:
        yield Alarm("host_away", "the host component does not run and is being restarted")
    if host.failure:
        yield Alarm("host_failure", host.failure)
    elif host.alive and host.counted_age_s is not None and host.counted_age_s > NO_ANSWER_S:
        yield Alarm("host_failure", f"the host component has not answered for {host.counted_age_s:.0f} s")
    if not host.logging:
        yield Alarm("logging_off", f"writes bypass the log: {host.off_reason or 'logging is off'}")
    if host.unstamped:
        yield Alarm("disk_unstamped", f"a disk is served without its stamp: {host.unstamped}")
