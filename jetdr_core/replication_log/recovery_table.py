"""What to do about the next batch when a log is opened: a decision table. Pure: facts in, decision out.

Invariants: every combination of facts matches exactly one case. Nothing that is known to have been durable is ever cut.
A whole batch that continues the log is always followed. ``recovery_scan`` gathers the facts.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from jetdr_core.replication_log.defect import Defect


class Decision(enum.Enum):
    """FOLLOW: the batch belongs to the log. CUT: the log ends before it. DAMAGED: it was durable, and is not whole."""

    FOLLOW = "follow"
    CUT = "cut"
    DAMAGED = "damaged"


class Facts(NamedTuple):
    """What was found where batch n+1 should begin. Batch n is the last one that was followed."""

    defect: Defect | None
    """What is wrong there. None if the batch is whole and continues the log."""
    durable_by_superblock: bool
    """The superblock knew batch n+1 to be durable."""
    durable_by_later: bool
    """A batch with a higher number, further on, says that batch n+1 was durable when it was written."""
    clean: bool
    """The superblock says that the log was closed clean."""


class Case(NamedTuple):
    """One row. ``knowledge`` are the three facts after the defect, where None stands for either value.

    ``story`` tells how a disk comes to look so.
    """

    label: str
    defect: Defect | None
    knowledge: tuple[bool | None, bool | None, bool | None]
    decision: Decision
    story: str

    def matches(self, facts: Facts) -> bool:
        known = zip(self.knowledge, facts[1:], strict=True)
        return facts.defect is self.defect and all(wanted is None or wanted == fact for wanted, fact in known)


_DEFECTS: tuple[tuple[str, Defect, str], ...] = (
    (
        "no header",
        Defect.NO_HEADER,
        "Nothing was ever written, or payload of an older lap lies here, or the block was torn or has rotted.",
    ),
    (
        "another section's header",
        Defect.OTHER_SECTION,
        "The volume was formatted over an older one whose batches are still there, or a write went astray.",
    ),
    (
        "a header of another number",
        Defect.OTHER_NUMBER,
        "The batch that lay here one lap ago. It was a valid one then.",
    ),
    (
        "a header of another past",
        Defect.OTHER_PAST,
        "An earlier life wrote its batch n+1 here, crashed, and was cut before it. Then batch n was written anew.",
    ),
    (
        "broken record headers",
        Defect.BROKEN_RECORDS,
        "The header's sector reached the disk, but a sector of the record headers did not, or has rotted since.",
    ),
    (
        "broken payload",
        Defect.BROKEN_PAYLOAD,
        "The headers reached the disk, but some sector of a payload did not, or has rotted since.",
    ),
)

_SITUATIONS: tuple[tuple[str, tuple[bool | None, bool | None, bool | None], Decision, str], ...] = (
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
        "after a clean end",
        (False, False, True),
        Decision.CUT,
        "The log was closed here, and has not been written since. What follows is left over.",
    ),
    (
        "at the torn end",
        (False, False, False),
        Decision.CUT,
        "Power or process failed while the batch was being written. Nobody had been told that it was durable.",
    ),
)

CASES: tuple[Case, ...] = (
    Case(
        "the next batch",
        None,
        (True, None, None),
        Decision.FOLLOW,
        "Written, flushed, and known to be flushed: the middle of any log.",
    ),
    Case(
        "the next batch, durable unknown to the superblock",
        None,
        (False, None, False),
        Decision.FOLLOW,
        "Written since the last checkpoint. Flushed or not, it is here and continues the log.",
    ),
    Case(
        "a batch after a clean end",
        None,
        (False, None, True),
        Decision.FOLLOW,
        "The superblock that reopened the log was lost on too many copies, and an older one was elected. Keep what is "
        "whole, and do not believe that the end was clean.",
    ),
    *(
        Case(f"{what}, {when}", defect, knowledge, decision, f"{what_story} {when_story}")
        for what, defect, what_story in _DEFECTS
        for when, knowledge, decision, when_story in _SITUATIONS
    ),
)
"""Every way to find the next batch. No two rows match the same facts, so the order does not matter."""


def decide(facts: Facts) -> Case:
    """Return the case that the facts match."""
    return next(case for case in CASES if case.matches(facts))
