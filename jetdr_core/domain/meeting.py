"""Where a domain's log and its store meet: the log position after the last LSN that the store has."""

from __future__ import annotations

from jetdr_core.errors import ChainBroken
from jetdr_core.remedies import NEW_LOG
from jetdr_core.replication_log import Cursor, ReplicationLog

__all__ = ["log_id", "meeting_point"]


def log_id(section_id: int) -> str:
    """Return the name that the chain has for a log."""
    return f"{section_id:016x}"


def meeting_point(log: ReplicationLog, lsn_stored: int, name: str) -> Cursor:
    """Return the log position right after the last LSN of the store.

    :class:`ChainBroken` if there is none, and :class:`LogDamaged` if the log is damaged before it.
    """
    cursor = log.tail
    if cursor.lsn > lsn_stored:
        raise ChainBroken(
            f"domain {name!r}: the store ends at LSN {lsn_stored}, its log begins at LSN {cursor.lsn + 1}",
            hint=f"objects are missing from the store: bring them back, or {NEW_LOG}",
            lsn_stored=lsn_stored,
            lsn_log_first=cursor.lsn + 1,
        )
    while cursor.lsn < lsn_stored:
        batches = log.read(cursor, payload_bytes_max=1)
        if not batches or batches[0].end.lsn > lsn_stored:
            log.check_cut(lsn_stored, f"the store holds LSN {lsn_stored}")
            raise ChainBroken(
                f"domain {name!r}: the store ends at LSN {lsn_stored}, its log at LSN {log.outcome.head.lsn}",
                hint=f"this log is an older copy: use the one last in use, or {NEW_LOG}",
                lsn_stored=lsn_stored,
                lsn_log_last=log.outcome.head.lsn,
            )
        cursor = batches[0].end
    return cursor
