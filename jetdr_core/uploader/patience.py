"""Patience: waits while the store answers and refuses what its owner needs.

A share becomes read-only, a credential expires, a quota is used up, a policy forbids writes. Only a person can end
that. To give the upload up and open the domain again would not help, and guests would lose their log meanwhile. So the
refused call itself is made again, ever more slowly, until it is granted. Each attempt uses the credential of now.

Invariants: one refused call is tried at a time, because each may carry a whole segment. Whoever waits for an upload
hears of a refusal when it begins. Used in one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple, TypeVar

from jetdr_core.errors import StoreError

__all__ = ["DELAY_MAX_S", "Patience", "StoreRefusal"]

log = logging.getLogger(__name__)
T = TypeVar("T")

DELAY_FIRST_S = 0.1
DELAY_MAX_S = 15.0


class StoreRefusal(NamedTuple):
    """Since when the store has refused what its owner needs, and why."""

    since_ns: int
    error: StoreError

    @property
    def why(self) -> str:
        return str(self.error)


class Patience:
    """``what`` names the domain and its calls for the log. ``progress`` is notified when a refusal begins."""

    def __init__(self, what: str, progress: asyncio.Condition) -> None:
        self.refusal: StoreRefusal | None = None
        self._what = what
        self._progress = progress
        self._turn = asyncio.Lock()  # held by the one call that is tried again
        self._hurry = asyncio.Event()
        self._attempts = 0

    def hurry(self) -> None:
        """Have what is refused tried again at once."""
        self._hurry.set()

    async def until_granted(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what ``attempt`` returns, once the store does not refuse it. Raises all else that it raises."""
        try:
            return await attempt()
        except StoreError as error:
            if not error.is_refusal:
                raise
            await self._note(error)
        async with self._turn:
            return await self._try_again(attempt)

    async def _try_again(self, attempt: Callable[[], Awaitable[T]]) -> T:
        while True:
            if self.refusal is not None:  # nothing was granted since
                await self._wait()
            try:
                result = await attempt()
            except Exception as error:
                if isinstance(error, StoreError) and error.is_refusal:
                    await self._note(error)
                    continue
                self._note_end()
                raise
            self._note_end()
            return result

    async def _wait(self) -> None:
        delay_s = min(DELAY_MAX_S, DELAY_FIRST_S * 2.0 ** min(self._attempts, 30))
        self._attempts += 1
        self._hurry.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), delay_s)

    async def _note(self, error: StoreError) -> None:
        if self.refusal is not None:
            self.refusal = self.refusal._replace(error=error)
            return
        self.refusal = StoreRefusal(time.time_ns(), error)
        log.error("%s are refused, and tried again: %s", self._what, error)
        async with self._progress:
            self._progress.notify_all()

    def _note_end(self) -> None:
        if self.refusal is not None:
            lasted_s = (time.time_ns() - self.refusal.since_ns) / 1e9
            log.info("%s are refused no more, after %.0f s", self._what, lasted_s)
        self.refusal, self._attempts = None, 0
