"""What a verification found. Frozen."""

from __future__ import annotations

from dataclasses import dataclass

from jetdr_core.catalog import Authenticity, RecoveryPoint
from jetdr_core.extent import DamagedExtent, describe_extents

__all__ = ["LOST_NAMED_MAX", "Damage", "PointCheck", "VerifyReport"]

LOST_NAMED_MAX = 16


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged part of one object. Only that part holds ``extents``, which LSNs first to last wrote.

    The LSNs of an object outside the chain are those that its trailer claims. They are 0 if no trailer can be read. A
    damaged index has no extents, because only the index
    knew them.
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
    """A recovery point, and what it needs that is damaged: the number of extents, and the first 16 of them."""

    point: RecoveryPoint
    lost_extents: int
    lost: tuple[DamagedExtent, ...]

    @property
    def survives(self) -> bool:
        """Whether the point can be recovered whole."""
        return self.lost_extents == 0


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Everything that was read and checked.

    ``points`` are the first and the newest recovery point and every mark, in LSN order. ``orphans`` are objects of
    fenced owners, and harmless. ``strangers`` are objects with keys that no domain uses, and are not read.
    ``chain_problem`` says where and why history ends early, at a break in the chain. ``tail_problem`` says what was
    lost after the chain's end. Both are empty if there is nothing to say. Objects that were put while the container was
    being read are not part of the report. ``newest_lost`` is all that the newest state of the present disks lacks. Only
    these disks still have that.
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
    tail_problem: str
    points: tuple[PointCheck, ...]
    authenticity: Authenticity = Authenticity.NO_KEY
    newest_lost: tuple[DamagedExtent, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged, forged or missing, as far as it was checked: see ``authenticity``."""
        return not self.damage and not self.chain_problem and not self.tail_problem
