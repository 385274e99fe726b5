"""Commands that only look are right while the domain is written to: a log or store in use is not called damaged."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import jetdr_core as engine
from tests.cli.jetdr_command import jetdr


class Busy:
    """A domain whose disk is written all the time, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.log, self.url = folder / "log", (folder / "store").as_uri()
        self._primary = folder / "db01.img"
        self._is_up, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def start(self) -> None:
        self._thread.start()
        assert self._is_up.wait(60)

    def stop(self) -> None:
        self._end.set()
        self._thread.join(60)

    async def _run(self) -> None:
        options = engine.DomainOptions(segment_age_s=0.02, ring_bytes=1 << 20, heartbeat_s=0.05)
        domain = engine.ProtectedDomain.create(
            "payroll", log=self.log, log_bytes=4 << 20, store=self.url, options=options
        )
        async with domain as payroll:
            disk = await payroll.protect("db01", self._primary, size_bytes=4 << 20)
            number = 0
            while not self._end.is_set():
                await asyncio.to_thread(disk.write, 4096 * (number % 512), os.urandom(65536))
                await asyncio.to_thread(disk.flush)
                number += 1
                if number == 50:
                    self._is_up.set()


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Busy]:
    busy = Busy(tmp_path)
    busy.start()
    yield busy
    busy.stop()


def test_a_log_and_a_store_in_use_are_not_called_damaged(busy: Busy) -> None:
    log, url = str(busy.log), busy.url
    commands = [["status", url, "--log", log], ["inspect", log], ["verify", url], ["points", url, "--no-cache"]]
    for _ in range(6):
        for command in commands:
            said = jetdr(*command)
            assert (said.code, said.err.count("error")) == (0, 0), (command[0], said)
            assert "DAMAGED" not in said.out
            assert "not in the chain" not in said.out
