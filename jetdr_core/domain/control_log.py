"""ControlLog: appends the domain's control records, and keeps the history that they make.

Invariants: the history has every control record that was appended here, in LSN order. A check that depends on the
history, such as whether a mark's name is in use, is one step with the append that follows. An append may wait for room
in the log. Whoever is about to make room asks about the history, and never waits for that append.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jetdr_core._core import Ring
from jetdr_core.catalog import DomainHistory, HistoryFacts, RecoveryPoint, check_mark_is_no_point
from jetdr_core.control_bodies import ConfigFile, ControlBody, GapOpen, Mark
from jetdr_core.errors import DuplicateMark, InvalidRequest, NotConsistent, StallTimeout
from jetdr_core.identity import check_mark_name
from jetdr_core.record import ControlRecord, control_payload, control_records, padded
from jetdr_core.replication_log import Cursor, ReplicationLog

__all__ = ["ControlLog", "fold_control"]

READ_BYTES = 16 << 20


class ControlLog:
    """Thread-safe. ``lock`` may be held around several steps that belong together."""

    def __init__(
        self, domain: str, ring: Ring, history: DomainHistory, *, record_bytes_max: int, stall_limit_s: float
    ) -> None:
        self.history = history
        self.lock = threading.RLock()
        self._domain = domain
        self._ring = ring
        self._record_bytes_max = record_bytes_max
        self._stall_limit_s = stall_limit_s
        self._folding = threading.Lock()  # held while the history changes, or is read as a whole
        self._lsn_before_append: int | None = None  # the record being appended comes after it, and is not folded yet

    # -- the history as a whole ------------------------------------------------------------------------------------

    def is_folded_to(self, lsn: int) -> bool:
        """Whether the history has every control record up to ``lsn`` that was appended here."""
        before = self._lsn_before_append
        return before is None or lsn <= before

    def lsn_folded(self) -> int:
        """The LSN of the last control record in the history."""
        return self.history.lsn_folded

    def facts(self, lsn: int) -> HistoryFacts:
        """Return the history as it was at ``lsn``."""
        with self._folding:
            return self.history.facts(lsn)

    def fold(self, log: ReplicationLog, cursor: Cursor) -> Cursor:
        """Fold what ``log`` holds after ``cursor`` into the history; returns the place reached."""
        with self._folding:
            return fold_control(log, cursor, self.history)

    # -- control records -------------------------------------------------------------------------------------------

    @property
    def gap_open(self) -> bool:
        return self.history.gap_open is not None

    def open_gap(self, reason: str, since_ns: int | None = None) -> None:
        """Append a GAP_OPEN, unless a gap is open. The gap begins here, or at the earlier time ``since_ns``."""
        with self.lock:
            if not self.gap_open:
                self.append(GapOpen(reason, since_ns))

    def is_ready(self, disk: int) -> bool:
        """Whether the initial copy of the disk is complete."""
        with self.lock:
            return any(state.disk == disk and state.ready for state in self.history.disks)

    def append(self, body: ControlBody, disk: int = 0) -> ControlRecord:
        """Append a control record after everything acknowledged so far. It is not durable at return.

        ``disk`` is the number of the disk that the record concerns. Raises, with nothing written:
        :class:`InvalidRequest` for a record longer than the log takes, :class:`DamagedObject` for a record that
        contradicts the history, and :class:`StallTimeout`.
        """
        kind, fields = body.kind, body.encode()
        payload = control_payload(fields)
        if padded(len(payload)) > self._record_bytes_max:
            raise InvalidRequest(
                f"a {kind.name} record of {len(payload)} bytes is longer than the log of domain {self._domain!r} takes",
                hint=f"at most {self._record_bytes_max} bytes fit; a larger log takes longer records",
            )
        with self.lock:
            self.history.check(ControlRecord(self.history.lsn_folded + 1, 0, kind, disk, fields))
            with self._appending():
                lsn, time_ns = self._ring.control(kind, disk, payload, stall_limit_s=self._stall_limit_s)
                record = ControlRecord(lsn, time_ns, kind, disk, fields)
                with self._folding:
                    self.history.apply(record)
            return record

    @contextmanager
    def _appending(self) -> Iterator[None]:
        self._lsn_before_append = self._ring.lsn_reserved
        try:
            yield
        finally:
            self._lsn_before_append = None

    def keep_config(self, config: ConfigFile) -> int:
        """Append a configuration file, unless its newest text is the same; returns the LSN that holds it."""
        with self.lock:
            kept = self.history.config_lsn(config.name, config.text)
            return self.append(config).lsn if kept is None else kept

    def make_durable(self) -> None:
        """Make everything appended so far durable in the log."""
        lsn = self._ring.lsn_reserved
        if not self._ring.wait_durable(lsn, self._stall_limit_s):
            raise StallTimeout(
                f"domain {self._domain!r}: LSN {lsn} was not durable within {self._stall_limit_s} s",
                hint="the log is full, or its device does not answer; records become durable when there is room",
            )

    def mark(self, name: str, why_inconsistent: Callable[[], str]) -> RecoveryPoint:
        """Append a mark. ``why_inconsistent`` tells why this moment is no recovery point. Empty if it is one."""
        check_mark_name(name)
        check_mark_is_no_point(name)
        with self.lock:
            if why := why_inconsistent():
                raise NotConsistent(
                    f"domain {self._domain!r} is not consistent: {why}",
                    hint="mark it when its copies are complete",
                )
            if name in self.history.marks:
                raise DuplicateMark(
                    f"domain {self._domain!r} has a mark {name!r} already: {self.history.marks[name]}",
                    hint="that moment can be recovered; choose another name for this one",
                )
            self.append(Mark(name))
            return self.history.marks[name]


def fold_control(log: ReplicationLog, cursor: Cursor, history: DomainHistory, *, lsn_last: int | None = None) -> Cursor:
    """Fold the control records that the log holds after ``cursor`` into ``history``; returns the place reached.

    With ``lsn_last`` nothing is read after the batch that holds that LSN.
    """
    while (lsn_last is None or cursor.lsn < lsn_last) and (batches := log.read(cursor, payload_bytes_max=READ_BYTES)):
        for batch in batches:
            for record in control_records(batch.records):
                history.apply(record)
        cursor = batches[-1].end
    return cursor
