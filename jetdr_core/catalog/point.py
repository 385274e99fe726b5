"""RecoveryPoint and Interval: the instants at which a domain can be recovered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

NS = 1_000_000_000


class RecoveryPoint(NamedTuple):
    """The state of all the domain's disks after ``lsn``, a record that was captured at ``time_ns`` (UTC).

    ``name`` is set if the point is a mark.
    """

    timeline: int
    lsn: int
    time_ns: int
    name: str | None = None

    def __str__(self) -> str:
        name = f" {self.name!r}" if self.name is not None else ""
        return f"LSN {self.lsn} at {iso_time(self.time_ns)}{name}"


class Interval(NamedTuple):
    """Every LSN from ``lsn_first`` to ``lsn_last``, and every instant between the two times, is a recovery point."""

    lsn_first: int
    lsn_last: int
    time_first_ns: int
    time_last_ns: int

    def __str__(self) -> str:
        times = f"{iso_time(self.time_first_ns)} to {iso_time(self.time_last_ns)}"
        return f"LSN {self.lsn_first} to {self.lsn_last}, {times}"


def iso_time(time_ns: int) -> str:
    """The instant in ISO 8601, in UTC and to the nanosecond. :func:`~jetdr_core.catalog.at.parse_at` reads it back."""
    try:
        second = datetime.fromtimestamp(time_ns // NS, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"
    return f"{second:%Y-%m-%dT%H:%M:%S}.{time_ns % NS:09d}Z"
