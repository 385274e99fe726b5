"""Whether a disk is as the log noted it when it was closed, and what is known of one that could not be looked at."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import jetdr_core as jetdr
from tests.domain.fixture import QUICK, recovered


def test_a_disk_that_could_not_be_looked_at_when_the_log_was_closed_is_resynced(tmp_path: Path) -> None:
    """Its folder had been moved away, and nobody knows who wrote to it before it came back."""
    (tmp_path / "disks").mkdir()
    (tmp_path / "store").mkdir()
    disk, url = tmp_path / "disks/a", (tmp_path / "store").as_uri()
    disk.write_bytes(bytes(64 << 10))
    place: dict[str, Any] = {"log": tmp_path / "log", "store": url, "options": QUICK}

    async def scenario() -> None:
        async with jetdr.ProtectedDomain.create("d", log_bytes=4 << 20, **place) as domain:
            await domain.protect("a", disk)
            await domain.uploaded(domain.mark("first").lsn)
            disk.parent.rename(tmp_path / "away")
        (tmp_path / "away").rename(disk.parent)
        disk.write_bytes(b"Z" * (64 << 10))
        async with jetdr.ProtectedDomain.open("d", **place) as domain:
            assert "disk 'a'" in domain.status().changed
            await asyncio.wait_for(domain.wait_consistent(), 20)
            await domain.uploaded(domain.mark("after").lsn)
        assert (await recovered(url, "after"))["a"] == disk.read_bytes()
        async with jetdr.ProtectedDomain.open("d", **place) as domain:
            assert not domain.status().changed

    asyncio.run(scenario())
