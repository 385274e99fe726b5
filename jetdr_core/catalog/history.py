"""DomainHistory: what the control records say, folded in LSN order into disks, marks, gaps, configuration files and the
stretches in which the domain is consistent.

The domain is consistent at an LSN if all of this holds:

- The *baseline* was reached: at some earlier LSN the initial copies of all disks of that moment were complete.
- No gap is open.
- Some disk is ready.

Times here are true ones, as far as anybody knows. Record times never decrease along LSN, so after the clock of the
domain's machine was ahead, they go on from there. A GAP_OPEN then says by how much they are ahead, which is taken off.

Invariants: pure and incremental, so that a reader of the store and the running domain share it. A record that was
folded before is ignored. A record that contradicts the history is :class:`DamagedObject`, and changes nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from jetdr_core.catalog.point import Interval, RecoveryPoint
from jetdr_core.control_bodies import (
    ConfigFile,
    ControlBody,
    Digests,
    DiskAdd,
    DiskGrow,
    DiskReady,
    DiskRemove,
    GapClose,
    GapOpen,
    Mark,
    Void,
    body_of,
)
from jetdr_core.errors import DamagedObject
from jetdr_core.limits import DISK_BYTES_MAX
from jetdr_core.record import ControlRecord


class DiskState(NamedTuple):
    """A protected disk as it was at some LSN. ``disk`` is its number in the records, which no other disk ever gets."""

    disk: int
    name: str
    uuid: str
    path: str
    size_bytes: int
    ready: bool


class Gap(NamedTuple):
    """From ``lsn_open`` to before ``lsn_close`` the domain was not consistent. None: the gap is still open.

    ``time_open_ns`` may lie before ``lsn_open`` was captured. After an unclean stop, for example, nothing is known from
    the last LSN before the stop.
    """

    lsn_open: int
    time_open_ns: int
    reason: str
    lsn_close: int | None = None
    time_close_ns: int | None = None


class Turn(NamedTuple):
    """From this LSN the domain is consistent, or it is not."""

    lsn: int
    time_ns: int
    consistent: bool


class ClockTurn(NamedTuple):
    """From this LSN record times are ahead of the true time by ``ahead_ns``. ``time_ns`` is the true time then."""

    lsn: int
    time_ns: int
    ahead_ns: int


def last_turn_at(turns: Sequence[ClockTurn], time_ns: int) -> int:
    """Return the index of the last of ``turns``, in LSN order, that came at or before ``time_ns``. -1 if none did.

    Their times need not increase: a clock that is set back again and again shows an instant several times. The last
    one counts.
    """
    return next((nth for nth in range(len(turns) - 1, -1, -1) if turns[nth].time_ns <= time_ns), -1)


class DiskFacts(NamedTuple):
    """All that is known of a disk, also of one that is no longer protected. ``sizes`` are pairs of LSN and size."""

    disk: int
    name: str
    uuid: str
    path: str
    lsn_added: int
    lsn_ready: int | None
    lsn_removed: int | None
    sizes: tuple[tuple[int, int], ...]


class HistoryFacts(NamedTuple):
    """A history up to ``lsn`` as plain values, each with the LSN of its record. The history is made of them again."""

    timeline: int
    lsn: int
    baseline: RecoveryPoint | None
    disks: tuple[DiskFacts, ...]
    marks: tuple[RecoveryPoint, ...]
    gaps: tuple[Gap, ...]
    configs: tuple[tuple[int, str, str], ...]
    turns: tuple[Turn, ...]
    clock_turns: tuple[ClockTurn, ...] = ()


@dataclass(slots=True)
class _Disk:
    disk: int
    name: str
    uuid: str
    path: str
    lsn_added: int
    lsn_ready: int | None
    lsn_removed: int | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def present(self, lsn: int) -> bool:
        return self.lsn_added <= lsn and (self.lsn_removed is None or lsn < self.lsn_removed)

    def state(self, lsn: int) -> DiskState:
        size = self.sizes[bisect_right(self.sizes, (lsn, DISK_BYTES_MAX)) - 1][1]
        ready = self.lsn_ready is not None and self.lsn_ready <= lsn
        return DiskState(self.disk, self.name, self.uuid, self.path, size, ready)

    def facts(self, lsn: int) -> DiskFacts:
        return DiskFacts(
            *(self.disk, self.name, self.uuid, self.path, self.lsn_added),
            lsn_ready=_until(self.lsn_ready, lsn),
            lsn_removed=_until(self.lsn_removed, lsn),
            sizes=tuple(size for size in self.sizes if size[0] <= lsn),
        )

    @classmethod
    def of(cls, facts: DiskFacts) -> _Disk:
        return cls(*facts[:-1], sizes=list(facts.sizes))


def _until(at: int | None, lsn: int) -> int | None:
    """Return ``at`` if it had happened at ``lsn``."""
    return at if at is not None and at <= lsn else None


class DomainHistory:
    """Takes records through :meth:`apply`, in LSN order. Answers about any LSN up to the last one."""

    def __init__(self, *, timeline: int = 1) -> None:
        self.timeline = timeline
        self.lsn_folded = 0
        self.baseline: RecoveryPoint | None = None
        self._disks: dict[int, _Disk] = {}
        self._present: dict[str, _Disk] = {}
        self._marks: dict[str, RecoveryPoint] = {}
        self._gaps: list[Gap] = []
        self._configs: list[tuple[int, str, str]] = []
        self._turns: list[Turn] = []
        self._clock_turns: list[ClockTurn] = []
        self._config_newest: dict[str, tuple[int, str]] = {}
        self._unready = 0

    # -- as plain values ---------------------------------------------------------------------------------------------

    def facts(self, lsn: int) -> HistoryFacts:
        """Return the history as it was at ``lsn``. The caller knows that every control record up to there is folded."""
        return HistoryFacts(
            timeline=self.timeline,
            lsn=lsn,
            baseline=self.baseline if self.baseline is not None and self.baseline.lsn <= lsn else None,
            disks=tuple(disk.facts(lsn) for disk in self._disks.values() if disk.lsn_added <= lsn),
            marks=tuple(mark for mark in self._marks.values() if mark.lsn <= lsn),
            gaps=tuple(_gap_until(gap, lsn) for gap in self._gaps if gap.lsn_open <= lsn),
            configs=tuple(config for config in self._configs if config[0] <= lsn),
            turns=tuple(turn for turn in self._turns if turn.lsn <= lsn),
            clock_turns=tuple(turn for turn in self._clock_turns if turn.lsn <= lsn),
        )

    @classmethod
    def of(cls, facts: HistoryFacts) -> Self:
        """Return the history that gave ``facts``, which were checked."""
        history = cls(timeline=facts.timeline)
        history.lsn_folded = facts.lsn
        history.baseline = facts.baseline
        history._disks = {disk.disk: _Disk.of(disk) for disk in facts.disks}
        history._present = {disk.name: disk for disk in history._disks.values() if disk.lsn_removed is None}
        history._marks = {mark.name: mark for mark in facts.marks if mark.name is not None}
        history._gaps = list(facts.gaps)
        history._unready = sum(disk.lsn_ready is None for disk in history._present.values())
        history._configs = list(facts.configs)
        history._config_newest = {name: (lsn, text) for lsn, name, text in facts.configs}
        history._turns = list(facts.turns)
        history._clock_turns = list(facts.clock_turns)
        return history

    # -- questions -----------------------------------------------------------------------------------------------------

    @property
    def consistent(self) -> bool:
        """Whether the domain is consistent after the last record."""
        return bool(self._turns) and self._turns[-1].consistent

    @property
    def marks(self) -> Mapping[str, RecoveryPoint]:
        """Marks by name, in LSN order. Marks taken inside a gap are included."""
        return self._marks

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return tuple(self._gaps)

    @property
    def disks(self) -> tuple[DiskState, ...]:
        """The disks that are protected now. Disks whose initial copy is not complete are included."""
        return tuple(disk.state(self.lsn_folded) for disk in self._present.values())

    @property
    def disk_next(self) -> int:
        """The lowest disk number that was never used."""
        return max(self._disks, default=0) + 1

    @property
    def why_inconsistent(self) -> str:
        """In a few words, why the domain is not consistent now. Empty if it is."""
        if self.consistent:
            return ""
        if self.gap_open is not None:
            return f"a gap is open since LSN {self.gap_open.lsn_open} ({self.gap_open.reason or 'no reason given'})"
        copied = ", ".join(repr(disk.name) for disk in self.disks if not disk.ready)
        return f"the initial copy of {copied} is not complete" if copied else "it protects no disk"

    @property
    def gap_open(self) -> Gap | None:
        """The gap that is open now, if any."""
        return self._gaps[-1] if self._gaps and self._gaps[-1].lsn_close is None else None

    def disks_at(self, lsn: int) -> tuple[DiskState, ...]:
        """The disks of the recovery point at ``lsn``: those protected and ready then, with the sizes of then."""
        states = (disk.state(lsn) for disk in self._disks.values() if disk.present(lsn))
        return tuple(state for state in states if state.ready)

    def holds(self, number: int, lsn: int) -> bool:
        """Whether disk ``number`` is part of the recovery point at ``lsn``."""
        disk = self._disks.get(number)
        return disk is not None and disk.present(lsn) and disk.state(lsn).ready

    @property
    def disk_names(self) -> dict[int, str]:
        """The name of every disk that was ever protected, by number."""
        return {number: disk.name for number, disk in self._disks.items()}

    def sizes_from(self, lsn: int, points: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Every disk of the ``points`` (LSNs, ascending) at or after ``lsn``, with its size at the first of them."""
        for number, disk in self._disks.items():
            if disk.lsn_ready is not None:
                nth = bisect_left(points, max(lsn, disk.lsn_added, disk.lsn_ready))
                if nth < len(points) and disk.present(points[nth]):
                    yield number, disk.state(points[nth]).size_bytes

    def config_lsn(self, name: str, text: str) -> int | None:
        """The LSN from which configuration file ``name`` is ``text``. None: it is not, or not any more."""
        lsn, newest = self._config_newest.get(name, (0, None))
        return lsn if newest == text else None

    def configs_at(self, lsn: int) -> dict[str, str]:
        """The newest text of every configuration file at ``lsn``, by name."""
        return {name: text for at, name, text in self._configs if at <= lsn}

    def consistent_at(self, lsn: int) -> bool:
        turn = bisect_right(self._turns, lsn, key=lambda turn: turn.lsn) - 1
        return turn >= 0 and self._turns[turn].consistent

    @property
    def clock_turns(self) -> tuple[ClockTurn, ...]:
        """Where record times began to be ahead of the true time by more than before."""
        return tuple(self._clock_turns)

    @property
    def ahead_ns(self) -> int:
        """By how much the times of new records are ahead of the true time."""
        return self._clock_turns[-1].ahead_ns if self._clock_turns else 0

    def gap_at_time(self, time_ns: int) -> Gap | None:
        """The gap that contains an instant, which may lie before the gap's record was written.

        What was told before the last turn of the clock is not asked about instants that came after that turn.
        """
        nth = last_turn_at(self._clock_turns, time_ns)
        lsn_first = self._clock_turns[nth].lsn if nth >= 0 else 0
        for gap in reversed(self._gaps):
            if gap.lsn_open < lsn_first:
                return None
            if gap.time_open_ns <= time_ns and (gap.time_close_ns is None or time_ns < gap.time_close_ns):
                return gap
        return None

    def gap_at(self, lsn: int) -> Gap | None:
        """The gap that is open at ``lsn``, if any."""
        nth = bisect_right(self._gaps, lsn, key=lambda gap: gap.lsn_open) - 1
        if nth < 0:
            return None
        gap = self._gaps[nth]
        return gap if gap.lsn_close is None or lsn < gap.lsn_close else None

    def intervals(self, lsn_last: int, time_last_ns: int) -> list[Interval]:
        """The consistent stretches up to ``lsn_last``, in order. The last may end at ``time_last_ns``."""
        ends = [(turn.lsn - 1, turn.time_ns - 1) for turn in self._turns[1:]] + [(lsn_last, time_last_ns)]
        return [
            Interval(turn.lsn, end_lsn, turn.time_ns, max(turn.time_ns, end_ns))
            for turn, (end_lsn, end_ns) in zip(self._turns, ends, strict=False)
            if turn.consistent
        ]

    # -- the fold ------------------------------------------------------------------------------------------------------

    def apply(self, record: ControlRecord) -> None:
        """Fold the next control record. A record at or before :attr:`lsn_folded` is ignored.

        :class:`DamagedObject` if the record contradicts the history, which it then leaves as it was.
        """
        if record.lsn <= self.lsn_folded:
            return
        body = self.check(record)
        if isinstance(body, GapOpen):
            body = self._turn_clock(record, body)
        true = record._replace(time_ns=record.time_ns - self.ahead_ns)
        self._fold(true, body)
        self.lsn_folded = record.lsn
        self._turn(true)

    def check(self, record: ControlRecord) -> ControlBody:
        """Return the body of ``record``. :class:`DamagedObject` if it contradicts the history. Changes nothing."""
        body = body_of(record)
        problem = self._contradiction(record.disk, body) or self._impossible_time(record, body)
        if problem:
            raise DamagedObject(f"LSN {record.lsn}", f"{record.kind.name} record", problem)
        return body

    def _turn_clock(self, record: ControlRecord, body: GapOpen) -> GapOpen:
        """Note by how much record times are ahead from ``record`` on. Returns the body with true times."""
        if body.ahead_ns is not None and body.ahead_ns != self.ahead_ns:
            self._clock_turns.append(ClockTurn(record.lsn, record.time_ns - body.ahead_ns, body.ahead_ns))
        return body if body.since_ns is None else replace(body, since_ns=body.since_ns - self.ahead_ns)

    def _impossible_time(self, record: ControlRecord, body: ControlBody) -> str:
        """Why what ``body`` says of times cannot be. A record that has no time yet has time 0."""
        if not isinstance(body, GapOpen):
            return ""
        if body.ahead_ns is not None and not self.ahead_ns <= body.ahead_ns <= (record.time_ns or body.ahead_ns):
            return f"record times would be ahead by {body.ahead_ns} ns"
        if body.since_ns is not None and body.since_ns < (body.ahead_ns or self.ahead_ns):
            return f"it begins at {body.since_ns} ns"
        return ""

    def _contradiction(self, number: int, body: ControlBody) -> str:
        """Why ``body`` cannot be the next record about disk ``number``. Empty if it can."""
        if isinstance(body, DiskAdd):
            known = number in self._disks or body.name in self._present
            return f"disk {number} {body.name!r} was added before" if known else ""
        if isinstance(body, DiskReady | DiskRemove | DiskGrow):
            disk = self._disks.get(number)
            if disk is None or disk.lsn_removed is not None:
                return f"disk {number} is not protected"
            if isinstance(body, DiskGrow) and body.size_bytes < disk.sizes[-1][1]:
                return f"disk {disk.name!r} would shrink to {body.size_bytes} bytes"
        return ""

    def _fold(self, record: ControlRecord, body: ControlBody) -> None:
        match body:
            case Mark(name):
                self._marks.setdefault(name, RecoveryPoint(self.timeline, record.lsn, record.time_ns, name))
            case GapOpen():
                self._begin_gap(record, body)
            case GapClose():
                self._end_gap(record)
            case DiskAdd():
                self._add_disk(record, body)
            case DiskReady():
                self._make_ready(record)
            case DiskRemove():
                self._remove_disk(record)
            case DiskGrow(size_bytes):
                self._disks[record.disk].sizes.append((record.lsn, size_bytes))
            case ConfigFile(name, text):
                self._keep_config(record.lsn, name, text)
            case Digests() | Void():
                pass

    def _turn(self, record: ControlRecord) -> None:
        ready = len(self._present) - self._unready
        if self.baseline is None and ready and not self._unready:
            self.baseline = RecoveryPoint(self.timeline, record.lsn, record.time_ns)
        consistent = self.baseline is not None and ready > 0 and self.gap_open is None
        if consistent != self.consistent:
            gap = self.gap_open
            self._turns.append(Turn(record.lsn, gap.time_open_ns if gap else record.time_ns, consistent))

    def _begin_gap(self, record: ControlRecord, body: GapOpen) -> None:
        if self.gap_open is None:
            since_ns = record.time_ns if body.since_ns is None else min(body.since_ns, record.time_ns)
            self._gaps.append(Gap(record.lsn, since_ns, body.reason))

    def _end_gap(self, record: ControlRecord) -> None:
        if self.gap_open is not None:
            self._gaps[-1] = self._gaps[-1]._replace(lsn_close=record.lsn, time_close_ns=record.time_ns)

    def _add_disk(self, record: ControlRecord, body: DiskAdd) -> None:
        disk = _Disk(
            disk=record.disk,
            name=body.name,
            uuid=body.uuid,
            path=body.path,
            lsn_added=record.lsn,
            lsn_ready=None if body.holds_data else record.lsn,
            sizes=[(record.lsn, body.size_bytes)],
        )
        self._disks[record.disk] = self._present[body.name] = disk
        self._unready += disk.lsn_ready is None

    def _make_ready(self, record: ControlRecord) -> None:
        disk = self._disks[record.disk]
        if disk.lsn_ready is None:
            disk.lsn_ready = record.lsn
            self._unready -= 1

    def _remove_disk(self, record: ControlRecord) -> None:
        disk = self._disks[record.disk]
        disk.lsn_removed = record.lsn
        self._unready -= disk.lsn_ready is None
        del self._present[disk.name]

    def _keep_config(self, lsn: int, name: str, text: str) -> None:
        if self.config_lsn(name, text) is None:
            self._configs.append((lsn, name, text))
            self._config_newest[name] = lsn, text


def _gap_until(gap: Gap, lsn: int) -> Gap:
    """Return the gap as it was at ``lsn``: it may have been open."""
    is_open = gap.lsn_close is None or gap.lsn_close > lsn
    return gap._replace(lsn_close=None, time_close_ns=None) if is_open else gap
