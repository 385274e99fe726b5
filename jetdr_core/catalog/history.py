"""DomainHistory: what the control records say, folded one after the other: disks, marks, gaps, configuration,
consistency.

Invariants: pure and incremental, used over the store's records and by the running domain alike; a record that was
applied before is ignored. The domain is consistent at an LSN iff the baseline was reached (every disk then protected
had been copied once), no gap is open, and some disk is ready. A record that contradicts the history is
:class:`DamagedObject`; names are checked here, because they become file names.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jetdr_core.catalog.point import Interval, RecoveryPoint
from jetdr_core.errors import DamagedObject, InvalidRequest
from jetdr_core.identity import check_mark_name, check_name
from jetdr_core.limits import DISK_BYTES_MAX, SECTOR_BYTES
from jetdr_core.record import ControlRecord, Kind

_FILE_NAME_BYTES_MAX = 200


class DiskState(NamedTuple):
    """A protected disk as it was at some LSN. ``disk`` is the number that records carry; it is never used again."""

    disk: int
    name: str
    uuid: str
    path: str
    size_bytes: int
    ready: bool


class Gap(NamedTuple):
    """From ``lsn_open`` on the domain was not consistent, until ``lsn_close`` (None: still).

    ``time_open_ns`` may lie before that LSN was captured: after an unclean stop nothing is known from the last LSN on.
    """

    lsn_open: int
    time_open_ns: int
    reason: str
    lsn_close: int | None = None
    time_close_ns: int | None = None


class _Turn(NamedTuple):
    """From this LSN on the domain is, or is not, consistent."""

    lsn: int
    time_ns: int
    consistent: bool


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


class DomainHistory:
    """The fold. Feed :meth:`apply` in LSN order; ask at any LSN up to the last one known."""

    def __init__(self, *, timeline: int = 1) -> None:
        self.timeline = timeline
        self.lsn_folded = 0
        self.baseline: RecoveryPoint | None = None
        self._disks: dict[int, _Disk] = {}
        self._present: dict[str, _Disk] = {}
        self._marks: dict[str, RecoveryPoint] = {}
        self._gaps: list[Gap] = []
        self._configs: list[tuple[int, str, str]] = []
        self._turns: list[_Turn] = []
        self._folds: dict[Kind, Callable[[ControlRecord], None]] = {
            Kind.MARK: self._mark,
            Kind.GAP_OPEN: self._gap_open,
            Kind.GAP_CLOSE: self._gap_close,
            Kind.DISK_ADD: self._disk_add,
            Kind.DISK_READY: self._disk_ready,
            Kind.DISK_REMOVE: self._disk_remove,
            Kind.DISK_GROW: self._disk_grow,
            Kind.CONFIG: self._config,
        }
        self._checks: dict[Kind, Callable[[ControlRecord], object]] = {
            Kind.MARK: _mark_name,
            Kind.GAP_OPEN: _gap_opened,
            Kind.DISK_ADD: self._check_add,
            Kind.DISK_READY: self._disk,
            Kind.DISK_REMOVE: self._disk,
            Kind.DISK_GROW: self._check_grow,
            Kind.CONFIG: _config_file,
        }

    # -- what is asked -------------------------------------------------------------------------------------------------

    @property
    def consistent(self) -> bool:
        """Whether the domain is consistent after the last record applied."""
        return bool(self._turns) and self._turns[-1].consistent

    @property
    def marks(self) -> Mapping[str, RecoveryPoint]:
        """By name, in LSN order; those taken inside a gap included."""
        return self._marks

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return tuple(self._gaps)

    @property
    def disks(self) -> tuple[DiskState, ...]:
        """The disks protected now, also those still being copied."""
        return tuple(disk.state(self.lsn_folded) for disk in self._present.values())

    @property
    def disk_next(self) -> int:
        """A disk number that was never used."""
        return max(self._disks, default=0) + 1

    @property
    def why_inconsistent(self) -> str:
        """In a few words, why the domain is not consistent now; empty when it is."""
        if self.consistent:
            return ""
        if self.gap_open is not None:
            return f"a gap is open since LSN {self.gap_open.lsn_open} ({self.gap_open.reason or 'no reason given'})"
        copied = ", ".join(repr(disk.name) for disk in self.disks if not disk.ready)
        return f"the first copy of {copied} is not complete" if copied else "it protects no disk"

    @property
    def gap_open(self) -> Gap | None:
        """The gap that is open now."""
        return self._gaps[-1] if self._gaps and self._gaps[-1].lsn_close is None else None

    def disks_at(self, lsn: int) -> tuple[DiskState, ...]:
        """The disks of a recovery point: protected and ready at ``lsn``, with their sizes then."""
        states = (disk.state(lsn) for disk in self._disks.values() if disk.present(lsn))
        return tuple(state for state in states if state.ready)

    def configs_at(self, lsn: int) -> dict[str, str]:
        """The newest text of every configuration file at ``lsn``, by name."""
        return {name: text for at, name, text in self._configs if at <= lsn}

    def consistent_at(self, lsn: int) -> bool:
        turn = bisect_right(self._turns, lsn, key=lambda turn: turn.lsn) - 1
        return turn >= 0 and self._turns[turn].consistent

    def gap_at_time(self, time_ns: int) -> Gap | None:
        """The gap that an instant lies in: it may begin before the gap's record was written."""
        nth = bisect_right(self._gaps, time_ns, key=lambda gap: gap.time_open_ns) - 1
        if nth < 0:
            return None
        gap = self._gaps[nth]
        return gap if gap.time_close_ns is None or time_ns < gap.time_close_ns else None

    def gap_at(self, lsn: int) -> Gap | None:
        """The gap that is open at ``lsn``."""
        nth = bisect_right(self._gaps, lsn, key=lambda gap: gap.lsn_open) - 1
        if nth < 0:
            return None
        gap = self._gaps[nth]
        return gap if gap.lsn_close is None or lsn < gap.lsn_close else None

    def intervals(self, lsn_last: int, time_last_ns: int) -> list[Interval]:
        """The consistent stretches up to ``lsn_last``, in order; the last may end at ``time_last_ns``."""
        ends = [(turn.lsn - 1, turn.time_ns - 1) for turn in self._turns[1:]] + [(lsn_last, time_last_ns)]
        return [
            Interval(turn.lsn, end_lsn, turn.time_ns, max(turn.time_ns, end_ns))
            for turn, (end_lsn, end_ns) in zip(self._turns, ends, strict=False)
            if turn.consistent
        ]

    # -- the fold ------------------------------------------------------------------------------------------------------

    def apply(self, record: ControlRecord) -> None:
        """Take the next control record; one at or before :attr:`lsn_folded` is ignored. After an error nothing
        changed.
        """
        if record.lsn <= self.lsn_folded:
            return
        self.check(record)
        fold = self._folds.get(record.kind)
        if fold is not None:
            fold(record)
        self.lsn_folded = record.lsn
        self._turn(record)

    def check(self, record: ControlRecord) -> None:
        """Raise :class:`DamagedObject` if ``record`` contradicts the history; changes nothing."""
        check = self._checks.get(record.kind)
        if check is not None:
            check(record)

    def _turn(self, record: ControlRecord) -> None:
        ready = [disk.lsn_ready is not None for disk in self._present.values()]
        if self.baseline is None and ready and all(ready):
            self.baseline = RecoveryPoint(self.timeline, record.lsn, record.time_ns)
        consistent = self.baseline is not None and any(ready) and self.gap_open is None
        if consistent != self.consistent:
            gap = self.gap_open
            self._turns.append(_Turn(record.lsn, gap.time_open_ns if gap else record.time_ns, consistent))

    def _mark(self, record: ControlRecord) -> None:
        name = _mark_name(record)
        self._marks.setdefault(name, RecoveryPoint(self.timeline, record.lsn, record.time_ns, name))

    def _gap_open(self, record: ControlRecord) -> None:
        if self.gap_open is None:
            reason, since_ns = _gap_opened(record)
            self._gaps.append(Gap(record.lsn, since_ns, reason))

    def _gap_close(self, record: ControlRecord) -> None:
        if self.gap_open is not None:
            self._gaps[-1] = self._gaps[-1]._replace(lsn_close=record.lsn, time_close_ns=record.time_ns)

    def _check_add(self, record: ControlRecord) -> tuple[str, int]:
        name = _checked(record, lambda text: check_name("disk", text), _text(record, "name"))
        if record.disk in self._disks or name in self._present:
            raise _damaged(record, f"disk {record.disk} {name!r} was added before")
        _text(record, "uuid", "")
        _text(record, "path", "")
        return name, _size(record)

    def _disk_add(self, record: ControlRecord) -> None:
        name, size = self._check_add(record)
        disk = _Disk(
            disk=record.disk,
            name=name,
            uuid=_text(record, "uuid", ""),
            path=_text(record, "path", ""),
            lsn_added=record.lsn,
            lsn_ready=None if record.body.get("holds_data") else record.lsn,
            sizes=[(record.lsn, size)],
        )
        self._disks[record.disk] = self._present[name] = disk

    def _disk_ready(self, record: ControlRecord) -> None:
        disk = self._disk(record)
        if disk.lsn_ready is None:
            disk.lsn_ready = record.lsn

    def _disk_remove(self, record: ControlRecord) -> None:
        disk = self._disk(record)
        disk.lsn_removed = record.lsn
        del self._present[disk.name]

    def _check_grow(self, record: ControlRecord) -> tuple[_Disk, int]:
        disk, size = self._disk(record), _size(record)
        if size < disk.sizes[-1][1]:
            raise _damaged(record, f"disk {disk.name!r} would shrink to {size} bytes")
        return disk, size

    def _disk_grow(self, record: ControlRecord) -> None:
        disk, size = self._check_grow(record)
        disk.sizes.append((record.lsn, size))

    def _config(self, record: ControlRecord) -> None:
        self._configs.append((record.lsn, *_config_file(record)))

    def _disk(self, record: ControlRecord) -> _Disk:
        disk = self._disks.get(record.disk)
        if disk is None or disk.lsn_removed is not None:
            raise _damaged(record, f"disk {record.disk} is not protected")
        return disk


def _mark_name(record: ControlRecord) -> str:
    return _checked(record, check_mark_name, _text(record, "name"))


def _gap_opened(record: ControlRecord) -> tuple[str, int]:
    """Reason, and the time from which nothing is known: the record's own, or an earlier ``since_ns``."""
    since_ns = record.body.get("since_ns", record.time_ns)
    if not isinstance(since_ns, int) or isinstance(since_ns, bool) or since_ns < 0:
        raise _damaged(record, f"'since_ns' is {since_ns!r}")
    return _text(record, "reason", ""), min(since_ns, record.time_ns)


def _config_file(record: ControlRecord) -> tuple[str, str]:
    return _checked(record, _check_file_name, _text(record, "name")), _text(record, "text")


def _text(record: ControlRecord, name: str, default: str | None = None) -> str:
    value = record.body.get(name, default)
    if not isinstance(value, str):
        raise _damaged(record, f"{name!r} is {value!r}")
    return value


def _size(record: ControlRecord) -> int:
    size = record.body.get("size_bytes")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= DISK_BYTES_MAX or size % SECTOR_BYTES:
        raise _damaged(record, f"'size_bytes' is {size!r}")
    return size


def _checked(record: ControlRecord, check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except InvalidRequest as error:
        raise _damaged(record, str(error)) from None


def _check_file_name(name: str) -> str:
    """A configuration file's name: it stays in the folder it is written to."""
    long = len(name.encode(errors="replace")) > _FILE_NAME_BYTES_MAX
    if not name or long or "/" in name or name.startswith(".") or not name.isprintable():
        raise InvalidRequest(f"configuration file name {name!r} is not valid")
    return name


def _damaged(record: ControlRecord, problem: str) -> DamagedObject:
    return DamagedObject(f"LSN {record.lsn}", f"{record.kind.name} record", problem)
