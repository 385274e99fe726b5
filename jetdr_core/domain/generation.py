"""Generation: which claim of a domain something was last used under, and how two of them compare. Pure.

A copy of a log, a store, a state folder or a disk is consistent in itself. That it is an older copy shows only beside
the others. So each of them notes the generation that it was last used under.

Invariant: a generation is never claimed twice, because its nonce is random.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple, Self
from uuid import UUID, uuid4

from jetdr_core.control_bodies import EpochOwner
from jetdr_core.replication_log import ReplicationLog

__all__ = ["UNKNOWN_ID", "Generation", "Word"]

UNKNOWN_ID = bytes(16)


class Word(enum.Enum):
    """What a witness says of the log's generation."""

    SILENT = "does not know this log"
    AGREES = "was last used with this log"
    NEWER = "was used with a newer log since"
    OLDER = "was last used with an older log"
    APART = "was used with another log"
    MISSING = "is missing, or is not the one that the log relies on"
    AWAY = "cannot be asked"
    """Only the store can be away. What it said last is in the known file."""


class Generation(NamedTuple):
    """The epoch and the nonce of a claim. Epoch 0 stands for a log that no claim has begun."""

    epoch: int
    nonce: bytes = UNKNOWN_ID

    @classmethod
    def next_after(cls, *others: Self) -> Self:
        """Return a generation of its own, newer than ``others``."""
        return cls(max(other.epoch for other in others) + 1, uuid4().bytes)

    @classmethod
    def of_log(cls, log: ReplicationLog) -> Self:
        """Return the generation that the log was last begun with."""
        return cls(log.body.epoch, log.body.nonce)

    @classmethod
    def of_owner(cls, epoch: int, owner: EpochOwner) -> Self:
        """Return the generation of a claim in the chain."""
        is_known = owner.nonce is not None and re.fullmatch("[0-9a-f]{32}", owner.nonce)
        return cls(epoch, bytes.fromhex(owner.nonce) if owner.nonce is not None and is_known else UNKNOWN_ID)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the generation that ``str`` gave ``text``. ``ValueError`` if it is none."""
        epoch, _, nonce = text.partition(".")
        return cls(int(epoch), UUID(nonce).bytes if nonce else UNKNOWN_ID)

    def __str__(self) -> str:
        return f"{self.epoch}.{self.nonce.hex()}"

    def is_same(self, other: Generation) -> bool:
        """Whether both are one claim. A nonce that is not known fits any."""
        if self.epoch != other.epoch:
            return False
        return self.nonce == other.nonce or UNKNOWN_ID in {self.nonce, other.nonce}

    def word_of(self, witness: Generation) -> Word:
        """What a witness of generation ``witness`` says of a log of this one. A log not yet begun has no witness."""
        if not self.epoch:
            return Word.SILENT
        if self.epoch != witness.epoch:
            return Word.NEWER if witness.epoch > self.epoch else Word.OLDER
        return Word.AGREES if self.is_same(witness) else Word.APART
