"""What domain tests share: a small domain over memory devices and a memory store, and its disks rebuilt as bytes."""

from __future__ import annotations

import itertools
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

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


async def rebuilt(store: Any, at: int | datetime | str = "latest") -> dict[str, bytes]:
    """Every disk at that point, as raw bytes by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = await jetdr.rehydrate(store, at=at, target=folder, format="raw")
        return {disk.name: Path(disk.path).read_bytes() for disk in report.disks}  # noqa: ASYNC240
