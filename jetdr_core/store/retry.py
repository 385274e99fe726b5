"""RetryingStore: the one place where store operations are retried.

Only transient errors are retried, with exponential backoff and full jitter: each wait is uniform between 0 and its
bound, so that many writers do not come back in step.

Invariants: no attempt begins after the deadline. The last error is raised as it was. A retried put_if_absent may meet
its own object, because the first answer was lost. Its :class:`ObjectExists` is raised all the same, because only the
caller can tell its own object from another one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from typing_extensions import Buffer

from jetdr_core.errors import InvalidRequest, StoreError
from jetdr_core.store.protocol import ObjectInfo, ObjectRange, ObjectStore
from jetdr_core.store.wrapper import StoreWrapper

__all__ = ["AWAY_S", "Outage", "RetryPolicy", "RetryingStore"]

log = logging.getLogger(__name__)

T = TypeVar("T")

AWAY_S = 3.0
"""A store that has failed for so long is away. Shorter failures are of no interest."""

_FIRST = "first"
"""Stands for the first operation, whichever it is."""

_DOUBLINGS_MAX = 60  # keeps 2**n a float of ordinary size, however many attempts are allowed


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and for how long to try. ``deadline_s`` counts from the first attempt, and may be ``math.inf``."""

    attempts_max: int = 10
    deadline_s: float = 120.0
    delay_base_s: float = 0.1
    delay_cap_s: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts_max < 1:
            raise InvalidRequest(f"attempts_max {self.attempts_max} allows no attempt", hint="use 1 or more")
        if not (self.deadline_s >= 0 and 0 <= self.delay_base_s <= self.delay_cap_s):
            raise InvalidRequest(
                f"{self} is not valid", hint="use deadline_s >= 0 and 0 <= delay_base_s <= delay_cap_s"
            )

    def delay_max_s(self, failures: int) -> float:
        """Return the upper bound of the wait after ``failures`` in a row (1 or more)."""
        return min(self.delay_cap_s, self.delay_base_s * 2.0 ** min(failures - 1, _DOUBLINGS_MAX))


class Outage(NamedTuple):
    """Since when one kind of operation has failed, and why it failed last."""

    since_s: float
    error: StoreError


class RetryingStore(StoreWrapper):
    """``inner``, with transient errors retried as ``policy`` says.

    Kinds of operations fail apart from one another: a store without room still answers reads. ``retries`` counts the
    retries by operation. ``sleep``, ``uniform`` (of two bounds) and ``clock`` (seconds, never decreasing) are where
    waits, chance and time come from.
    """

    def __init__(
        self,
        inner: ObjectStore,
        policy: RetryPolicy | None = None,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self.policy = policy or RetryPolicy()
        self.retries: Counter[str] = Counter()
        self._outages: dict[str, Outage] = {}
        self._told: set[str] = set()  # operations whose outage was logged
        self._timers: dict[str, asyncio.TimerHandle] = {}  # by operation: when its outage is logged
        self._has_ended = False  # whether any operation has
        self._sleep = sleep
        self._uniform = uniform
        self._clock = clock

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        await self._persist("put", lambda: self._inner.put_if_absent(key, data))

    async def replace(self, key: str, data: Sequence[Buffer]) -> None:
        await self._persist("replace", lambda: self._inner.replace(key, data))

    async def get(self, key: str) -> bytes:
        return await self._persist("get", lambda: self._inner.get(key))

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        return await self._persist("get range", lambda: self._inner.get_range(key, offset, length))

    async def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes | StoreError]:
        """Get, and get again what failed transiently. Attempts are counted anew after each round that got anything."""
        failures, deadline = 0, self._deadline()
        self._note_asked()
        found = await self._inner.get_ranges(ranges)
        while failed := _transient(found):
            failures += 1
            try:
                await self._wait("get range", failures, deadline, next(iter(failed.values())))
            except StoreError:
                return found
            again = await self._inner.get_ranges([ranges[place] for place in failed])
            if len(_transient(again)) < len(failed):
                failures, deadline = 0, self._deadline()
            for place, result in zip(failed, again, strict=True):
                found[place] = result
        self._note_answer("get range")
        return found

    async def delete(self, key: str) -> None:
        await self._persist("delete", lambda: self._inner.delete(key))

    async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """List. After a failure, list again from the start, but pass on only keys after the last one seen."""
        key_last, failures, deadline = "", 0, self._deadline()
        self._note_asked()
        while True:
            try:
                async for info in self._inner.list_prefix(prefix):
                    self._note_answer("list")
                    if info.key > key_last:
                        yield info
                        key_last, failures, deadline = info.key, 0, self._deadline()
                self._note_answer("list")
                return
            except StoreError as error:
                failures += 1
                await self._wait("list", failures, deadline, error)

    async def _persist(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        failures, deadline = 0, self._deadline()
        self._note_asked()
        while True:
            try:
                result = await attempt()
                self._note_answer(operation)
                return result
            except StoreError as error:
                failures += 1
                await self._wait(operation, failures, deadline, error)

    async def _wait(self, operation: str, failures: int, deadline: float, error: StoreError) -> None:
        """Wait before the next attempt. Raise ``error`` if there is to be none."""
        if not error.transient or failures >= self.policy.attempts_max:
            self._note_answer(operation)
            raise error
        delay = self._uniform(0.0, self.policy.delay_max_s(failures))
        if self._clock() + delay > deadline:
            self._note_answer(operation)
            raise error
        self.retries[operation] += 1
        self._note_failure(operation, error)
        await self._sleep(delay)

    def _deadline(self) -> float:
        return self._clock() + self.policy.deadline_s

    # -- outages -----------------------------------------------------------------------------------------------------

    @property
    def away(self) -> tuple[float, str]:
        """For how many seconds the store has failed, and why. ``(0, "")`` while it answers. From any thread."""
        outages = list(self._outages.values())
        if not outages:
            return 0.0, ""
        longest = min(outages, key=lambda outage: outage.since_s)
        return self._clock() - longest.since_s, str(longest.error)

    def forget(self) -> None:
        """Tell nothing more of outages, because nobody waits for the store any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _note_asked(self) -> None:
        """Note that an operation begins. If it is the first, whoever waits for it hears of a store that is silent."""
        if not self._has_ended:
            self._tell_later(_FIRST)

    def _note_failure(self, operation: str, error: StoreError) -> None:
        now = self._clock()
        since_s = self._outages[operation].since_s if operation in self._outages else now
        self._outages[operation] = Outage(since_s, error)
        self._tell_later(operation)
        if now - since_s >= AWAY_S:
            self._tell(operation)

    def _tell_later(self, operation: str) -> None:
        """Log the outage of ``operation`` once it has lasted, also if an attempt or a wait goes on until then."""
        if operation not in self._timers:
            self._timers[operation] = asyncio.get_running_loop().call_later(AWAY_S, self._tell, operation)

    def _tell(self, operation: str) -> None:
        outages = {operation} & self._outages.keys() or set(self._outages)
        if self._told & {operation, *outages}:
            return
        self._told |= {operation, *outages}
        if outages:
            error = self._outages[min(outages)].error
            log.warning("store %s is away, and is tried again: %s", self.url, error)
        else:
            log.warning("store %s has not answered for %.0f s, and is waited for", self.url, AWAY_S)

    def _note_answer(self, operation: str) -> None:
        """Note that the outage of ``operation`` is over: the store has answered, or nobody waits for it any more."""
        self._has_ended = True
        for ended in (_FIRST, operation):
            if (timer := self._timers.pop(ended, None)) is not None:
                timer.cancel()
        self._told.discard(_FIRST)
        outage = self._outages.pop(operation, None)
        if outage is not None and operation in self._told:
            self._told.remove(operation)
            log.info("store %s: its outage of %.0f s is over", self.url, self._clock() - outage.since_s)


def _transient(found: Sequence[bytes | StoreError]) -> dict[int, StoreError]:
    """The transient errors in ``found``, by place."""
    return {at: result for at, result in enumerate(found) if isinstance(result, StoreError) and result.transient}
