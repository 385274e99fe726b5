"""AlarmLog: the alarms of one domain as states, with beginning, end and acknowledgement.

Who looks at status only now and then would miss an alarm that came and went. So an alarm that has ended stays visible
until it is acknowledged, and for a day at most. Beginning and end are log lines, each once.

Invariants: an alarm that is a state is present as long as its cause, whether acknowledged or not. One that is an event
is over once it is acknowledged. One that begins again is not acknowledged. Memory: of each alarm, the present state and
the last one that ended. An alarm of the run before goes on with its beginning if its cause is still there once that is
known, and has ended otherwise. Thread-safe.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jetdr_core.drva.alarms import Alarm

__all__ = ["Acknowledged", "AlarmKey", "AlarmLog", "AlarmMemory", "AlarmState"]

KEPT_NS = 24 * 3600 * 10**9
"""So long an alarm that has ended stays visible if nobody acknowledges it."""

log = logging.getLogger(__name__)

AlarmKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class AlarmState:
    """An alarm with its beginning, and with its end if it has ended (else 0). ``text`` is the newest."""

    name: str
    text: str
    since_ns: int
    ended_ns: int = 0
    acknowledged: bool = False
    event: int = 0


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """So many alarms were acknowledged. ``over`` names those that are gone, ``present`` those whose cause lasts."""

    count: int = 0
    over: tuple[str, ...] = ()
    present: tuple[str, ...] = ()

    def __add__(self, other: Acknowledged) -> Acknowledged:
        return Acknowledged(self.count + other.count, self.over + other.over, self.present + other.present)


@dataclass(frozen=True, slots=True)
class AlarmMemory:
    """All that an alarm log remembers: the present alarms, those that ended, and the events that somebody has seen."""

    present: Mapping[AlarmKey, AlarmState] = field(default_factory=dict)
    ended: Mapping[AlarmKey, AlarmState] = field(default_factory=dict)
    seen_events: Mapping[AlarmKey, int] = field(default_factory=dict)


class AlarmLog:
    """The alarms of ``domain``. Nothing is logged of those of the DRVA itself, whose parts log what they meet.

    ``before`` is what the run before remembered. ``keep`` is given what is remembered whenever that has changed.
    """

    def __init__(
        self,
        domain: str = "",
        *,
        now_ns: Callable[[], int] = time.time_ns,
        before: AlarmMemory | None = None,
        keep: Callable[[AlarmMemory], None] = lambda _memory: None,
    ) -> None:
        before = before or AlarmMemory()
        self._domain = domain
        self._now_ns = now_ns
        self._keep = keep
        self._lock = threading.Lock()
        self._before = dict(before.present)
        self._present: dict[AlarmKey, AlarmState] = {}
        self._ended = dict(before.ended)
        self._seen_events = dict(before.seen_events)

    def note(self, alarms: Sequence[Alarm], *, all_known: bool = True) -> tuple[AlarmState, ...]:
        """Note that ``alarms`` are those of this moment, log what began and ended, and return the states.

        Unless ``all_known``, an alarm of the run before may still have its cause.
        """
        with self._lock:
            states = self._dated(alarms)
            begun, over = states.keys() - self._present.keys(), self._present.keys() - states.keys()
            for key in sorted(begun):
                self._tell(logging.WARNING, f"alarm {key[0]}: {states[key].text}")
            gone = {key: self._before.pop(key) for key in list(self._before) if all_known or key in states}
            for key in sorted(over | (gone.keys() - states.keys())):
                self._tell(logging.INFO, f"alarm {key[0]} is over")
                self._end(key, self._present.get(key) or gone[key])
            self._present = states
            if begun or over or gone:
                self._remember()
            return tuple(states.values())

    def dated(self, alarms: Sequence[Alarm]) -> tuple[AlarmState, ...]:
        """Return the states of ``alarms``, and note nothing."""
        with self._lock:
            return tuple(self._dated(alarms).values())

    @property
    def ended(self) -> tuple[AlarmState, ...]:
        """Return the alarms that have ended and that nobody has acknowledged, the newest first."""
        with self._lock:
            oldest_ns = self._now_ns() - KEPT_NS
            self._ended = {key: state for key, state in self._ended.items() if state.ended_ns > oldest_ns}
            return tuple(sorted(self._ended.values(), key=lambda state: -state.ended_ns))

    def acknowledge(self, name: str | None = None) -> Acknowledged:
        """Acknowledge the alarms with that name, or all. Those that have ended, and events, are then gone."""
        with self._lock:
            ended = [key for key in self._ended if name in {None, key[0]}]
            present = {key: state for key, state in self._present.items() if name in {None, key[0]}}
            events = [key for key, state in present.items() if state.event]
            for key in ended:
                del self._ended[key]
            for key in events:
                self._seen_events[key] = self._present.pop(key).event
                self._tell(logging.INFO, f"alarm {key[0]} is acknowledged, and over")
            states = [key for key in present if key not in events]
            new = [key for key in states if not present[key].acknowledged]
            self._present |= {key: replace(present[key], acknowledged=True) for key in new}
            over = tuple(key[0] for key in (*ended, *events))
            if over or new:
                self._remember()
            return Acknowledged(len(over) + len(new), over, tuple(key[0] for key in states))

    def _dated(self, alarms: Sequence[Alarm]) -> dict[AlarmKey, AlarmState]:
        """Return the states by key, with their beginning. Alarms that nothing else tells apart differ by their text."""
        now_ns = self._now_ns()
        states: dict[AlarmKey, AlarmState] = {}
        for alarm in alarms:
            key = alarm.name, alarm.subject
            if key in states:
                key = alarm.name, alarm.text
            if alarm.event and self._seen_events.get(key) == alarm.event:
                continue
            known = self._present.get(key) or self._before.get(key)
            if known is None or known.event != alarm.event:
                known = AlarmState(alarm.name, alarm.text, alarm.since_ns or now_ns, event=alarm.event)
            states[key] = replace(known, text=alarm.text)
        return states

    def _remember(self) -> None:
        self._keep(AlarmMemory(self._before | self._present, dict(self._ended), dict(self._seen_events)))

    def _end(self, key: AlarmKey, state: AlarmState) -> None:
        self._ended.pop(key, None)
        if not state.acknowledged:
            self._ended[key] = replace(state, ended_ns=self._now_ns())

    def _tell(self, level: int, message: str) -> None:
        if self._domain:
            log.log(level, "domain %s: %s", self._domain, message, extra={"domain": self._domain})
