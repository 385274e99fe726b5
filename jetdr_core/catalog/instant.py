"""What a person may write for an instant: an ISO 8601 time or date with a zone, or a time before now. Pure.

Invariants: text that begins like an instant is one, or is refused with what is wrong with it. It never becomes anything
else. Instants are exact to the nanosecond. A zone is never guessed, because the wrong zone recovers the wrong point.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from jetdr_core.catalog.point import NS, iso_time
from jetdr_core.errors import InvalidRequest

__all__ = ["DAY_NS", "NumberAsTime", "begins_like_an_instant", "number_as_time", "parse_instant", "time_ns_of"]

DAY_NS = 86_400 * NS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BEGINS = re.compile(
    r"-\d|\d{4}-(\d|W\d)|\d{4}[/.]\d|\d{1,2}[/.]\d{1,2}[/.]\d{4}|\d{1,2}:\d\d|\d{8}([ T]\d|[Z+-])|"
    r"(mon|tue|wed|thu|fri|sat|sun)\w*, \d",
    re.IGNORECASE,
)
_FORM = re.compile(
    r"""(?P<date>\d{4}-\d\d-\d\d|\d{8}|\d{4}-?W\d\d-?\d)
    (?:[T ](?P<clock>\d\d(?::?\d\d(?::?\d\d)?)?)(?:[.,](?P<fraction>\d+))?)?
    \ ?(?P<offset>Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?
    \ ?(?:\[(?P<boxed>[\w/+-]+)\]|(?P<named>[A-Z][\w+-]*(?:/[\w+-]+)*))?""",
    re.IGNORECASE | re.VERBOSE,
)
_AGO = re.compile(r"-(?=\d)(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.IGNORECASE)
_AGO_UNITS_S = (7 * 86_400, 86_400, 3600, 60, 1)
_MIDNIGHT = re.compile(r"24(:?00(:?00)?)?")
_UNIX_DIGITS = {10: NS, 13: 10**6, 16: 1000, 19: 1}
"""How many digits a count since 1970 has these days, and the nanoseconds that it counts in."""
_CALENDAR_DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_ZONE_HINT = "append 'Z' for UTC, an offset as '+01:00', or a zone as ' Europe/Berlin'"
_FORM_HINT = "use a time such as 2026-01-31T12:00:00Z, or -1h for an hour ago; 'mark:NAME' names a mark"


class NumberAsTime(NamedTuple):
    """A number read as a time. ``is_calendar`` if its digits are those of a date, otherwise it counts since 1970."""

    time_ns: int
    is_calendar: bool


def begins_like_an_instant(text: str) -> bool:
    """Whether the text begins like a date, a clock time or a time before now."""
    return _BEGINS.match(text) is not None


def parse_instant(text: str, now_ns: int) -> int:
    """Nanoseconds since 1970 (UTC) of ``text``, or :class:`InvalidRequest` with the reason and the remedy."""
    if ago := _AGO.fullmatch(text):
        return now_ns - NS * sum(int(n or 0) * unit for n, unit in zip(ago.groups(), _AGO_UNITS_S, strict=True))
    form = _FORM.fullmatch(text)
    if form is None:
        raise InvalidRequest(f"{text!r} is not a time that is understood here", hint=_FORM_HINT)
    wall = _wall_clock(text, form)
    zoned = _zoned(text, wall, form)
    try:
        whole_ns = time_ns_of(zoned)
    except OverflowError:
        raise InvalidRequest(f"{text!r} lies outside the calendar", hint=_FORM_HINT) from None
    return whole_ns + int((form["fraction"] or "0")[:9].ljust(9, "0"))


def time_ns_of(instant: datetime) -> int:
    """Nanoseconds since 1970 (UTC) of an instant, which must have a zone."""
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise InvalidRequest(f"time {instant.isoformat()!r} has no zone", hint=_ZONE_HINT)
    return (instant - _EPOCH) // _MICROSECOND * 1000


def number_as_time(digits: str) -> NumberAsTime | None:
    """The time that a bare number may stand for, or None. Calendar digits are read as UTC."""
    if len(digits) in _UNIX_DIGITS:
        return NumberAsTime(int(digits) * _UNIX_DIGITS[len(digits)], is_calendar=False)
    if len(digits) not in _CALENDAR_DIGITS or not 1970 <= int(digits[:4]) < 2262:
        return None
    try:
        wall = datetime.strptime(digits, _CALENDAR_DIGITS[len(digits)])  # noqa: DTZ007
    except ValueError:
        return None
    return NumberAsTime(time_ns_of(wall.replace(tzinfo=UTC)), is_calendar=True)


def _wall_clock(text: str, form: re.Match[str]) -> datetime:
    """Date and time of day in whole seconds, without a zone. 24:00 is the beginning of the next day."""
    clock = (form["clock"] or "00").replace(":", "")
    fraction = form["fraction"] or ""
    hour, minute, second = (int(clock[at : at + 2] or "0") for at in (0, 2, 4))
    ends_day = hour == 24 and not minute + second + int(fraction or "0")
    if fraction and len(clock) < 6:
        raise InvalidRequest(f"{text!r} is not a time: only seconds may have a fraction", hint=_FORM_HINT)
    try:
        day = datetime.fromisoformat(form["date"].upper())
        return datetime.combine(day, time(0 if ends_day else hour, minute, second)) + timedelta(days=ends_day)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"{text!r} is not a time: {error}", hint=_FORM_HINT) from None


def _zoned(text: str, wall: datetime, form: re.Match[str]) -> datetime:
    """``wall`` in the zone of ``text``: an offset, a name, or both if they agree."""
    offset, name = form["offset"], form["boxed"] or form["named"]
    if offset is None and name is None:
        date = wall.isoformat() if form["clock"] else f"{wall:%Y-%m-%d}"
        raise InvalidRequest(f"time {date!r} has no zone", hint=_ZONE_HINT)
    if offset is None:
        return _in_zone(text, wall, _zone(text, name))
    try:
        zoned = datetime.fromisoformat(wall.isoformat() + offset.upper())
    except ValueError as error:
        raise InvalidRequest(f"{text!r} is not a time: {error}", hint=_ZONE_HINT) from None
    if name is not None and zoned.astimezone(_zone(text, name)).utcoffset() != zoned.utcoffset():
        raise InvalidRequest(f"{text!r}: {name} has another offset then than {offset}", hint="leave one of them out")
    return zoned


def _zone(text: str, name: str) -> tzinfo:
    """The zone of that name. Abbreviations are refused, because several zones share them."""
    if name.upper() in ("UTC", "GMT"):
        return UTC
    try:
        if "/" in name:
            return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        pass
    raise InvalidRequest(f"{text!r}: {name!r} is not a zone that is known here", hint=_ZONE_HINT)


def _in_zone(text: str, wall: datetime, zone: tzinfo) -> datetime:
    """``wall`` in a named zone, unless clocks were set there so that it was skipped or came twice."""
    zoned = wall.replace(tzinfo=zone)
    late = zoned.replace(fold=1)
    if zoned.utcoffset() == late.utcoffset():
        return zoned
    is_skipped = zoned.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != wall
    what = "does not exist there, because clocks were set forward" if is_skipped else "came twice there"
    choice = " or ".join(iso_time(time_ns_of(instant)) for instant in (zoned, late))
    raise InvalidRequest(f"{text!r} {what}", hint=f"use {choice}")
