"""Primaries that fail, as a protected domain sees them: the replica equals them again, or a gap says it does not."""

from __future__ import annotations

import asyncio
import errno

import pytest
from typing_extensions import Buffer

import jetdr_core as jetdr
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import PrimaryFailed
from tests.domain.fixture import (
    DISK_BYTES,
    QUICK,
    fresh_store,
    log_device,
    new_domain,
    recovered,
)
from tests.faults.device import CrashDevice


def test_a_failed_flush_of_the_primary_owes_a_resync_even_after_a_clean_close() -> None:
    """fdatasync failed once, then worked: the primary lost the bytes, the log has them, and nobody looks again."""

    async def scenario() -> None:
        store, log, primary = fresh_store(), log_device(), CrashDevice(DISK_BYTES, seed=3)
        async with new_domain(store, log=log) as domain:
            disk = await domain.protect("db01", primary)
            disk.write(0, b"a" * 16384)
            primary.fail_at(1, "transient")
            with pytest.raises(PrimaryFailed):
                disk.flush()
        primary = primary.crash(1)  # what was never durable is gone
        async with jetdr.ProtectedDomain.open(
            "payroll", log=log, store=store, disks={"db01": primary}, options=QUICK
        ) as domain:
            await domain.wait_consistent()
        assert (await recovered(store))["db01"] == primary.image()

    asyncio.run(scenario())


def test_a_primary_that_timed_out_opens_a_gap_as_any_other_failure_does() -> None:
    async def scenario() -> None:
        class Torn(MemoryDevice):
            failing = False

            def write(self, offset: int, data: Buffer) -> None:
                if self.failing:
                    super().write(offset, bytes(memoryview(data)[:512]))
                    raise OSError(errno.ETIMEDOUT, "iSCSI command timed out")
                super().write(offset, data)

            def read_into(self, offset: int, target: Buffer) -> None:
                if self.failing:
                    raise OSError(errno.ETIMEDOUT, "iSCSI command timed out")
                super().read_into(offset, target)

        store, primary = fresh_store(), Torn(DISK_BYTES)
        async with new_domain(store) as domain:
            disk = await domain.protect("db01", primary)
            disk.write(0, b"a" * 4096)
            primary.failing = True
            with pytest.raises(PrimaryFailed):
                disk.write(0, b"b" * 4096)
            primary.failing = False
            said_consistent = domain.consistent
            await domain.wait_consistent()
            after = disk.write(8192, b"c" * 512)
            await domain.uploaded(after)
            assert not said_consistent, "the core opened a gap, the domain does not know of it and owes no copy"
            assert (await recovered(store, after))["db01"] == bytes(primary._bytes)

    asyncio.run(scenario())
