"""Follows the chain: tells which objects are history, which are orphans, and where the chain can be trusted no further.
Pure.

The numbers of the objects do not say that, because a fenced owner may still have uploads in flight. These rules do:

- An object *chains* if it belongs to the domain, names the checksum of the last chained object as its predecessor, and
  continues that object's epoch. An epoch object begins a newer epoch.
- An object that does not chain is an *orphan* if its epoch is older than the chain's: a fenced owner put it.
- A segment of the chain's own epoch is an orphan too if only orphans lie between the chain and it, at least one of them
  of an older epoch. That one took the number of the segment's predecessor. The owner then puts both again at later
  numbers, unless it dies before.
- Any other object that does not chain is *damage*, and so is an object that cannot be read. The chain ends before it,
  unless a later object chains to what came before it.

Invariants of what chains: LSNs are dense, and times never decrease.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

import numpy as np

from jetdr_core.catalog.footer import Footer
from jetdr_core.catalog.keys import chain_key
from jetdr_core.catalog.links import LINK, LinkTable, link, orphan_link
from jetdr_core.catalog.listing import IN_FLIGHT_MAX
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.errors import DamagedObject, Forged
from jetdr_core.limits import CHAIN_GROUP
from jetdr_core.record import ControlRecord
from jetdr_core.segment import NO_PREDECESSOR, ObjectKind, Trailer

CONTROLS_FREE = 1 << 18
"""How many control records a chain may have beyond one for every byte of its stored indexes.

No owner gets there. A record's time takes several stored bytes, and so does the body of a mark or a disk, because each
of them differs from every other. Only records of one instant with bodies that repeat take less than a byte: gaps and
abandoned records, while a clock that was set back stands still. These come one at a time, seconds apart.
"""


class Head(NamedTuple):
    """The last chained object, as far as the next one must continue it."""

    checksum: bytes = NO_PREDECESSOR
    epoch: int = 0
    timeline: int = 1
    lsn_last: int = 0
    time_ns_last: int = 0


class BrokenLink(NamedTuple):
    """An object that should be part of the chain, but is not usable as one."""

    number: int
    problem: str
    is_forged: bool = False


@dataclass(slots=True)
class Follower:
    """Takes the objects in number order: the footer of each, or the summary of a group.

    ``broken_link`` is set while no object after it has chained. The history then ends before it. ``owner`` is
    None if the last epoch object was taken from a summary. ``epoch_newest`` is the newest epoch of any object that was
    read, whether it chains or not.
    """

    domain_uuid: UUID
    head: Head = field(default_factory=Head)
    broken_link: BrokenLink | None = None
    owner: EpochOwner | None = None
    epoch_newest: int = 0
    control: list[ControlRecord] = field(default_factory=list)
    tables: list[LinkTable] = field(default_factory=list)
    rows: list[tuple[object, ...]] = field(default_factory=list)
    index_bytes: int = 0
    _has_stepped_over: bool = False  # an orphan of an older epoch, since something chained
    _left_over: int = 0  # segments of the chain's epoch, since then

    def take_summary(self, links: LinkTable, control: Sequence[ControlRecord], head: Head) -> None:
        """Take a group from its summary. The caller has checked that the summary continues :attr:`head`."""
        self._move_head(head)
        self.owner = None
        self.control += control
        self._end_table()
        self.tables.append(links)
        self.index_bytes += int(links["index_stored_bytes"].sum(dtype=np.uint64))

    def may_hold(self, controls: int, index_bytes: int) -> bool:
        """Whether ``controls`` more control records can be, in ``index_bytes`` more bytes of indexes.

        A chain with more was made to cost its readers memory.
        """
        return len(self.control) + controls <= CONTROLS_FREE + self.index_bytes + index_bytes

    def take(self, number: int, size: int, footer: Footer | DamagedObject) -> None:
        """Take the next object, of ``size`` bytes."""
        self.rows.append(self._row(number, size, footer))
        if len(self.rows) == CHAIN_GROUP:
            self._end_table()

    def links(self) -> LinkTable:
        """The table of all objects taken so far, in number order."""
        self._end_table()
        return np.concatenate([np.empty(0, LINK), *self.tables])

    def _end_table(self) -> None:
        if self.rows:
            self.tables.append(np.array(self.rows, LINK))
            self.rows = []

    def _row(self, number: int, size: int, footer: Footer | DamagedObject) -> tuple[object, ...]:
        if isinstance(footer, DamagedObject):
            self._note_broken_link(number, str(footer), is_forged=isinstance(footer, Forged))
            return orphan_link(number, size)
        self.epoch_newest = max(self.epoch_newest, footer.trailer.epoch)
        if not self._chains(footer.trailer):
            if not self._is_orphan(footer.trailer):
                self._note_broken_link(number, f"{footer.key}: does not continue the chain, and is not an orphan")
            return orphan_link(number, size)
        try:
            self._extend(footer)
        except DamagedObject as error:
            self._note_broken_link(number, str(error), is_forged=isinstance(error, Forged))
            return orphan_link(number, size)
        return link(number, footer.trailer, footer.checksum)

    def _note_broken_link(self, number: int, problem: str, *, is_forged: bool = False) -> None:
        """The chain ends before this object, unless a later one chains."""
        self.broken_link = self.broken_link or BrokenLink(number, problem, is_forged)

    def _chains(self, trailer: Trailer) -> bool:
        newer = trailer.epoch > self.head.epoch
        return (
            trailer.predecessor == self.head.checksum
            and trailer.domain_uuid == self.domain_uuid
            and (newer if trailer.kind == ObjectKind.EPOCH else trailer.epoch == self.head.epoch)
        )

    def _is_orphan(self, trailer: Trailer) -> bool:
        """Whether an object that does not chain is nevertheless no damage."""
        if trailer.epoch < self.head.epoch:
            self._has_stepped_over = True
            return True
        is_own = trailer.epoch == self.head.epoch and trailer.domain_uuid == self.domain_uuid
        if not is_own or trailer.kind != ObjectKind.SEGMENT or not self._has_stepped_over or self.broken_link:
            return False
        self._left_over += 1
        return self._left_over <= IN_FLIGHT_MAX

    def _move_head(self, head: Head) -> None:
        self.head, self.broken_link = head, None
        self._has_stepped_over, self._left_over = False, 0

    def _contradiction(self, trailer: Trailer) -> str:
        """Why an object that chains still cannot continue the history. Empty if it can."""
        if not self.may_hold(trailer.control_count, trailer.index_stored_bytes):
            return f"{trailer.control_count} control records more than its index can hold"
        if trailer.first_lsn != self.head.lsn_last + 1:
            return f"begins with LSN {trailer.first_lsn}, the chain ends with {self.head.lsn_last}"
        if trailer.timeline != self.head.timeline:
            return f"is on timeline {trailer.timeline}, which this engine cannot follow"
        if trailer.kind == ObjectKind.SEGMENT and trailer.first_time_ns < self.head.time_ns_last:
            return "begins at an earlier time than its predecessor ends"
        return ""

    def _extend(self, footer: Footer) -> None:
        """Take an object that chains. :class:`DamagedObject`, with nothing changed, if it cannot be history."""
        problem = self._contradiction(footer.trailer)
        if footer.damage or problem:
            raise footer.damage or DamagedObject(footer.key, "trailer", problem)
        control = footer.control()
        self.index_bytes += footer.trailer.index_stored_bytes
        self._move_head(next_head(self.head, footer.trailer, footer.checksum))
        self.control += control
        if footer.trailer.kind == ObjectKind.EPOCH:
            self.owner = footer.owner


def next_head(head: Head, trailer: Trailer, checksum: bytes) -> Head:
    """The head after an object that chains. An epoch object has no record, so the time stays as it was."""
    time_ns = trailer.last_time_ns if trailer.kind == ObjectKind.SEGMENT else head.time_ns_last
    return Head(checksum, trailer.epoch, trailer.timeline, trailer.last_lsn, time_ns)


def describe(broken: BrokenLink) -> str:
    """What is wrong with the object, in words that begin with its key."""
    key = chain_key(broken.number)
    return broken.problem if broken.problem.startswith(key) else f"{key}: {broken.problem}"
