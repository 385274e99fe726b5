"""Finds the end of a section's log: follows the batches from the tail, and asks the decision table where they end.

Invariants: every byte between tail and head is read and verified. A device that cannot be read never leads to a cut.
Nothing is written.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from jetdr_core.device.protocol import BlockDevice
from jetdr_core.limits import BLOCK_BYTES, UNSYNCED_BYTES_MAX
from jetdr_core.replication_log.batch import BATCH_BYTES_MAX, Cursor
from jetdr_core.replication_log.reader import BadBatch, LogBatch, LogReader
from jetdr_core.replication_log.recovery_table import Case, Decision, Facts, decide
from jetdr_core.replication_log.superblock import SectionBody

SCAN_BYTES = 2 * UNSYNCED_BYTES_MAX + BATCH_BYTES_MAX
"""How far after a torn batch a witness can lie: the writer flushes every UNSYNCED_BYTES_MAX, a wrap skips a batch."""


class RecoveryOutcome(NamedTuple):
    """What opening found.

    ``head`` is the end of the log, and ``clean`` says that the last owner closed it there. ``cut_bytes`` reach from the
    head to the end of the furthest batch that was cut. ``leftovers`` are the positions of headers after the head that
    could one day seem to continue the log. ``case`` is the row of the decision table that ended the log.

    ``unproven`` is the place of the first batch for which no flush is known to have returned, or None if there is none.

    ``whole_beyond`` counts the whole batches of the same epoch after the one that was cut. A device that loses power
    may leave such batches, because it writes what is not flushed in any order. A device that damages what it was given
    leaves them too.
    """

    head: Cursor
    clean: bool
    cut_bytes: int
    records: int
    batches: int
    leftovers: tuple[int, ...]
    case: Case | None
    whole_beyond: int = 0
    unproven: Cursor | None = None


def recover(device: BlockDevice, body: SectionBody, *, where: str) -> RecoveryOutcome:
    """Follow the log from its tail to its end.

    Raises :class:`LogDamaged` if a batch that had been durable cannot be followed, and :class:`LogFailed` if the device
    cannot be read.
    """
    reader = LogReader(device, body.area, where=where)
    limit = body.tail.position + body.data_bytes
    cursor, batches = body.tail, 0
    unproven = _Unproven(body.head.batch_number)
    while cursor.position + BLOCK_BYTES <= limit:
        found = reader.examine(cursor, limit)
        facts = _facts(body, cursor, found)
        if isinstance(found, BadBatch):
            ended = _ended(reader, body, cursor, found, facts)
            return ended._replace(batches=batches, unproven=unproven.first)
        assert decide(facts).decision is Decision.FOLLOW, "a whole batch is followed, and no other"
        unproven.follow(cursor, found.durable_batch)
        cursor, batches = found.end, batches + 1
    return _outcome(body, cursor)._replace(batches=batches, unproven=unproven.first)


class _Unproven:
    """The places of batches for which no flush is known to have returned.

    The superblock knows of flushes up to ``durable_batch``, and each batch of those that had returned before it.
    """

    def __init__(self, durable_batch: int) -> None:
        self._durable_batch = durable_batch
        self._places = deque[Cursor]()

    @property
    def first(self) -> Cursor | None:
        return self._places[0] if self._places else None

    def follow(self, place: Cursor, durable_batch: int) -> None:
        """Note the batch after ``place``, which knows that ``durable_batch`` was flushed."""
        self._places.append(place)
        self._durable_batch = max(self._durable_batch, durable_batch)
        while self._places and self._places[0].batch_number < self._durable_batch:
            self._places.popleft()


def _facts(body: SectionBody, cursor: Cursor, found: LogBatch | BadBatch) -> Facts:
    """Return all facts but what a later batch knows. To find that out takes reading, and it matters only at the end."""
    return Facts(
        defect=found.defect if isinstance(found, BadBatch) else None,
        durable_by_superblock=cursor.batch_number < body.head.batch_number,
        durable_by_later=False,
        clean=body.clean and _same_place(cursor, body.head),
    )


def _ended(reader: LogReader, body: SectionBody, cursor: Cursor, found: BadBatch, facts: Facts) -> RecoveryOutcome:
    """Decide whether the log ends at ``cursor`` or is damaged there. :class:`LogDamaged`."""
    number = cursor.batch_number + 1
    end = min(cursor.position + SCAN_BYTES, body.tail.position + body.data_bytes)
    later = [] if facts.durable_by_superblock or facts.clean else list(reader.headers_beyond(cursor, end))
    witnessed = any(header.batch_number > number and header.durable_batch >= number for header in later)
    case = decide(facts._replace(durable_by_later=witnessed))
    if case.decision is Decision.DAMAGED:
        raise reader.damaged(
            cursor, found, "a later batch knew it durable" if witnessed else "the superblock knew it durable"
        )
    furthest = max((header.position + header.total_bytes for header in later), default=cursor.position)
    return _outcome(body, cursor)._replace(
        cut_bytes=furthest - cursor.position,
        leftovers=tuple(header.position for header in later),
        case=case,
        whole_beyond=sum(
            header.batch_number > number and header.epoch == body.epoch and reader.is_whole(header) for header in later
        ),
    )


def _outcome(body: SectionBody, head: Cursor) -> RecoveryOutcome:
    clean = body.clean and _same_place(head, body.head)
    head = head._replace(time_ns=max(head.time_ns, body.head.time_ns))
    return RecoveryOutcome(
        head, clean, cut_bytes=0, records=head.lsn - body.tail.lsn, batches=0, leftovers=(), case=None
    )


def _same_place(one: Cursor, other: Cursor) -> bool:
    """Whether two places are equal but for the time. A head may know of a later time that was promised."""
    return one._replace(time_ns=0) == other._replace(time_ns=0)
