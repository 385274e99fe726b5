"""ReplicationLog: one domain's log, opened for appending, reading and trimming.

Invariants: the log on disk is a prefix of the LSN order. What lies between tail and head is never overwritten, because
the tail moves in the superblock before it moves for the writer. From the first append until a clean close, the
superblock does not say "clean". After a failed write or flush, nothing more is acknowledged.
"""

from __future__ import annotations

import errno
import threading
from typing import NamedTuple, Protocol

from jetdr_core import limits
from jetdr_core._core import NATIVE_LIMITS, LogWriter, Ring, WriterState
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.errors import InvalidRequest, LogFailed
from jetdr_core.limits import BATCH_BYTES_DEFAULT, BLOCK_BYTES, record_bytes_max
from jetdr_core.replication_log.batch import BATCH_PAYLOAD_BYTES_MAX, Cursor
from jetdr_core.replication_log.reader import CHUNK_BYTES, BadBatch, LogBatch, LogReader
from jetdr_core.replication_log.recovery_scan import RecoveryOutcome, recover
from jetdr_core.replication_log.section import Section
from jetdr_core.replication_log.superblock import UNKNOWN_ID, SectionBody

_LIMITS = {"BATCH_PAYLOAD_BYTES_MAX": BATCH_PAYLOAD_BYTES_MAX, **vars(limits)}
assert all(_LIMITS[name] == value for name, value in NATIVE_LIMITS.items()), "Python and native/jetdr.h agree"


class Writer(Protocol):
    """What the log needs of a :class:`jetdr_core._core.LogWriter`."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def commit(self) -> int: ...
    def set_tail(self, position: int) -> None: ...
    def state(self) -> WriterState: ...


class LogState(NamedTuple):
    """The log at one moment, for status and inspection."""

    name: str
    epoch: int
    timeline: int
    data_bytes: int
    used_bytes: int
    tail: Cursor
    head_position: int
    lsn_uploaded: int
    lsn_written: int
    lsn_durable: int
    bytes_written: int
    commits: int
    flushes: int
    failed: bool


class ReplicationLog:
    """The log in ``section``. To open it is to recover it: :attr:`outcome` says what was found. Nothing is changed yet.

    Life. Open it. :meth:`begin` takes it into use under a new epoch. From :meth:`start` on, the writer drains the ring.
    Then the uploader calls :meth:`read` and :meth:`checkpoint` while producers append to the ring. :meth:`close` is the
    end.

    Threads. :meth:`begin`, :meth:`start` and :meth:`close` belong to the domain's thread, one at a time. The native
    writer has a thread of its own, which alone writes batches. :meth:`checkpoint` writes the superblock in its caller's
    thread, and never runs twice at once. :meth:`read` is for one thread at a time (a second one waits), and any thread
    may use what it returns. :meth:`state` is for all.

    Errors. A failure of the writer poisons the ring, and a caller that waits on the ring gets :class:`LogFailed`. A
    failed write of the superblock is raised, and poisons the ring as well. Afterwards only :meth:`close` is of use.

    Opening raises :class:`LogDamaged`, :class:`LogFailed` or :class:`UnsupportedVersion`. The section is then closed.
    """

    def __init__(self, section: Section, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._section = section
        try:
            self.outcome: RecoveryOutcome = recover(section.device, section.body, where=section.where)
        except BaseException:
            section.close()
            raise
        self._reader = LogReader(section.device, section.body.area, where=section.where, chunk_bytes=chunk_bytes)
        self._read_lock = threading.Lock()
        self._ring: Ring | None = None
        self._writer: Writer | None = None
        self._begun = False
        self._closed = False

    @property
    def body(self) -> SectionBody:
        """What the durable superblock says: name, domain, epoch, timeline, LSN uploaded."""
        return self._section.body

    @property
    def device(self) -> BlockDevice:
        """What the log lies on."""
        return self._section.device

    @property
    def tail(self) -> Cursor:
        """Where reading begins after a restart. Everything that may not have been uploaded lies after it."""
        return self._section.body.tail

    @property
    def used_bytes(self) -> int:
        """Bytes between tail and head."""
        return self._head_position() - self.tail.position

    @property
    def cut_short(self) -> str:
        """Where the log was cut although whole batches lie after that place. Empty if none do.

        Nobody can tell then whether power failed before a flush, or the device damaged what had been flushed.
        """
        outcome, area = self.outcome, self.body.area
        if not outcome.whole_beyond:
            return ""
        return (
            f"{self._section.where}: the end of the log was cut after LSN {outcome.head.lsn}, at offset "
            f"{area.physical(outcome.head.position)}, and {outcome.whole_beyond} whole batches lie after it: "
            "power failed while they were written, or the device is bad"
        )

    def check_cut(self, lsn: int, why: str) -> None:
        """Raise :class:`LogDamaged` if the log was cut short of ``lsn``, which had been durable, as ``why`` says."""
        case = self.outcome.case
        if self.outcome.whole_beyond and lsn > self.outcome.head.lsn and case is not None and case.defect is not None:
            raise self._reader.damaged(self.outcome.head, BadBatch(case.defect), why)

    @property
    def record_bytes_max(self) -> int:
        """The most payload of a record that this log takes."""
        return record_bytes_max(self._section.row.section_bytes)

    def begin(
        self,
        epoch: int,
        *,
        timeline: int | None = None,
        write_back: bool = False,
        nonce: bytes = UNKNOWN_ID,
        state_id: bytes = UNKNOWN_ID,
    ) -> None:
        """Take the log into use under ``epoch``. Durable at return. To be called before :meth:`start`.

        With ``write_back`` the primaries may lag the log from now on. ``nonce`` is that of the claim of ``epoch``, and
        ``state_id`` names the state folder that is relied on. What was cut is erased, so that it cannot come
        back. What was found is durable before it is called that. A batch for which no flush has returned is written
        again, because one may have failed: the system then shows the batch, and no later flush writes it.
        """
        self._check_open()
        if self._writer is not None or epoch < self.body.epoch:
            raise InvalidRequest(
                f"{self._section.where}: epoch {epoch} cannot begin: the log runs, or epoch {self.body.epoch} did",
                hint="begin a stopped log, with an epoch that is not older than its last",
            )
        self._settle_end()
        self._section.on_begin()
        self._section.update(
            lambda body: body._replace(
                epoch=epoch,
                timeline=body.timeline if timeline is None else timeline,
                clean=False,
                head=self.outcome.head,
                write_back=write_back,
                nonce=nonce,
                state_id=state_id,
                disks=(),
            )
        )
        self._begun = True

    def start(self, ring: Ring, *, batch_bytes_max: int = BATCH_BYTES_DEFAULT, threaded: bool = True) -> Writer:
        """Begin to drain ``ring`` into the log, and return the writer. The ring goes on where :attr:`outcome` ends.

        With ``threaded=False`` nothing runs by itself, and the caller calls ``commit`` (for simulations).
        """
        self._check_open()
        head = self.outcome.head
        if not self._begun or self._writer is not None or ring.lsn_durable != head.lsn:
            raise InvalidRequest(
                f"{self._section.where}: cannot start at LSN {head.lsn + 1} with a ring at LSN {ring.lsn_durable + 1}",
                hint="begin an epoch first, start once, with a ring whose lsn_next is the head's LSN + 1",
            )
        writer = LogWriter(
            ring,
            self._section.device,
            **self.body.area._asdict(),
            epoch=self.body.epoch,
            head_position=head.position,
            tail_position=self.tail.position,
            batch_number=head.batch_number,
            previous_checksum=head.checksum,
            batch_bytes_max=min(batch_bytes_max, BATCH_PAYLOAD_BYTES_MAX),
        )
        self._ring, self._writer = ring, writer
        if threaded:
            writer.start()
        return writer

    def read(self, cursor: Cursor, *, payload_bytes_max: int) -> list[LogBatch]:
        """Return durable batches after ``cursor``, with about ``payload_bytes_max`` of payload.

        There is at least one if any is durable, and each has the cursor after it. Raises :class:`LogDamaged` or
        :class:`LogFailed`. What was returned before stays valid.
        """
        self._check_open()
        limit = self._writer.state().durable_position if self._writer else self.outcome.head.position
        with self._read_lock:
            return self._reader.read(cursor, limit, payload_bytes_max=payload_bytes_max)

    def checkpoint(self, lsn_uploaded: int, cursor: Cursor) -> None:
        """Reclaim the log before ``cursor``. The store must hold everything up to ``lsn_uploaded``.

        The superblock is durable before the writer may overwrite anything. A cursor before the tail moves nothing.
        """
        self._check_open()
        if not self._begun:
            raise InvalidRequest(f"{self._section.where}: nothing has begun", hint="begin an epoch first")
        state = self._writer.state() if self._writer else None
        durable = state.durable_position if state else self.outcome.head.position
        if cursor.lsn > lsn_uploaded or cursor.position > durable:
            raise InvalidRequest(
                f"{self._section.where}: cannot trim to {cursor}: uploaded {lsn_uploaded}, durable {durable}",
                hint="pass a cursor that read() returned, at or before the last uploaded LSN",
            )
        self._update(lambda body: _checkpointed(body, lsn_uploaded, cursor, self._durable_head(state)))
        if self._writer:
            self._writer.set_tail(self.tail.position)

    def state(self) -> LogState:
        body, written = self._section.body, self._writer.state() if self._writer else None
        lsn = self.outcome.head.lsn
        return LogState(
            name=body.name,
            epoch=body.epoch,
            timeline=body.timeline,
            data_bytes=body.data_bytes,
            used_bytes=self.used_bytes,
            tail=body.tail,
            head_position=self._head_position(),
            lsn_uploaded=body.lsn_uploaded,
            lsn_written=written.lsn_written if written else lsn,
            lsn_durable=written.lsn_durable if written else lsn,
            bytes_written=written.bytes_written if written else 0,
            commits=written.commits if written else 0,
            flushes=written.flushes if written else 0,
            failed=self._failed(),
        )

    def note_places(self, digest: bytes) -> None:
        """Note where the primaries are, as a digest. Durable at return. :class:`LogFailed` if it could not be noted."""
        if digest != self.body.places:
            self._update(lambda body: body._replace(places=digest))

    def close(self, *, clean: bool = True, disks: tuple[bytes, ...] = ()) -> None:
        """Stop the writer, flush, and record the end of the log. Idempotent.

        The log is marked clean only if it holds everything that the ring was given. It then says that the primaries are
        ``disks``. With ``clean=False`` the superblock stays as it is, as after a crash. Raises :class:`LogFailed` if
        the end could not be recorded. All is released nevertheless.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._stop(drain=clean)
            if clean and self._begun and not self._failed():
                self._record_end(disks)
        finally:
            self._section.close()

    # -- parts -----------------------------------------------------------------------------------------------------

    def _settle_end(self) -> None:
        device, area = self._section.device, self.body.area
        try:
            self._write_unproven()
            for position in self.outcome.leftovers:
                device.write(area.physical(position), bytes(BLOCK_BYTES))
            device.sync()
        except OSError as error:
            raise LogFailed(
                f"{self._section.where}: making what was found durable failed: {error}",
                hint="check the device, and open the log again",
                errno=error.errno,
            ) from error

    def _write_unproven(self) -> None:
        """Write each batch again for which no flush is known to have returned. These are at most twice 64 MiB."""
        cursor, head = self.outcome.unproven, self.outcome.head
        while cursor is not None and cursor.position < head.position:
            raw, end = self._reader.raw(cursor, head.position)
            self._section.device.write(self.body.area.physical(cursor.position), raw)
            cursor = end
        self._reader.forget()

    def _stop(self, *, drain: bool) -> None:
        """End the writer's thread. With ``drain``, what is published is then durable, unless the writer is poisoned."""
        if self._writer is None or self._ring is None:
            return
        self._writer.stop()
        if drain and not self._ring.poisoned:
            self._drain(self._ring, self._writer)

    @staticmethod
    def _drain(ring: Ring, writer: Writer) -> None:
        """Commit what a writer without a thread has left, or what was published while the thread ended."""
        ring.request_durable(ring.lsn_reserved)
        while writer.commit() > 0:
            pass
        writer.commit()

    def _record_end(self, disks: tuple[bytes, ...]) -> None:
        state = self._writer.state() if self._writer else None
        complete = state is None or self._ring is None or state.lsn_durable >= self._ring.lsn_reserved
        head = self._durable_head(state)
        self._update(
            lambda body: body._replace(head=_later(body.head, head), clean=complete, disks=disks if complete else ())
        )

    def _durable_head(self, state: WriterState | None) -> Cursor:
        """Return the furthest durable place whose checksum is known: nothing was written since the flush."""
        if state is None or self._ring is None:
            return self.outcome.head
        if state.batch_durable < state.batch_written:
            return self.body.head
        lsn, time_ns = self._ring.observe()
        if lsn > state.lsn_durable:
            time_ns = 0  # the next record was captured before this moment
        return Cursor(state.durable_position, state.batch_durable, state.lsn_durable, state.previous_checksum, time_ns)

    def _failed(self) -> bool:
        """Whether the device failed, or another owner fenced this one."""
        return self._section.failed or bool(self._ring and self._ring.poisoned)

    def _head_position(self) -> int:
        return self._writer.state().head_position if self._writer else self.outcome.head.position

    def _update(self, change: _Change) -> None:
        try:
            self._section.update(change)
        except LogFailed as error:
            if self._ring is not None:
                self._ring.poison(error.errno or errno.EIO)
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequest(f"{self._section.where} is closed", hint="open the log again")


class _Change(Protocol):
    def __call__(self, body: SectionBody, /) -> SectionBody: ...


def _checkpointed(body: SectionBody, lsn_uploaded: int, cursor: Cursor, head: Cursor) -> SectionBody:
    tail = _later(body.tail, cursor)
    return body._replace(
        lsn_uploaded=max(body.lsn_uploaded, lsn_uploaded), tail=tail, head=_later(_later(body.head, head), tail)
    )


def _later(one: Cursor, other: Cursor) -> Cursor:
    """Return the place that is further on. No record after it gets a time before that of either."""
    newer = other if other.batch_number > one.batch_number else one
    return newer._replace(time_ns=max(one.time_ns, other.time_ns))
