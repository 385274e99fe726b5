"""BandwidthLimitedStore: uploads no faster than a number of bytes per second.

Invariants: by any time t after the start, the objects given to the inner store hold at most ``burst + rate x t`` bytes.
Puts begin in the order of the calls. Downloads are not limited. Inside a RetryingStore, retried bytes count again, as
they do on the line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from typing_extensions import Buffer

from jetdr_core.errors import InvalidRequest, StoreError
from jetdr_core.store.keys import byte_views, size_bytes
from jetdr_core.store.protocol import ObjectRange, ObjectStore
from jetdr_core.store.wrapper import StoreWrapper

__all__ = ["BandwidthLimitedStore"]


class BandwidthLimitedStore(StoreWrapper):
    """``inner``, with uploads limited to ``bytes_per_s`` on average.

    After a pause, ``burst_bytes`` may go at once (default: the bytes of one second). A longer put waits until all its
    bytes are paid for, and then goes at line speed.
    """

    def __init__(
        self,
        inner: ObjectStore,
        bytes_per_s: float,
        *,
        burst_bytes: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        super().__init__(inner)
        burst = bytes_per_s if burst_bytes is None else burst_bytes
        if not (bytes_per_s > 0 and burst >= 0):
            raise InvalidRequest(
                f"bandwidth limit of {bytes_per_s} bytes/s with a burst of {burst} bytes is not valid",
                hint="use a rate above 0 and a burst of 0 or more",
            )
        self._bucket = _TokenBucket(bytes_per_s, burst, clock)
        self._sleep = sleep

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        await self._pay(data)
        await self._inner.put_if_absent(key, data)

    async def replace(self, key: str, data: Sequence[Buffer]) -> None:
        await self._pay(data)
        await self._inner.replace(key, data)

    async def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes | StoreError]:
        return await self._inner.get_ranges(ranges)

    async def _pay(self, data: Sequence[Buffer]) -> None:
        """Take the tokens now, in debt if need be, and wait until the debt is paid. Later callers wait longer."""
        amount = size_bytes(byte_views(data))
        delay = self._bucket.take(amount)
        if delay > 0:
            try:
                await self._sleep(delay)
            except asyncio.CancelledError:
                self._bucket.give_back(amount)
                raise


class _TokenBucket:
    """Tokens are bytes. A negative level is debt."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._level = burst
        self._time = clock()

    def take(self, amount: int) -> float:
        """Remove ``amount``, and return the seconds until no debt is left."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._time) * self._rate)
        self._time = now
        self._level -= amount
        return max(0.0, -self._level / self._rate)

    def give_back(self, amount: int) -> None:
        self._level += amount
