"""What a caller may ask for: an LSN, an instant, a mark's name or ``latest``. Pure, but for the clock of ``-1h``.

Invariants: text has one meaning or is refused. ``lsn:``, ``time:`` and ``mark:`` say which is meant. Without them, text
that begins like an instant is an instant, and text that two of them could mean is refused with both spellings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from datetime import datetime
from typing import NamedTuple

from jetdr_core.catalog.instant import (
    NumberAsTime,
    begins_like_an_instant,
    number_as_time,
    parse_instant,
    time_ns_of,
)
from jetdr_core.catalog.point import iso_time
from jetdr_core.errors import InvalidRequest

_HINT = "use an LSN, a time such as 2026-01-31T12:00:00Z, a mark's name, or 'latest'"
_PREFIXES = ("lsn:", "time:", "mark:")

At = int | str | datetime
"""What names a recovery point."""


class AtLsn(NamedTuple):
    """``as_time`` is the time that the number may have been meant as, unless the caller said that it is an LSN."""

    lsn: int
    as_time: NumberAsTime | None = None


class AtTime(NamedTuple):
    time_ns: int


class AtName(NamedTuple):
    """A mark. ``latest`` is the last point instead, unless ``is_mark``."""

    name: str
    is_mark: bool = False


def parse_at(
    at: object, marks: Container[str] = (), now_ns: Callable[[], int] = time.time_ns
) -> AtLsn | AtTime | AtName:
    """Tell what ``at`` asks for, of a domain with these ``marks``. Text with no meaning or two is refused."""
    if isinstance(at, int) and not isinstance(at, bool):
        return AtLsn(at)
    if isinstance(at, datetime):
        return AtTime(time_ns_of(at))
    if not isinstance(at, str) or not at:
        raise InvalidRequest(f"{at!r} names no recovery point", hint=_HINT)
    if at.startswith(_PREFIXES):
        meant, _, text = at.partition(":")
        return _prefixed(meant, text, now_ns)
    if at in marks:
        _refuse_other_meaning(at, now_ns)
        return AtName(at)
    if _is_number(at):
        return AtLsn(int(at), number_as_time(at))
    return AtTime(parse_instant(at, now_ns())) if begins_like_an_instant(at) else AtName(at)


def check_mark_is_no_point(name: str) -> None:
    """Raise :class:`InvalidRequest` if a new mark's name would name another point too."""
    if name.startswith(_PREFIXES):
        raise InvalidRequest(f"mark name {name!r} would be read as a point", hint="choose another name")
    _refuse_other_meaning(name, lambda: 0)


def _prefixed(meant: str, text: str, now_ns: Callable[[], int]) -> AtLsn | AtTime | AtName:
    if meant == "mark":
        return AtName(text, is_mark=True)
    if meant == "lsn":
        if not _is_number(text):
            raise InvalidRequest(f"'lsn:{text}' is no LSN", hint="write lsn: and a number")
        return AtLsn(int(text))
    number = number_as_time(text) if _is_number(text) else None
    if number is not None:
        raise InvalidRequest(
            f"'time:{text}' is a bare number", hint=f"if that is meant, use {iso_time(number.time_ns)}"
        )
    return AtTime(parse_instant(text, now_ns()))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _refuse_other_meaning(name: str, now_ns: Callable[[], int]) -> None:
    """Refuse the name of a mark that is written like an instant. One that only begins like an instant is a name."""
    if not begins_like_an_instant(name):
        return
    try:
        meant = f"the time {iso_time(parse_instant(name, now_ns()))}"
    except InvalidRequest as error:
        if "has no zone" not in str(error):
            return
        meant = "a time without a zone"
    raise InvalidRequest(
        f"{name!r} may be a mark or {meant}", hint=f"write 'mark:{name}' or 'time:{name}'; name new marks otherwise"
    )
