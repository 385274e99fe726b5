"""Where a session stands, and the view of it that clients, metrics and alarms are made from.

Invariant: everything here is frozen. Another thread that takes a view sees one moment, never half of a change.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field, replace

from jetdr_core.domain import DomainStatus
from jetdr_core.drva.alarm_log import AlarmState
from jetdr_core.drva.as_of import AsOf
from jetdr_core.drva.configured_disks import GivenUp
from jetdr_core.drva.domain_state import Condition
from jetdr_core.drva.pause import Pause
from jetdr_core.drva.scrubbed import Scrubbed

__all__ = ["Phase", "SessionView", "State"]


class State(enum.Enum):
    """What a session does at present."""

    OPENING = "opening"
    OPEN = "open"
    WAITING = "waiting"
    FENCED = "fenced"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Phase:
    """A state, since when, why the domain is not open if it failed, and how often it failed.

    ``forged``: a forged object is why. ``log_away``: the log's device is. ``since_s`` is when the state began, on the
    monotonic clock.
    """

    state: State
    since_ns: int
    failure: str = ""
    restarts: int = 0
    forged: bool = False
    log_away: bool = False
    since_s: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls) -> Phase:
        """Return the phase of a new session."""
        return cls(State.OPENING, time.time_ns())

    def enter(self, state: State) -> Phase:
        """Return the phase after entering ``state``, which begins now unless it is the present one."""
        if state is self.state:
            return self
        return replace(self, state=state, since_ns=time.time_ns(), since_s=time.monotonic())

    @property
    def opening_s(self) -> float:
        """For how long the domain has been opening. 0 if it is not."""
        return time.monotonic() - self.since_s if self.state is State.OPENING else 0.0

    def opened(self) -> Phase:
        """Return the phase once the domain has opened, which ends its failure."""
        return replace(self, failure="", forged=False, log_away=False)

    def failed(self, failure: str, *, restarts: bool, forged: bool = False, log_away: bool = False) -> Phase:
        """Return the phase after ``failure``. ``restarts``: the domain is to be opened again, which counts."""
        return replace(self, failure=failure, restarts=self.restarts + restarts, forged=forged, log_away=log_away)


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session at one moment. ``last`` is the newest status there is, and None if there was none yet.

    ``rpo_s`` is how old the oldest write may be that the store lacks, and None if nothing was ever known. Without a
    present status it grows with the clock: nobody knows of anything that was stored since.
    """

    name: str
    state: State
    since_ns: int
    restarts: int
    pause: Pause | None
    failure: str
    condition: Condition
    alarms: tuple[AlarmState, ...]
    alarms_ended: tuple[AlarmState, ...]
    last: AsOf[DomainStatus] | None
    rpo_s: float | None
    given_up: tuple[GivenUp, ...] = ()
    scrubbed: Scrubbed = field(default_factory=Scrubbed)

    @property
    def status(self) -> DomainStatus | None:
        """The present status. None while the domain is closed or does not answer."""
        return self.last.value if self.last is not None and self.last.is_present else None
