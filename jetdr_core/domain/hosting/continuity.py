"""Continuity: may a hosted domain go on as if nothing had happened? Pure: a table from what was found to what is owed.

Invariant: a domain goes on without a gap only if every write that reached a primary since the log's head is in the ring
or in the log: its ring survived with logging on, its host component lived on or ended in order; or all had ended, and
the log is clean. With write-back the primaries may be behind the log, never ahead of it, unless writes went past the
log: that is what the marker says.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = ["NOTHING_OWED", "Continuity", "Found", "HostFound", "LogFound", "RingFound", "decide"]


class RingFound(enum.Enum):
    NONE = "there is none, or one that the log has long left behind"
    KEPT = "it survived, and goes on where the log ends"
    APART = "it survived, and does not meet the log"


class LogFound(enum.Enum):
    CLEAN = "it ends where its last owner closed it"
    UNCLEAN = "its last owner did not close it"
    NEW = "it was made for a domain that has a history"


class HostFound(enum.Enum):
    ALIVE = "it runs"
    ENDED = "it ended in order, or never ran with this ring"
    DIED = "it died"


class Found(NamedTuple):
    ring: RingFound
    log: LogFound
    host: HostFound
    logging: bool
    write_back: bool
    marker: bool


class Continuity(NamedTuple):
    """What is owed. ``gap``: why one opens behind what log and store hold, empty for none.

    ``stop``: why logging is to be switched off, so that a gap begins behind what the ring holds. ``replay``: write the
    log to the primaries before they are served.
    """

    gap: str = ""
    stop: str = ""
    replay: bool = False


NOTHING_OWED = Continuity()


def decide(found: Found) -> Continuity:
    """What is owed before the domain goes on. Logging that is off stays so: it owes a gap by itself."""
    if found.ring is RingFound.KEPT:
        lost = found.logging and found.host is HostFound.DIED and not found.write_back
        return Continuity(stop="the host component died" if lost else "")
    if found.ring is RingFound.APART:
        return Continuity("the ring does not continue the log")
    if found.log is LogFound.CLEAN:
        return Continuity()
    if found.log is LogFound.UNCLEAN and found.write_back and not found.marker:
        return Continuity(replay=True)
    return Continuity("unclean stop")
