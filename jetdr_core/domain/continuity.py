"""Continuity: may a domain go on as if nothing had happened? Pure: a table from what was found to what is owed.

Invariants. A domain goes on without a gap only if every write that reached a primary since the log's head is in the
ring or in the log. Three findings show that:

- The ring survived with logging on, and the host component lived on or ended in order.
- Everything had ended, the log is clean, and the primaries are as they were then.
- In write-back no write bypassed the log. The primaries may then lag, and the log is replayed to them.

The log proves nothing of that by itself, because an older copy of it is as consistent as the last one. It is believed
only if no witness contradicts it. A replay overwrites what guests have written, so it also takes every witness that the
log relies on. Nothing is ever replayed, or given up, on a guess: in doubt write-back is refused until somebody chooses.

While the store is away, it cannot contradict. A replay then takes the word of state folder and disks, and a domain for
which they do not settle the question waits for its store.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from jetdr_core.domain.generation import Word
from jetdr_core.errors import GenerationMismatch, StoreAway
from jetdr_core.remedies import NEW_LOG

__all__ = [
    "NOTHING_OWED",
    "Continuity",
    "Found",
    "HostFound",
    "LogFound",
    "OnMismatch",
    "RingFound",
    "check_not_refused",
    "decide",
    "doubt",
    "found_embedded",
]


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


class OnMismatch(enum.Enum):
    """What to do in write-back if log, store, state folder and disks are not of one generation."""

    REFUSE = "refuse"
    COPY = "copy"
    """The disks are the truth: open a gap, and resync all of them. What only the log has is given up."""
    REPLAY = "replay"
    """The log is the truth: write it to the disks, open a gap, and resync all of them.

    What the disks have since is overwritten where the log has something, and kept elsewhere.
    """


class Found(NamedTuple):
    """``bypassed``: in write-back, writes bypassed the log. ``disks``: the domain protects any.

    ``chain``, ``state`` and ``disk`` are the words of the witnesses: the store, the state folder, and the primaries. In
    write-through only the store speaks. ``changed``: after a clean end a primary is not as it was then.
    ``half_replayed``: a replay that somebody chose has not ended. ``cut_short``: whole batches lie after the place at
    which the log was cut, so what had been durable may be lost.
    """

    ring: RingFound
    log: LogFound
    host: HostFound
    logging: bool
    write_back: bool
    bypassed: bool
    disks: bool
    chain: Word = Word.SILENT
    state: Word = Word.SILENT
    disk: Word = Word.SILENT
    changed: bool = False
    half_replayed: bool = False
    cut_short: bool = False
    on_mismatch: OnMismatch = OnMismatch.REFUSE

    def __str__(self) -> str:
        told = [f"ring: {self.ring.value}", f"log: {self.log.value}", f"host component: {self.host.value}"]
        told += ["writes bypassed the log"] if self.bypassed or not self.logging else []
        told += ["a disk has changed"] if self.changed else []
        told += ["the log was cut short of whole batches"] if self.cut_short else []
        told += ["a replay has not ended"] if self.half_replayed else []
        return "; ".join(told)


class Continuity(NamedTuple):
    """What is owed.

    ``gap``: why a gap opens after what log and store hold, empty for none. ``stop``: why logging is to be switched off,
    so that a gap begins after what the ring holds. ``replay``: write the log to the primaries before they are served.
    With a gap too, somebody chose that replay: the primaries keep what they have where the log has nothing.
    ``marked``: primary and log differ at most in what the dirty maps have marked, so no more is owed than that.
    ``resync``: only the disks that have changed are owed a copy. ``refusal``: why the domain does not go on at all.
    ``wait``: why it does not go on before the store is there.
    """

    gap: str = ""
    stop: str = ""
    replay: bool = False
    resync: bool = False
    refusal: str = ""
    wait: str = ""
    marked: bool = False


NOTHING_OWED = Continuity()
HALF_REPLAYED = "the replay that somebody chose was cut off"


def found_embedded(
    log: LogFound, *, disks: bool, chain: Word = Word.SILENT, changed: bool = False, cut_short: bool = False
) -> Found:
    """What an embedded domain finds: its ring ended with the process that wrote to its disks."""
    return Found(
        *(RingFound.NONE, log, HostFound.EMBEDDED),
        logging=True,
        write_back=False,
        bypassed=False,
        disks=disks,
        chain=chain,
        changed=changed,
        cut_short=cut_short,
    )


def decide(found: Found) -> Continuity:
    """Return what is owed before the domain goes on. Logging that is off stays off: it owes a gap by itself.

    A host component that lives, with its ring, knows better than any witness.
    """
    if found.chain is Word.APART:
        return Continuity(refusal="log and store went on apart from one another")
    if found.chain is Word.AWAY and (why := _needs_store(found)):
        return Continuity(wait=why)
    why = doubt(found)
    if why and found.disks and found.host is not HostFound.ALIVE:
        return _decide_in_doubt(found, why)
    if found.ring is RingFound.KEPT and not _rests(found):
        lost = found.logging and found.host is HostFound.DIED and not found.write_back
        return Continuity(stop="the host component died" if lost else "")
    if found.ring is RingFound.APART:
        return Continuity(gap="the ring does not continue the log")
    if not found.disks:
        return NOTHING_OWED
    if found.log is LogFound.CLEAN:
        return Continuity(resync=found.changed)
    if found.log is LogFound.UNCLEAN and found.write_back and not found.bypassed:
        return Continuity(replay=True)
    if found.cut_short:  # a dirty map has forgotten what had been durable
        return Continuity(gap="unclean stop, and the log was cut short")
    return Continuity(gap="unclean stop", marked=found.log is LogFound.UNCLEAN and not found.write_back)


def check_not_refused(name: str, found: Found) -> None:
    """Raise :class:`GenerationMismatch` with the ways out, if the domain does not go on as it was found.

    :class:`StoreAway` if only the store can tell.
    """
    refusal, wait = decide(found).refusal, decide(found).wait
    if wait:
        raise StoreAway(f"domain {name!r} waits for its store: {wait}", hint="it is opened once the store is there")
    if not refusal:
        return
    choice = (
        "open the domain with on_mismatch 'copy', which keeps the disks as they are, or with 'replay', which writes "
        "the log over the disks. Either opens a gap and resyncs all disks ('jetdr drva CONFIG --on-mismatch "
        f"{name}=copy')"
    )
    hint = f"bring back the newest log, store, state folder and disks. If they are lost, {choice}"
    if found.chain is Word.APART:
        hint = NEW_LOG
    elif refusal == HALF_REPLAYED:
        hint = choice
    words = {"store": found.chain, "state folder": found.state, "disks": found.disk}
    raise GenerationMismatch(
        f"domain {name!r}: {refusal}", hint=hint, **{what.replace(" ", "_"): word.name for what, word in words.items()}
    )


def _rests(found: Found) -> bool:
    """Whether everything had ended in order, so that the ring has nothing that log and primaries lack."""
    return found.log is LogFound.CLEAN and found.host is HostFound.ENDED


def _needs_store(found: Found) -> str:
    """Why a domain whose store is away cannot go on without it. Empty if it can.

    A replay takes the word of everybody else, because the store, which may know of a newer log, cannot be asked.
    """
    if found.host is HostFound.ALIVE or not found.disks:
        return ""
    if why := doubt(found):
        return why
    if found.log is LogFound.NEW:
        return "its log is new"
    if not found.write_back or found.log is LogFound.CLEAN or found.bypassed:
        return ""
    words = {"the state folder": found.state, "a disk": found.disk}
    silent = [name for name, word in words.items() if word is not Word.AGREES]
    return f"{' and '.join(silent)} cannot confirm that its log is the newest" if silent else ""


def doubt(found: Found) -> str:
    """Why the log is not believed. Empty if it is."""
    if found.log is LogFound.NEW:
        return ""
    witnesses = {"the store": found.chain, "the state folder": found.state, "a disk": found.disk}
    for name, word in witnesses.items():
        if word in {Word.NEWER, Word.APART}:
            return f"the log is an older copy: {name} {word.value}"
    if found.chain is Word.OLDER:
        return f"the store is an older copy: it {found.chain.value}"
    if found.half_replayed and found.log is LogFound.UNCLEAN:
        return HALF_REPLAYED
    for name, word in witnesses.items():
        if word in {Word.OLDER, Word.MISSING} and found.write_back and found.log is LogFound.UNCLEAN:
            return f"the log cannot be replayed on its own word: {name} {word.value}"
    return ""


def _decide_in_doubt(found: Found, why: str) -> Continuity:
    if not found.write_back:
        return Continuity(gap=why)
    if found.on_mismatch is OnMismatch.REFUSE:
        return Continuity(refusal=why)
    if found.on_mismatch is OnMismatch.REPLAY and found.log is LogFound.UNCLEAN:
        return Continuity(replay=True, gap=why)
    return Continuity(gap=why)
