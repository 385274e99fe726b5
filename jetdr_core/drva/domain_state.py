"""DomainState: where a domain stands, in one word for people, programs and metrics. Pure.

A domain has many parts, each with a state of its own. People ask one question: are my guests protected now, and if not,
why, and since when. So exactly one state is present. If several would be true, it is the one that protects least.
docs/operations.md has the table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from jetdr_core.domain import DomainStatus
from jetdr_core.domain.ladder import Rung
from jetdr_core.drva.as_of import AsOf
from jetdr_core.drva.pause import Pause
from jetdr_core.store import AWAY_S

__all__ = ["Condition", "DomainState", "condition_of"]


class DomainState(enum.Enum):
    """The states of a domain, those that protect least first."""

    FENCED = "fenced"
    CLOSED = "closed"
    OPENING = "opening"
    LOGGING_OFF = "logging_off"
    RETURNING = "returning"
    UPLOAD_STOPPED = "upload_stopped"
    STORE_REFUSES = "store_refuses"
    STORE_AWAY = "store_away"
    PAUSED = "paused"
    RESYNC = "resync"
    INITIAL_COPY = "initial_copy"
    THROTTLED = "throttled"
    NOT_CONSISTENT = "not_consistent"
    PROTECTED = "protected"


@dataclass(frozen=True, slots=True)
class Condition:
    """A state, since when, and why. ``why`` is empty for a domain that is protected."""

    state: DomainState
    since_ns: int
    why: str
    is_present: bool = True

    def then(self, state: DomainState, why: str, began_ns: int) -> Condition:
        """Return the condition after a look that found ``state``, which began at ``began_ns`` if it is a new one."""
        return Condition(state, self.since_ns if state is self.state else began_ns, why)

    def as_of(self, last: AsOf[DomainStatus]) -> Condition:
        """Return the condition that ``last`` gave. If that is not the present one, ``why`` says as of when it is."""
        if last.is_present:
            return self
        old = f"as of {last.age_s:.0f} s ago"
        return replace(self, why=f"{self.why} ({old})" if self.why else old, is_present=False)


def condition_of(status: DomainStatus, pause: Pause | None) -> tuple[DomainState, str]:
    """Return the state of an open domain, and why."""
    rung, why = Rung(status.ladder.rung), status.ladder.why
    if rung is Rung.PROBE:
        return DomainState.RETURNING, why
    if rung is Rung.BYPASS or (status.host is not None and not status.host.logging):
        return DomainState.LOGGING_OFF, why or "logging is off"
    if (of_store := _of_store(status)) is not None:
        return of_store
    if pause is not None or status.paused:
        return DomainState.PAUSED, "an operator paused uploading" if pause is None else pause.why
    if rung is Rung.RESYNC:
        return DomainState.RESYNC, status.why_inconsistent or why
    if copied := [disk.name for disk in status.disks if not disk.ready]:
        return DomainState.INITIAL_COPY, f"disk {', '.join(map(repr, copied))} is copied for the first time"
    if rung is Rung.THROTTLED:
        return DomainState.THROTTLED, why
    if not status.consistent:
        return DomainState.NOT_CONSISTENT, status.why_inconsistent
    return DomainState.PROTECTED, ""


def _of_store(status: DomainStatus) -> tuple[DomainState, str] | None:
    """Return the state of a domain whose store keeps it from uploading, and why."""
    if status.failure:
        return DomainState.UPLOAD_STOPPED, status.failure
    if status.store_refused:
        return DomainState.STORE_REFUSES, status.store_refused
    if not status.joined or status.store_away_s >= AWAY_S:
        return DomainState.STORE_AWAY, status.store_away
    return None
