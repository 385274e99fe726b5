"""Scrubbed: what the scrubs of a session have found so far. Frozen."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Scrubbed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrubbed:
    """``ended_ns``: when the last scrub ended, 0 if there was none. ``compared``: how many extents it compared.

    The last verified point is ``verified_lsn``, 0 if there is none. Its digests were recorded at ``verified_ns``. The
    texts ``differing`` and ``unreadable`` say what is wrong, and are empty if nothing is.
    """

    ended_ns: int = 0
    compared: int = 0
    verified_lsn: int = 0
    verified_ns: int = 0
    differing: str = ""
    unreadable: str = ""
