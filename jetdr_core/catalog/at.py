"""What a caller may ask for: an LSN, an instant, a mark's name or ``latest``. Pure.

Invariants: instants are exact to the nanosecond. An instant without a zone is refused, because guessing the zone would
recover the wrong point.
"""

from __future__ import annotations

import re
from collections.abc import Container
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from jetdr_core.catalog.point import NS
from jetdr_core.errors import InvalidRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FRACTION = re.compile(r"(?P<second>.*:\d{2})[.,](?P<digits>\d+)(?P<zone>.*)")
_HINT = "use an LSN, a time such as 2026-01-31T12:00:00Z, a mark's name, or 'latest'"

At = int | str | datetime
"""What names a recovery point."""


class AtLsn(NamedTuple):
    lsn: int


class AtTime(NamedTuple):
    time_ns: int


class AtName(NamedTuple):
    name: str


def parse_at(at: object, marks: Container[str] = ()) -> AtLsn | AtTime | AtName:
    """Tell what ``at`` asks for.

    Text in ``marks`` is a mark's name, whatever else it looks like. So is text that is neither an LSN nor a time.
    """
    if isinstance(at, int) and not isinstance(at, bool):
        return AtLsn(at)
    if isinstance(at, datetime):
        return AtTime(time_ns_of(at))
    if not isinstance(at, str) or not at:
        raise InvalidRequest(f"{at!r} names no recovery point", hint=_HINT)
    if at in marks:
        return AtName(at)
    if at.isascii() and at.isdigit() and len(at) < 20:
        return AtLsn(int(at))
    time_ns = _iso(at)
    return AtName(at) if time_ns is None else AtTime(time_ns)


def time_ns_of(instant: datetime) -> int:
    """Nanoseconds since 1970 (UTC) of an instant, which must have a zone."""
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise InvalidRequest(
            f"time {instant.isoformat()!r} has no zone", hint="append 'Z' for UTC, or an offset as '+01:00'"
        )
    return (instant - _EPOCH) // _MICROSECOND * 1000


def _iso(text: str) -> int | None:
    """Nanoseconds since 1970 (UTC), or None if ``text`` is not an ISO 8601 time.

    The fraction is parsed here, because ``datetime`` would drop the digits below microseconds.
    """
    match = _FRACTION.fullmatch(text)
    whole, digits = (match["second"] + match["zone"], match["digits"]) if match else (text, "")
    try:
        instant = datetime.fromisoformat(whole)
    except ValueError:
        return None
    return time_ns_of(instant) + int(digits[:9].ljust(9, "0")) % NS
