"""The states that devices may be in after a power loss, by a rule that bounds how many these are. Pure.

Of the unflushed writes of a device any may be there, in any order, and each may be torn by sector. The rule:

- every subset of up to three writes. Of more: none, all, each alone, and all but each
- all of them in reverse order
- for each write of several sectors: all earlier ones, and of it the first half, or the second half

Of two devices, each state of one meets none and all of the other's writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, combinations

from jetdr_core.limits import SECTOR_BYTES

__all__ = ["kept_by_both", "kept_writes"]

Writes = Sequence[tuple[int, bytes]]
SUBSETS_MAX = 3


def kept_writes(writes: Writes) -> Iterator[Writes]:
    """Return what a power loss may keep of the unflushed ``writes`` of one device. First nothing, then everything."""
    yield []
    yield writes
    yield list(reversed(writes))
    yield from _subsets(writes)
    for number, (offset, data) in enumerate(writes):
        half = len(data) // 2 // SECTOR_BYTES * SECTOR_BYTES
        if half:
            yield [*writes[:number], (offset, data[:half])]
            yield [*writes[:number], (offset + half, data[half:])]


def _subsets(writes: Writes) -> Iterator[Writes]:
    if len(writes) <= SUBSETS_MAX:
        yield from chain.from_iterable(combinations(writes, count) for count in range(1, len(writes)))
        return
    for number, write in enumerate(writes):
        yield [write]
        yield [*writes[:number], *writes[number + 1 :]]


def kept_by_both(first: Writes, second: Writes) -> Iterator[tuple[Writes, Writes]]:
    """Return the pairs of what two devices keep."""
    for kept in kept_writes(first):
        yield from ((kept, []), (kept, second))
    for kept in kept_writes(second):
        yield from (([], kept), (first, kept))
