"""What a scrub found. Frozen.

Invariant: a point is called verified only if an extent was compared there, and everything that was compared of its
record is equal.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from jetdr_core.catalog import Authenticity

__all__ = ["Agreement", "Comparison", "DiskScrub", "ScrubReport"]


class Agreement(enum.StrEnum):
    """What comparing one extent said."""

    EQUAL = "equal"
    DIFFERENT = "different"
    """The store gives back other bytes than the disk held, though every checksum is right."""
    UNREADABLE = "unreadable"
    """What holds the extent is damaged or missing."""
    TOO_FAR = "too-far"
    """Nothing is wrong, but what holds the extent lies further back than was looked."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """An extent of a disk, as the owner read it at ``lsn``, compared with what the store gives back.

    ``time_ns`` is when the owner recorded it. ``keys`` are the objects that the store's bytes came from. None: no
    record was ever written there, so they are zeros.
    """

    disk: str
    lsn: int
    time_ns: int
    offset: int
    length: int
    agreement: Agreement
    keys: tuple[str, ...]
    problem: str = ""

    def is_settled_by(self, later: Comparison) -> bool:
        """Whether ``later``, of a later moment, is equal at the same place: it was written or copied since."""
        end = self.offset + self.length
        covers = later.offset <= self.offset and end <= later.offset + later.length
        return later.agreement is Agreement.EQUAL and later.disk == self.disk and covers and later.lsn > self.lsn

    def __str__(self) -> str:
        where = f"disk {self.disk!r} [{self.offset}, {self.offset + self.length}) at LSN {self.lsn}"
        held = f"from {', '.join(self.keys)}" if self.keys else "from no object, so zeros"
        if self.agreement is Agreement.DIFFERENT:
            return f"{where}: the disk held other bytes than the store gives back ({held})"
        return f"{where}: {self.agreement}" + (f": {self.problem}" if self.problem else "")


@dataclass(frozen=True, slots=True)
class DiskScrub:
    """What a scrub says of one disk. ``verified`` is the newest comparison after which nothing older is in doubt."""

    name: str
    compared: int
    bytes_compared: int
    different: int
    unreadable: int
    verified: Comparison | None


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """Everything that was compared, newest first. ``unread`` says which digests could not be read themselves.

    ``digests`` counts the records of digests that the store holds.
    """

    url: str
    domain: str
    digests: int
    comparisons: tuple[Comparison, ...]
    unread: tuple[str, ...]
    authenticity: Authenticity

    @property
    def is_sound(self) -> bool:
        """Whether nothing that was compared is different or unreadable. True also if nothing was compared."""
        wrong = (Agreement.DIFFERENT, Agreement.UNREADABLE)
        return not self.unread and not any(found.agreement in wrong for found in self.comparisons)

    @property
    def verified(self) -> Comparison | None:
        """The newest comparison at whose LSN everything compared was equal."""
        return _verified(self.comparisons)

    def disks(self) -> list[DiskScrub]:
        """What was found of each disk, by name."""
        names = sorted({found.disk for found in self.comparisons})
        return [_of_disk(name, [found for found in self.comparisons if found.disk == name]) for name in names]


def _of_disk(name: str, comparisons: Sequence[Comparison]) -> DiskScrub:
    different = sum(found.agreement is Agreement.DIFFERENT for found in comparisons)
    unreadable = sum(found.agreement is Agreement.UNREADABLE for found in comparisons)
    compared = [found for found in comparisons if found.agreement in (Agreement.EQUAL, Agreement.DIFFERENT)]
    bytes_compared = sum(found.length for found in compared)
    return DiskScrub(name, len(compared), bytes_compared, different, unreadable, _verified(comparisons))


def _verified(comparisons: Sequence[Comparison]) -> Comparison | None:
    wrong = {found.lsn for found in comparisons if found.agreement in (Agreement.DIFFERENT, Agreement.UNREADABLE)}
    equal = [found for found in comparisons if found.agreement is Agreement.EQUAL and found.lsn not in wrong]
    return max(equal, key=lambda found: found.lsn, default=None)
