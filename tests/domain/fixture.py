"""What domain tests share: a small domain over memory devices and a memory store, and its disks as bytes."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from typing_extensions import Buffer

import jetdr_core as jetdr
from jetdr_core.device import MemoryDevice
from jetdr_core.options import DomainOptions
from jetdr_core.store import MemoryStore

QUICK = DomainOptions(segment_age_s=0.02, ring_bytes=1 << 20, ring_slots=1024, heartbeat_s=60, upload_workers=1)
DISK_BYTES = 256 << 10
LOG_BYTES = 2 << 20

_names = itertools.count()


def fresh_store() -> MemoryStore:
    """A store that nobody else has."""
    return MemoryStore(f"test-{next(_names)}")


def log_device(log_bytes: int = 8 << 20) -> MemoryDevice:
    return MemoryDevice(log_bytes)


def image(primary: MemoryDevice) -> bytes:
    """All that a disk holds."""
    target = bytearray(primary.size_bytes)
    primary.read_into(0, target)
    return bytes(target)


async def recovered(store: Any, at: int | datetime | str = "latest") -> dict[str, bytes]:
    """Every disk at that point, as raw bytes by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = await jetdr.rehydrate(store, at=at, target=folder, format="raw")
        return {disk.name: Path(disk.path).read_bytes() for disk in report.disks}  # noqa: ASYNC240


IMPATIENT = DomainOptions(
    segment_age_s=0.02,
    ring_bytes=1 << 20,
    ring_slots=64,
    heartbeat_s=60,
    upload_workers=1,
    stall_limit_s=0.05,
    close_limit_s=0.5,
)


def new_domain(store: Any, **more: Any) -> jetdr.ProtectedDomain:
    settings: dict[str, Any] = {"log": log_device(), "log_bytes": LOG_BYTES, "options": QUICK} | more
    return jetdr.ProtectedDomain.create("payroll", store=store, **settings)


async def within(limit_s: float, work: Any) -> Any:
    return await asyncio.wait_for(work, limit_s)


class Gate(MemoryDevice):
    """A disk with data whose reads wait until ``open`` is set."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.open = threading.Event()
        self.reading = threading.Event()

    def read_into(self, offset: int, target: Buffer) -> None:
        self.reading.set()
        assert self.open.wait(20)
        super().read_into(offset, target)
