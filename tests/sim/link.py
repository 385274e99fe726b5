"""Link: a machine's way to the store. It is slow, fails, loses answers, and is cut.

What was put is in the store, even if its machine never learns of that.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

from typing_extensions import Buffer

from jetdr_core.errors import StoreAccessDenied, StoreError
from jetdr_core.store import MemoryStore
from jetdr_core.store.protocol import ObjectInfo
from jetdr_core.store.wrapper import StoreWrapper
from tests.sim.fault_plan import Fault, FaultPlan

__all__ = ["Link"]


class Link(StoreWrapper):
    """``failure_rate``: how often an operation fails. Half of these are done, and only their answer is lost."""

    def __init__(self, store: MemoryStore, chance: random.Random) -> None:
        super().__init__(store)
        self.failure_rate = 0.0
        self.latency_s = 0.01
        self.is_cut = False
        self.plan: FaultPlan | None = None
        self._chance = chance

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        fault = await self._way("put", key)
        await self._inner.put_if_absent(key, data)
        await self._way_back("put", key, fault)

    async def replace(self, key: str, data: Sequence[Buffer]) -> None:
        fault = await self._way("replace", key)
        await self._inner.replace(key, data)
        await self._way_back("replace", key, fault)

    async def get(self, key: str) -> bytes:
        fault = await self._way("get", key)
        data = await self._inner.get(key)
        await self._way_back("get", key, fault)
        return data

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        fault = await self._way("get range", key)
        data = await self._inner.get_range(key, offset, length)
        await self._way_back("get range", key, fault)
        return data

    async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        fault = await self._way("list", prefix)
        rows = [row async for row in self._inner.list_prefix(prefix)]
        for row in rows:
            yield row
        await self._way_back("list", prefix, fault)

    async def delete(self, key: str) -> None:
        fault = await self._way("delete", key)
        await self._inner.delete(key)
        await self._way_back("delete", key, fault)

    async def close(self) -> None:
        """The store is everybody's."""

    async def _way(self, operation: str, key: str) -> Fault | None:
        """Let the request arrive. Returns what happens to its answer."""
        await asyncio.sleep(self._chance.random() * self.latency_s)
        self._fail(operation, key)
        fault = None if self.plan is None or self.is_cut else self.plan.meet("store", operation)
        if fault is Fault.DENIED:
            raise StoreAccessDenied(operation, key, "refused by plan")
        if fault is not None and fault is not Fault.LOST_ANSWER:
            raise StoreError(operation, key, "failed by plan", transient=True)
        return fault

    async def _way_back(self, operation: str, key: str, fault: Fault | None) -> None:
        await asyncio.sleep(self._chance.random() * self.latency_s)
        self._fail(operation, key)
        if fault is Fault.LOST_ANSWER:
            raise StoreError(operation, key, "its answer was lost by plan", transient=True)

    def _fail(self, operation: str, key: str) -> None:
        if self.is_cut:
            raise StoreError(operation, key, "the link is cut", transient=True)
        if self._chance.random() < self.failure_rate / 2:
            raise StoreError(operation, key, "it failed by chance", transient=True)
