"""Where a session stands, and the view of it that clients, metrics and alarms are made from.

Invariant: everything here is frozen. Another thread that takes a view sees one moment, never half of a change.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, replace

from jetdr_core.domain import DomainStatus
from jetdr_core.drva.alarms import Alarm
from jetdr_core.drva.domain_state import Condition

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

    ``forged``: a forged object is why.
    """

    state: State
    since_ns: int
    failure: str = ""
    restarts: int = 0
    forged: bool = False

    @classmethod
    def begin(cls) -> Phase:
        """Return the phase of a new session."""
        return cls(State.OPENING, time.time_ns())

    def enter(self, state: State) -> Phase:
        """Return the phase after entering ``state``, which begins now unless it is the present one."""
        return self if state is self.state else replace(self, state=state, since_ns=time.time_ns())

    def opened(self) -> Phase:
        """Return the phase once the domain has opened, which ends its failure."""
        return replace(self, failure="", forged=False)

    def failed(self, failure: str, *, restarts: bool, forged: bool = False) -> Phase:
        """Return the phase after ``failure``. ``restarts``: the domain is to be opened again, which counts."""
        return replace(self, failure=failure, restarts=self.restarts + restarts, forged=forged)


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session at one moment. ``status`` is the newest there is, taken ``status_age_s`` ago."""

    name: str
    state: State
    since_ns: int
    restarts: int
    paused: bool
    failure: str
    condition: Condition
    alarms: tuple[Alarm, ...]
    status: DomainStatus | None
    status_age_s: float
