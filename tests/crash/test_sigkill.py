"""A writer killed in mid-write: with the log intact nothing flushed is missing, and what is there is a prefix."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import jetdr_core as jetdr
from jetdr_core.errors import InstantInGap
from tests.crash import writer
from tests.domain.fixture import recovered


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_writer_loses_nothing_it_flushed(tmp_path: Path, log_place: str, seed: int) -> None:
    lsn_ready, lsn_flushed = kill_a_writer(tmp_path, seed, log_place)
    asyncio.run(check(tmp_path, seed, log_place, lsn_ready, lsn_flushed))


def kill_a_writer(folder: Path, seed: int, log: str) -> tuple[int, int]:
    """Run the writer until it has flushed a number of times, then SIGKILL it; returns (LSN when ready, LSN flushed)."""
    (folder / "store").mkdir()
    flushes = random.Random(seed).randrange(3, 40)
    ready = flushed = 0
    command = [sys.executable, writer.__file__, str(folder), str(seed), log]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            word, lsn = line.split()
            ready, flushed = (int(lsn), flushed) if word == "ready" else (ready, int(lsn))
            flushes -= word == "flushed"
            if flushes == 0:
                process.send_signal(signal.SIGKILL)
                break
        rest = [int(line.split()[1]) for line in process.stdout if line.startswith("flushed") and line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    return ready, max([flushed, *rest])


async def check(folder: Path, seed: int, log: str, lsn_ready: int, lsn_flushed: int) -> None:
    store = f"file://{folder}/store"
    disks = {"db01": folder / "db01.img"}
    async with jetdr.ProtectedDomain.open(
        "payroll", log=log, store=store, disks=disks, options=writer.OPTIONS
    ) as domain:
        lsn_recovered = domain.status().lsn_recovered
        assert lsn_recovered >= lsn_flushed
        assert not domain.consistent or domain.status().lsn_reserved > lsn_recovered
        await domain.wait_consistent()
    primary = (folder / "db01.img").read_bytes()
    assert await recovered(store) == {"db01": primary}
    chance = random.Random(seed)
    for lsn in {lsn_recovered, lsn_flushed, chance.randint(lsn_ready, lsn_recovered)}:
        assert await recovered(store, lsn) == {"db01": state_at(seed, lsn - lsn_ready)}
    with pytest.raises(InstantInGap):
        await recovered(store, lsn_recovered + 1)


def state_at(seed: int, changes: int) -> bytes:
    """The disk after that many changes of the sequence."""
    image = bytearray(writer.DISK_BYTES)
    for change, _ in zip(writer.sequence(seed), range(changes), strict=False):
        image[change.offset : change.offset + change.length] = change.data or bytes(change.length)
    return bytes(image)
