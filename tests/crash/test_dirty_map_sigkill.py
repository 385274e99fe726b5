"""A process is killed: only what its dirty map has marked is copied, and any doubt about the map costs a full copy."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import jetdr_core as jetdr
from tests.crash import map_writer
from tests.crash.map_writer import DISK_BYTES, OPTIONS
from tests.domain.fixture import recovered

MAP = "db01.img.jetdr-map"


def kill(folder: Path, story: str) -> int:
    """Live a story until it ends in SIGKILL; returns the bytes that may be copied afterwards."""
    (folder / "store").mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, map_writer.__file__, folder, story],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return int(done.stdout)


async def reopen(folder: Path) -> int:
    """Open the domain, wait until it is consistent, and compare; returns the bytes that were copied."""
    store = f"file://{folder}/store"
    async with jetdr.ProtectedDomain.open(
        "payroll", log=folder / "log.img", store=store, disks={"db01": folder / "db01.img"}, options=OPTIONS
    ) as domain:
        await domain.wait_consistent()
        copied = domain.status().disks[0].copied_bytes
    assert await recovered(store) == {"db01": (folder / "db01.img").read_bytes()}
    return copied


def test_after_a_kill_only_what_was_marked_is_copied(tmp_path: Path) -> None:
    limit = kill(tmp_path, "write")
    copied = asyncio.run(reopen(tmp_path))
    assert 0 < copied <= limit
    assert asyncio.run(reopen(tmp_path)) == 0, "the domain was closed clean"


def test_an_initial_copy_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "db01.img").write_bytes(os.urandom(DISK_BYTES))
    limit = kill(tmp_path, "copy")
    assert asyncio.run(reopen(tmp_path)) <= limit < DISK_BYTES


def flip(folder: Path) -> None:
    """Damage both copies of the only block."""
    raw = bytearray((folder / MAP).read_bytes())
    for at in (4096 + 100, len(raw) // 2 + 4096 + 100):
        raw[at] ^= 1
    (folder / MAP).write_bytes(raw)


def link(folder: Path) -> None:
    (folder / MAP).rename(folder / "elsewhere")
    (folder / MAP).symlink_to(folder / "elsewhere")


def give_another_name(folder: Path) -> None:
    """Whoever may write in the folder could give the map's name to a file that this user has elsewhere."""
    (folder / "elsewhere").hardlink_to(folder / MAP)


def replace_disk(folder: Path) -> None:
    """Restore the disk from a backup, which lacks what was written since."""
    raw = bytearray((folder / "db01.img").read_bytes())
    raw[1 << 20 : 2 << 20] = bytes(1 << 20)
    (folder / "restored").write_bytes(raw)
    (folder / "restored").rename(folder / "db01.img")


def copy_map(folder: Path) -> None:
    """Move the disk, with its map, to another file."""
    shutil.copy2(folder / "db01.img", folder / "copy")
    (folder / "copy").rename(folder / "db01.img")


@pytest.mark.parametrize(
    "doubt",
    [
        lambda folder: (folder / MAP).unlink(),
        lambda folder: (folder / MAP).write_bytes(b""),
        lambda folder: (folder / MAP).chmod(0o666),
        flip,
        link,
        give_another_name,
        replace_disk,
        copy_map,
    ],
    ids=["lost", "empty", "of others", "damaged", "a link", "two names", "disk restored", "disk copied"],
)
def test_a_map_in_doubt_costs_a_full_copy(tmp_path: Path, doubt: Callable[[Path], object]) -> None:
    kill(tmp_path, "write")
    doubt(tmp_path)
    assert asyncio.run(reopen(tmp_path)) == DISK_BYTES


def test_a_domain_taken_over_with_a_new_log_believes_no_map(tmp_path: Path) -> None:
    kill(tmp_path, "write")
    store = f"file://{tmp_path}/store"

    async def take_over() -> int:
        domain = jetdr.ProtectedDomain.take_over(
            "payroll",
            log=tmp_path / "log2.img",
            log_bytes=64 << 20,
            store=store,
            disks={"db01": tmp_path / "db01.img"},
            options=OPTIONS,
        )
        async with domain:
            await domain.wait_consistent()
            copied = domain.status().disks[0].copied_bytes
        assert await recovered(store) == {"db01": (tmp_path / "db01.img").read_bytes()}
        return copied

    assert asyncio.run(take_over()) == DISK_BYTES
