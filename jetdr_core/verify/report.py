"""What a verification found. Frozen; talks to: extent, catalog (points)."""

from __future__ import annotations

from dataclasses import dataclass

from jetdr_core.catalog import RecoveryPoint
from jetdr_core.extent import DamagedExtent, describe_extents

__all__ = ["LOST_NAMED_MAX", "Damage", "PointCheck", "VerifyReport"]

LOST_NAMED_MAX = 16


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged part of one object. ``extents`` is what only it holds, as written by LSNs first to last.

    For an object that is not part of the chain the LSNs are 0; a damaged index has no extents, because it was what knew
    them.
    """

    key: str
    part: str
    problem: str
    lsn_first: int
    lsn_last: int
    extents: tuple[DamagedExtent, ...]

    def __str__(self) -> str:
        lsns = f" (LSN {self.lsn_first} to {self.lsn_last})" if self.lsn_first else ""
        held = f"; it holds {describe_extents(self.extents)}" if self.extents else ""
        return f"{self.key}: {self.part}: {self.problem}{lsns}{held}"


@dataclass(frozen=True, slots=True)
class PointCheck:
    """A recovery point, and what it needs that is damaged: how many extents, and the first 16 of them."""

    point: RecoveryPoint
    lost_extents: int
    lost: tuple[DamagedExtent, ...]

    @property
    def survives(self) -> bool:
        """Whether it can be rebuilt whole."""
        return self.lost_extents == 0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Everything read and checked.

    ``points`` are the first and the newest recovery point and every mark, in LSN order. ``orphans`` are objects of a
    fenced owner, harmless. ``chain_problem`` says where history ends early (a hole, an unreadable object), or nothing.
    """

    url: str
    domain: str
    objects: int
    segments: int
    frames: int
    bytes_read: int
    damage: tuple[Damage, ...]
    orphans: tuple[str, ...]
    strangers: tuple[str, ...]
    chain_problem: str
    points: tuple[PointCheck, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged or missing."""
        return not self.damage and not self.chain_problem
