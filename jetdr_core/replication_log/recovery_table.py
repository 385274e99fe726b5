"""What to do about the next batch when a log is opened: a decision table. Pure: facts in, decision out.

Invariants: every combination of facts matches exactly one case; nothing known to have been durable is ever cut; a whole
batch that continues the chain is always followed. The facts are gathered in ``recovery_scan``.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Decision(enum.Enum):
    """FOLLOW: the batch belongs to the log. CUT: the log ends before it. DAMAGED: it was durable, and is not whole."""

    FOLLOW = "follow"
    CUT = "cut"
    DAMAGED = "damaged"


class Facts(NamedTuple):
    """What was found where batch n+1 should begin, n being the last batch followed."""

    header_valid: bool
    """A batch header with the right checksum and believable lengths, which fits where it lies."""
    section_matches: bool
    """It carries this section's id."""
    number_matches: bool
    """Its batch number is n+1, and its position is this one."""
    previous_matches: bool
    """It names the checksum of batch n."""
    records_ok: bool
    """Its record headers have the right checksum, follow LSN n's and are consistent."""
    payload_ok: bool
    """Every payload has the right checksum."""
    durable_by_superblock: bool
    """The superblock knew batch n+1 as durable."""
    durable_by_later: bool
    """A batch with a higher number, further on, says that batch n+1 was durable when it was written."""
    clean: bool
    """The superblock says that the log was closed cleanly."""


class Case(NamedTuple):
    """One row: matches the facts whose pattern entries are not None; ``story`` is how a disk comes to look so."""

    label: str
    pattern: tuple[bool | None, ...]
    decision: Decision
    story: str

    def matches(self, facts: Facts) -> bool:
        return all(want is None or want == fact for want, fact in zip(self.pattern, facts, strict=True))


# What is wrong with the batch: the first six facts.
_WHOLE = (True, True, True, True, True, True)
_DEFECTS: tuple[tuple[str, tuple[bool | None, ...], str], ...] = (
    (
        "no header",
        (False, None, None, None, None, None),
        "Never written, or payload of an older lap lies here, or the block was torn or has rotted.",
    ),
    (
        "another section's header",
        (True, False, None, None, None, None),
        "The volume was formatted anew over an older one whose batches are still there, or a write went astray.",
    ),
    (
        "a header of another number",
        (True, True, False, None, None, None),
        "The ring's last lap: the batch that lay here before, in its time a valid one.",
    ),
    (
        "a header of another past",
        (True, True, True, False, None, None),
        "An earlier life wrote its batch n+1 here, crashed, and was cut before it; then batch n was written anew.",
    ),
    (
        "broken record headers",
        (True, True, True, True, False, None),
        "The header's sector reached the disk, those of the record headers did not, or have rotted since.",
    ),
    (
        "broken payload",
        (True, True, True, True, True, False),
        "Headers reached the disk, some sector of a payload did not, or has rotted since.",
    ),
)

# What is known about batch n+1: the last three facts.
_SITUATIONS: tuple[tuple[str, tuple[bool | None, ...], Decision, str], ...] = (
    (
        "though the superblock knew it durable",
        (True, None, None),
        Decision.DAMAGED,
        "The superblock was written after the batch had been flushed: an acknowledged record is unreadable.",
    ),
    (
        "though a later batch knew it durable",
        (False, True, None),
        Decision.DAMAGED,
        "The writer had seen the flush of n+1 return before it wrote that batch: an acknowledged record is unreadable.",
    ),
    (
        "behind a clean end",
        (False, False, True),
        Decision.CUT,
        "The log was closed here and has not been written since; what follows is left over.",
    ),
    (
        "at the torn end",
        (False, False, False),
        Decision.CUT,
        "Power or process went while the batch was on its way; nobody had been told that it was durable.",
    ),
)

CASES: tuple[Case, ...] = (
    Case(
        "the next batch",
        (*_WHOLE, True, None, None),
        Decision.FOLLOW,
        "Written, flushed, and known to be: the middle of any log.",
    ),
    Case(
        "the next batch, durable unknown to the superblock",
        (*_WHOLE, False, None, False),
        Decision.FOLLOW,
        "Written since the last checkpoint; flushed or not, it is here and continues the log.",
    ),
    Case(
        "a batch behind a clean end",
        (*_WHOLE, False, None, True),
        Decision.FOLLOW,
        "The superblock that reopened the log is lost on too many copies and an older one was elected: keep what is "
        "whole, and do not believe that the end was clean.",
    ),
    *(
        Case(f"{what}, {when}", (*pattern, *knowledge), decision, f"{what_story} {when_story}")
        for what, pattern, what_story in _DEFECTS
        for when, knowledge, decision, when_story in _SITUATIONS
    ),
)
"""Every way to find the next batch. The order does not matter: no two rows match the same facts."""


def decide(facts: Facts) -> Case:
    """The case that the facts match."""
    return next(case for case in CASES if case.matches(facts))
