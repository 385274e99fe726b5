"""Continuity: may a domain go on as if nothing had happened? Pure: a table from what was found to what is owed.

Invariant: a domain goes on without a gap only if every write that reached a primary since the log's head is in the ring
or in the log. Three findings show that:

- The ring survived with logging on, and the host component lived on or ended in order.
- Everything had ended, and the log is clean.
- In write-back no write bypassed the log. The primaries may then lag, and the log is replayed to them.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = ["NOTHING_OWED", "Continuity", "Found", "HostFound", "LogFound", "RingFound", "decide", "found_embedded"]


class RingFound(enum.Enum):
    """The ring that an earlier run of the domain left."""

    NONE = "there is none, or the log has long left it"
    KEPT = "it survived, and goes on where the log ends"
    APART = "it survived, and does not meet the log"


class LogFound(enum.Enum):
    """How the last owner left the log."""

    CLEAN = "it ends where its last owner closed it"
    UNCLEAN = "its last owner did not close it"
    NEW = "it was made for a domain that has a history"


class HostFound(enum.Enum):
    """The process that writes to the primaries."""

    EMBEDDED = "it was the last owner itself, which has ended"
    ALIVE = "a host component runs"
    ENDED = "a host component ended in order, or never ran with this ring"
    DIED = "a host component died"


class Found(NamedTuple):
    """``bypassed``: in write-back, writes bypassed the log. ``disks``: the domain protects any."""

    ring: RingFound
    log: LogFound
    host: HostFound
    logging: bool
    write_back: bool
    bypassed: bool
    disks: bool


class Continuity(NamedTuple):
    """What is owed.

    ``gap``: why a gap opens after what log and store hold, empty for none. ``stop``: why logging is to be switched off,
    so that a gap begins after what the ring holds. ``replay``: write the log to the primaries before they are served.
    """

    gap: str = ""
    stop: str = ""
    replay: bool = False


NOTHING_OWED = Continuity()


def found_embedded(log: LogFound, *, disks: bool) -> Found:
    """What an embedded domain finds: its ring ended with the process that wrote to its disks."""
    return Found(RingFound.NONE, log, HostFound.EMBEDDED, logging=True, write_back=False, bypassed=False, disks=disks)


def decide(found: Found) -> Continuity:
    """Return what is owed before the domain goes on. Logging that is off stays off: it owes a gap by itself."""
    if found.ring is RingFound.KEPT:
        lost = found.logging and found.host is HostFound.DIED and not found.write_back
        return Continuity(stop="the host component died" if lost else "")
    if found.ring is RingFound.APART:
        return Continuity(gap="the ring does not continue the log")
    if found.log is LogFound.CLEAN or not found.disks:
        return NOTHING_OWED
    if found.log is LogFound.UNCLEAN and found.write_back and not found.bypassed:
        return Continuity(replay=True)
    return Continuity(gap="unclean stop")
