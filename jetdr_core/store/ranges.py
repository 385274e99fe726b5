"""Many ranges by single requests, for stores and wrappers that have no cheaper way.

Invariant: a range that fails is an error in its own place, and the others are returned all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from jetdr_core.errors import StoreError
from jetdr_core.store.keys import check_key, check_range
from jetdr_core.store.protocol import ObjectRange

__all__ = ["check_ranges", "get_each"]

GetRange = Callable[[str, int, int], Awaitable[bytes]]


def check_ranges(ranges: Sequence[ObjectRange]) -> None:
    """Raise :class:`InvalidRequest` for the first range that no object can have."""
    for key, offset, length in ranges:
        check_key(key)
        check_range(key, offset, length)


async def get_each(
    get_range: GetRange, ranges: Sequence[ObjectRange], *, requests_max: int = 1
) -> list[bytes | StoreError]:
    """Return what ``get_range`` returns or raises for each of ``ranges``. At most ``requests_max`` are in flight."""
    check_ranges(ranges)
    found: list[bytes | StoreError] = [b""] * len(ranges)
    waiting = iter(enumerate(ranges))

    async def work() -> None:
        for place, wanted in waiting:
            try:
                found[place] = await get_range(*wanted)
            except StoreError as error:
                found[place] = error

    if requests_max == 1:
        await work()
        return found
    async with asyncio.TaskGroup() as group:
        for _ in range(min(requests_max, len(ranges))):
            group.create_task(work())
    return found
