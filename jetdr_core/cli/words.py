"""How numbers and foreign text look to a person. Pure.

Invariant: text from a store, a disk or a command line is shown without control characters and without secrets.
"""

from __future__ import annotations

from jetdr_core.store.redaction import redacted

__all__ = ["human_age", "human_bytes", "human_seconds", "one_line", "plural", "shown"]

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"))


def shown(text: object) -> str:
    """Return ``text`` fit for a terminal, on one line: control characters are escaped, secrets are hidden."""
    plain = "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))
    return redacted(plain)


def one_line(text: object) -> str:
    """Return a message on one line: its lines are joined, then :func:`shown`."""
    return shown(" ".join(str(text).split()))


def human_bytes(size_bytes: int) -> str:
    """Return ``1.5 MiB``, or ``17 B`` below 1 KiB."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size, units = size_bytes / 1024, iter(_UNITS)
    unit = next(units)
    while size >= 1024 and unit != _UNITS[-1]:
        size, unit = size / 1024, next(units)
    return f"{size:.1f} {unit}"


def human_seconds(seconds: float) -> str:
    """Return ``0.8 s``, ``3 min 5 s``, ``2 d 4 h``: at most the two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole, parts = int(seconds), []
    for length, unit in (*_SPANS, (1, "s")):
        if whole >= length:
            parts.append(f"{whole // length} {unit}")
            whole %= length
    return " ".join(parts[:2])


def human_age(seconds: float) -> str:
    """Return ``3 min 5 s old``. A moment that has not come yet is told as such: the two clocks differ."""
    if seconds < 0:
        return f"{human_seconds(-seconds)} ahead of this machine's clock"
    return f"{human_seconds(seconds)} old"


def plural(count: int, noun: str) -> str:
    """Return ``1 disk``, ``2 disks``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
