"""Lists which chain objects there are, and how long each is, group by group.

Invariants: no object after the first missing number is part of the chain. Such objects are counted, because they show
that the chain has a break. Keys decide how much is listed only as far as objects prove it: names alone cost one further
listing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from jetdr_core.catalog.keys import (
    NUMBER_DIGITS,
    SUMMARY_PREFIX,
    chain_prefix,
    group_numbers,
    summary_group,
)
from jetdr_core.store import ObjectStore

_LISTS_AT_ONCE = 16
IN_FLIGHT_MAX = 256
"""More objects after a missing number are not explained by uploads that end out of order."""


@dataclass(frozen=True, slots=True)
class Listing:
    """``sizes[group]`` are the object sizes in bytes, by number. The chain consists of numbers 1 to ``number_last``.

    ``summaries`` are the sizes of the summaries in bytes, by group.
    """

    sizes: list[dict[int, int]]
    summaries: Mapping[int, int]
    number_last: int
    objects_after: int
    """How many objects come after the first missing number."""

    def group(self, group: int) -> dict[int, int]:
        """The sizes in bytes, by number, of the group's objects before the first missing number."""
        if group_numbers(group)[-1] <= self.number_last:
            return self.sizes[group]
        return {number: size for number, size in self.sizes[group].items() if number <= self.number_last}

    @property
    def after(self) -> dict[int, int]:
        """The sizes in bytes, by number, of the objects after the first missing number."""
        if not self.objects_after:
            return {}
        return {number: size for sizes in self.sizes for number, size in sizes.items() if number > self.number_last}

    @property
    def groups(self) -> range:
        """The groups that hold an object before the first missing number."""
        return range(number_group(self.number_last) + 1) if self.number_last else range(0)

    @property
    def may_be_in_flight(self) -> bool:
        """Whether a number is missing that an upload in flight may still bring."""
        return 0 < self.objects_after <= IN_FLIGHT_MAX

    @property
    def number_max(self) -> int:
        """The highest number that is there."""
        return max((number for there in self.sizes for number in there), default=0)


def number_group(number: int) -> int:
    """The group that a number belongs to."""
    return number // len(group_numbers(1))


async def list_chain(store: ObjectStore) -> Listing:
    """List the summaries, then the chain's groups up to one that is empty.

    If summaries follow, a few groups more are listed, because the empty group may be lost.
    """
    summaries = {
        group: info.size_bytes
        async for info in store.list_prefix(SUMMARY_PREFIX)
        if (group := summary_group(info.key)) is not None
    }
    sizes: list[dict[int, int]] = []
    wave = _LISTS_AT_ONCE if summaries else 1
    while True:
        listed = await asyncio.gather(*(_list_group(store, len(sizes) + nth) for nth in range(wave)))
        sizes += listed
        end = len(sizes)
        is_known = any(group in summaries for group in range(end, end + _LISTS_AT_ONCE))
        if not sizes[-1] and not (is_known and any(listed)):
            return _listing(sizes, summaries)
        wave = min(2 * wave, _LISTS_AT_ONCE)


async def list_again(store: ObjectStore, listing: Listing, number_max: int) -> Listing:
    """List the groups from the first missing number on again, without objects above ``number_max``."""
    first = number_group(listing.number_last + 1)
    groups = range(first, number_group(number_max) + 1)
    found = await asyncio.gather(*(_list_group(store, group) for group in groups))
    again = [{number: size for number, size in there.items() if number <= number_max} for there in found]
    return _listing([*listing.sizes[:first], *again], listing.summaries)


def _listing(sizes: list[dict[int, int]], summaries: Mapping[int, int]) -> Listing:
    number_last = _number_last(sizes)
    return Listing(sizes, summaries, number_last, sum(map(len, sizes)) - number_last)


async def _list_group(store: ObjectStore, group: int) -> dict[int, int]:
    prefix, numbers = chain_prefix(group), group_numbers(group)
    rows = [(info.key.removeprefix(prefix), info.size_bytes) async for info in store.list_prefix(prefix)]
    named = (
        (int(name), size) for name, size in rows if len(name) == NUMBER_DIGITS and name.isascii() and name.isdigit()
    )
    return {number: size for number, size in named if number in numbers}


def _number_last(sizes: list[dict[int, int]]) -> int:
    """The number before the first missing number."""
    last = 0
    for group, there in enumerate(sizes):
        numbers = group_numbers(group)
        if len(there) == len(numbers):
            last = numbers[-1]
            continue
        return next((number - 1 for number in numbers if number not in there), last)
    return last
