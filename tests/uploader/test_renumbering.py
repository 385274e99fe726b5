"""Several puts are in flight when one of them meets an orphan. It matters how the others ended."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from typing_extensions import Buffer

import jetdr_core as jetdr
from jetdr_core.catalog import chain_key
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import Fenced, JetdrError, StoreAccessDenied
from jetdr_core.store.wrapper import StoreWrapper
from tests.domain.fixture import DISK_BYTES, LOG_BYTES, QUICK, fresh_store, log_device

MANY = jetdr.DomainOptions(
    segment_bytes=4096, segment_age_s=0.01, ring_bytes=1 << 20, ring_slots=1024, puts_max=4, upload_workers=2
)
PATIENT = jetdr.DomainOptions(segment_age_s=3600, ring_bytes=1 << 20, ring_slots=1024, heartbeat_s=3600)


class HoldingStore(StoreWrapper):
    """Puts of ``held`` keys wait until ``released``. Those of ``denied`` keys are then refused, once each."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.held: set[str] = set()
        self.denied: set[str] = set()
        self.waiting: set[str] = set()
        self.released = threading.Event()

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        if key in self.held:
            self.waiting.add(key)
            await asyncio.to_thread(self.released.wait, 20)
        if key in self.denied:
            self.denied.discard(key)
            raise StoreAccessDenied("put", key, "refused by plan")
        await self._inner.put_if_absent(key, data)


async def two_in_flight(inner: Any, store: HoldingStore) -> tuple[jetdr.ProtectedDomain, int, int]:
    """Return a domain of epoch 2 with two puts held, the number of the first, and the last LSN.

    An orphan has that number.
    """
    log, primary = log_device(), MemoryDevice(DISK_BYTES)
    async with jetdr.ProtectedDomain.create(
        "payroll", log=log, log_bytes=LOG_BYTES, store=inner, options=QUICK
    ) as first:
        await first.protect("db01", primary)
    domain = jetdr.ProtectedDomain.open("payroll", log=log, store=store, disks={"db01": primary}, options=MANY)
    await domain.__aenter__()
    number = len([info async for info in inner.list_prefix("chain/")]) + 1
    store.held = {chain_key(number), chain_key(number + 1)}
    for n in range(2):
        domain.disk("db01").write(n * 4096, bytes([n + 1]) * 4096)
        async with asyncio.timeout(10):
            while len(store.waiting) <= n:
                await asyncio.sleep(0.005)
    await inner.put_if_absent(chain_key(number), [await inner.get(chain_key(2))])
    return domain, number, domain.status().lsn_reserved


def test_a_fenced_writer_with_several_puts_in_flight_does_not_go_on_after_the_fence() -> None:
    async def scenario() -> None:
        inner = fresh_store()
        store = HoldingStore(inner)
        domain, _, lsn = await two_in_flight(inner, store)
        takeover = jetdr.ProtectedDomain.take_over(
            "payroll",
            log=log_device(),
            log_bytes=LOG_BYTES,
            store=inner,
            disks={"db01": MemoryDevice(DISK_BYTES)},
            options=PATIENT,
        )
        async with takeover as new:
            store.released.set()
            try:
                with pytest.raises(Fenced):
                    await asyncio.wait_for(domain.uploaded(lsn), 10)
            finally:
                with contextlib.suppress(JetdrError):
                    await domain.close()
                await new.close(upload=False)

    asyncio.run(scenario())


def test_what_is_called_uploaded_is_in_the_chain_when_one_of_several_puts_failed() -> None:
    async def scenario() -> None:
        inner = fresh_store()
        store = HoldingStore(inner)
        domain, number, lsn = await two_in_flight(inner, store)
        store.denied = {chain_key(number + 1)}
        store.released.set()
        try:
            with contextlib.suppress(StoreAccessDenied):
                await asyncio.wait_for(domain.uploaded(lsn), 10)
                assert (await jetdr.Catalog.open(inner)).lsn_last >= lsn
        finally:
            with contextlib.suppress(JetdrError):
                await domain.close()

    asyncio.run(scenario())
