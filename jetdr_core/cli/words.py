"""How numbers and foreign text look to a person. Pure.

Invariant: text that came from a store, a disk or a command line is shown without control characters and without
secrets.
"""

from __future__ import annotations

from jetdr_core.redaction import redacted

__all__ = ["human_bytes", "human_seconds", "one_line", "plural", "shown"]

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"))


def shown(text: object) -> str:
    """``text`` on one line, fit for a terminal: control characters escaped, secrets left out."""
    plain = "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))
    return redacted(plain)


def one_line(text: object) -> str:
    """A message on one line: lines joined, then :func:`shown`."""
    return shown(" ".join(str(text).split()))


def human_bytes(size_bytes: int) -> str:
    """``1.5 MiB``; below 1 KiB ``17 B``."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size, units = size_bytes / 1024, iter(_UNITS)
    unit = next(units)
    while size >= 1024 and unit != _UNITS[-1]:
        size, unit = size / 1024, next(units)
    return f"{size:.1f} {unit}"


def human_seconds(seconds: float) -> str:
    """``0.8 s``, ``3 min 5 s``, ``2 d 4 h``: the two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole, parts = int(seconds), []
    for length, unit in (*_SPANS, (1, "s")):
        if whole >= length:
            parts.append(f"{whole // length} {unit}")
            whole %= length
    return " ".join(parts[:2])


def plural(count: int, noun: str) -> str:
    """``1 disk``, ``2 disks``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
