"""What a caller may ask for: an LSN, an instant, a mark's name or ``latest``, told apart. Pure.

Invariants: exact to the nanosecond; an instant without zone is refused, never guessed.
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
    """Tell what ``at`` asks for. A name in ``marks`` is one whatever it looks like; so is text that is no LSN and no
    time.
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
    """Nanoseconds UTC of an instant that has a zone."""
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise InvalidRequest(
            f"time {instant.isoformat()!r} has no zone", hint="append 'Z' for UTC, or an offset as '+01:00'"
        )
    return (instant - _EPOCH) // _MICROSECOND * 1000


def _iso(text: str) -> int | None:
    """Nanoseconds UTC, or None when ``text`` is no ISO 8601 time. ``datetime`` would drop digits below microseconds."""
    match = _FRACTION.fullmatch(text)
    whole, digits = (match["second"] + match["zone"], match["digits"]) if match else (text, "")
    try:
        instant = datetime.fromisoformat(whole)
    except ValueError:
        return None
    return time_ns_of(instant) + int(digits[:9].ljust(9, "0")) % NS
