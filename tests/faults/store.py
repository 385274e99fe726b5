"""FaultyStore: an object store that fails on purpose, as a plan decides.

The plan is called once per operation, with its name (``put``, ``replace``, ``get``, ``get range``, ``list``,
``delete``), the key and the number of the call (from 1). It returns a :class:`Fault` or None. :func:`scripted`,
:func:`seeded`, :func:`on` and :func:`first_of` make plans. The store records all calls with their faults, so that a
test can check that its fault occurred.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from typing_extensions import Buffer

from jetdr_core.errors import StoreAccessDenied, StoreError
from jetdr_core.store.keys import byte_views
from jetdr_core.store.protocol import ObjectInfo, ObjectStore
from jetdr_core.store.wrapper import StoreWrapper


class Fault(enum.Enum):
    """What goes wrong. A fault that makes no sense for an operation acts as :attr:`FAIL`."""

    FAIL = "a transient failure; nothing was done"
    THROTTLED = "a transient refusal: the service is busy; nothing was done"
    LOST_RESPONSE = "the operation is done, and its answer lost: a transient failure"
    HALF_LISTING = "a listing fails, transient, after half of its rows"
    HALF_BODY = "a get returns only the first half, as if that were all"
    WRONG_BYTES = "one bit is flipped: in what a get returns, or in what a put stores"
    DENIED = "a permanent refusal; nothing was done"
    HELD = "nothing is done until the test sets `released`; `arrived` says that a call is waiting"
    HELD_RESPONSE = "the operation is done; its answer waits for `released`"


class Call(NamedTuple):
    operation: str
    key: str
    fault: Fault | None


Plan = Callable[[str, str, int], Fault | None]


def scripted(*faults: Fault | None) -> Plan:
    """Return a plan whose n-th call meets the n-th fault. Later calls meet none."""
    return lambda _operation, _key, number: faults[number - 1] if number <= len(faults) else None


def seeded(seed: int, rates: Mapping[Fault, float]) -> Plan:
    """Return a plan in which each fault has its probability. The same seed and order of calls give the same faults."""
    source = random.Random(seed)

    def plan(_operation: str, _key: str, _number: int) -> Fault | None:
        chance = source.random()
        for fault, rate in rates.items():
            chance -= rate
            if chance < 0:
                return fault
        return None

    return plan


def on(operation: str, fault: Fault, *, key: str | None = None, times: int | None = None) -> Plan:
    """Return a plan in which calls of ``operation``, on ``key`` if given, meet ``fault``, at most ``times`` of them."""
    met = Counter[str]()

    def plan(operation_now: str, key_now: str, _number: int) -> Fault | None:
        if operation_now != operation or key not in {None, key_now} or met["all"] == times:
            return None
        met["all"] += 1
        return fault

    return plan


def first_of(*plans: Plan) -> Plan:
    """Return a plan that asks ``plans`` in order, until one has a fault."""

    def plan(operation: str, key: str, number: int) -> Fault | None:
        return next(filter(None, (plan(operation, key, number) for plan in plans)), None)

    return plan


def no_faults(_operation: str, _key: str, _number: int) -> Fault | None:
    return None


class FaultyStore(StoreWrapper):
    """``inner`` with the faults of ``plan``, which may be replaced at any time. ``calls`` lists all calls, in order."""

    def __init__(self, inner: ObjectStore, plan: Plan = no_faults) -> None:
        super().__init__(inner)
        self.plan = plan
        self.calls: list[Call] = []
        self.arrived = asyncio.Event()
        self.released = asyncio.Event()

    @property
    def injected(self) -> Counter[Fault]:
        return Counter(call.fault for call in self.calls if call.fault)

    def keys(self, operation: str) -> list[str]:
        """Return the keys of all calls of ``operation``, in order."""
        return [call.key for call in self.calls if call.operation == operation]

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        fault = await self._before("put", key)
        await self._inner.put_if_absent(key, _stored(data, fault))
        await self._after("put", key, fault)

    async def replace(self, key: str, data: Sequence[Buffer]) -> None:
        fault = await self._before("replace", key)
        await self._inner.replace(key, _stored(data, fault))
        await self._after("replace", key, fault)

    async def get(self, key: str) -> bytes:
        fault = await self._before("get", key)
        data = _returned(await self._inner.get(key), fault)
        await self._after("get", key, fault)
        return data

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        fault = await self._before("get range", key)
        data = _returned(await self._inner.get_range(key, offset, length), fault)
        await self._after("get range", key, fault)
        return data

    async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        fault = await self._before("list", prefix)
        rows = [row async for row in self._inner.list_prefix(prefix)]
        for row in rows[: len(rows) // 2] if fault is Fault.HALF_LISTING else rows:
            yield row
        if fault is Fault.HALF_LISTING:
            raise _transient("list", prefix, "the connection was cut")
        await self._after("list", prefix, fault)

    async def delete(self, key: str) -> None:
        fault = await self._before("delete", key)
        await self._inner.delete(key)
        await self._after("delete", key, fault)

    async def _before(self, operation: str, key: str) -> Fault | None:
        fault = self.plan(operation, key, len(self.calls) + 1)
        self.calls.append(Call(operation, key, fault))
        if fault is Fault.HELD:
            await self._hold()
        if fault is Fault.THROTTLED:
            raise _transient(operation, key, "the service is busy")
        if fault is Fault.DENIED:
            raise StoreAccessDenied(operation, key, "refused by plan")
        if fault is Fault.FAIL or (fault is not None and operation not in _SENSIBLE.get(fault, {operation})):
            raise _transient(operation, key, "the connection was cut")
        return fault

    async def _after(self, operation: str, key: str, fault: Fault | None) -> None:
        if fault is Fault.HELD_RESPONSE:
            await self._hold()
        if fault is Fault.LOST_RESPONSE:
            raise _transient(operation, key, "the answer was lost")

    async def _hold(self) -> None:
        self.arrived.set()
        await self.released.wait()


_GETS = {"get", "get range"}
_PUTS = {"put", "replace"}
_SENSIBLE: Mapping[Fault, Iterable[str]] = {
    Fault.HALF_BODY: _GETS,
    Fault.WRONG_BYTES: _GETS | _PUTS,
    Fault.HALF_LISTING: {"list"},
}


def _transient(operation: str, key: str, cause: str) -> StoreError:
    return StoreError(operation, key, cause, transient=True)


def _stored(data: Sequence[Buffer], fault: Fault | None) -> Sequence[Buffer]:
    return [_flipped(b"".join(byte_views(data)))] if fault is Fault.WRONG_BYTES else data


def _returned(data: bytes, fault: Fault | None) -> bytes:
    if fault is Fault.HALF_BODY:
        return data[: len(data) // 2]
    return _flipped(data) if fault is Fault.WRONG_BYTES else data


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[len(changed) // 2] ^= 1
    return bytes(changed)
