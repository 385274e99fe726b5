"""Follows the chain: which objects are history, which are orphans, and where it can be trusted no further. Pure.

Rules. An object chains iff it names the checksum of the last chained object as its predecessor, belongs to the same
domain and its epoch is not older (an epoch object's must be newer). One that does not chain is an orphan of a fenced
owner if its epoch is older than the chain's. Any other that does not chain, and one that cannot be read, is damage: the
chain ends before it, unless a later object chains to what came before it. LSNs go on densely and times never decrease.
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
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.errors import DamagedObject
from jetdr_core.record import ControlRecord
from jetdr_core.segment import NO_PREDECESSOR, ObjectKind, Trailer


class Head(NamedTuple):
    """The last chained object: what the next one must continue."""

    checksum: bytes = NO_PREDECESSOR
    epoch: int = 0
    timeline: int = 1
    lsn_last: int = 0
    time_ns_last: int = 0


class Damage(NamedTuple):
    """An object that should be part of the chain and cannot be read as one."""

    number: int
    problem: str


@dataclass(slots=True)
class Follower:
    """Feed it groups in number order: their footers, or a summary that was accepted.

    ``damage`` stands while nothing behind it has chained; then history ends before it.
    """

    domain_uuid: UUID
    head: Head = field(default_factory=Head)
    damage: Damage | None = None
    owner: EpochOwner | None = None
    control: list[ControlRecord] = field(default_factory=list)
    tables: list[LinkTable] = field(default_factory=list)

    def take_summary(self, links: LinkTable, control: Sequence[ControlRecord], head: Head) -> None:
        """Take a group that a summary tells of; the caller has checked that it continues :attr:`head`."""
        self.head, self.damage = head, None
        self.owner = None
        self.control += control
        self.tables.append(links)

    def take(self, sizes: dict[int, int], footers: Sequence[Footer | DamagedObject]) -> None:
        """Take a group's objects: ``sizes`` by number, and for each what its footer says."""
        rows = [
            self._row(number, size, footer)
            for (number, size), footer in zip(sorted(sizes.items()), footers, strict=True)
        ]
        self.tables.append(np.array(rows, LINK))

    def links(self) -> LinkTable:
        """The table of all objects taken, in number order."""
        return np.concatenate([np.empty(0, LINK), *self.tables])

    def _row(self, number: int, size: int, footer: Footer | DamagedObject) -> tuple[object, ...]:
        if isinstance(footer, DamagedObject):
            self._damaged(number, str(footer))
            return orphan_link(number, size)
        if not self._chains(footer.trailer):
            if footer.trailer.epoch >= self.head.epoch:
                self._damaged(number, f"{footer.key}: does not continue the chain, and is no orphan")
            return orphan_link(number, size)
        problem = str(footer.damage) if footer.damage else self._contradiction(footer.trailer)
        if problem:
            self._damaged(number, problem)
            return orphan_link(number, size)
        self._extend(footer)
        return link(number, footer.trailer, footer.checksum)

    def _damaged(self, number: int, problem: str) -> None:
        self.damage = self.damage or Damage(number, problem)

    def _chains(self, trailer: Trailer) -> bool:
        newer = trailer.epoch > self.head.epoch
        return (
            trailer.predecessor == self.head.checksum
            and trailer.domain_uuid == self.domain_uuid
            and (newer if trailer.kind == ObjectKind.EPOCH else trailer.epoch == self.head.epoch)
        )

    def _contradiction(self, trailer: Trailer) -> str:
        """Why an object that chains cannot continue the history all the same."""
        if trailer.first_lsn != self.head.lsn_last + 1:
            return f"begins with LSN {trailer.first_lsn}, the chain ends with {self.head.lsn_last}"
        if trailer.timeline != self.head.timeline:
            return f"is on timeline {trailer.timeline}, which this engine cannot follow"
        if trailer.kind == ObjectKind.SEGMENT and trailer.first_time_ns < self.head.time_ns_last:
            return "begins at an earlier time than its predecessor ends"
        return ""

    def _extend(self, footer: Footer) -> None:
        self.head = next_head(self.head, footer.trailer, footer.checksum)
        self.damage = None
        self.control += footer.control
        if footer.trailer.kind == ObjectKind.EPOCH:
            self.owner = footer.owner


def next_head(head: Head, trailer: Trailer, checksum: bytes) -> Head:
    """The head after an object that chains. An epoch object's time is no record's time."""
    time_ns = trailer.last_time_ns if trailer.kind == ObjectKind.SEGMENT else head.time_ns_last
    return Head(checksum, trailer.epoch, trailer.timeline, trailer.last_lsn, time_ns)


def describe(damage: Damage) -> str:
    """The damage with its object's key."""
    key = chain_key(damage.number)
    return damage.problem if damage.problem.startswith(key) else f"{key}: {damage.problem}"
