"""QEMU is the oracle of a whole machine: it records in its own log what a Linux guest writes to a protected disk.

Now and then the guest is paused. QEMU then waits for requests in flight and flushes the disk, so its log counts all of
its entries, and the domain's last LSN is the state of the disk. The count and the LSN name the same state.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workloads import write_log
from tests.workloads.guest_software import Machine, make_root
from tests.workloads.linux_guest import running
from tests.workloads.protected_disks import ProtectedDisks, protected_disks
from tests.workloads.qemu_io import recorder

ROOT_MB = 48
PAUSES = 10
FILES_BETWEEN = 3


@pytest.fixture
def write_back(store: str) -> bool:
    """Machines boot slowly, so each store runs one mode."""
    return store.startswith("az://")


def test_what_a_guest_wrote_is_what_qemu_recorded(
    tmp_path: Path, store: str, write_back: bool, host: Machine, peer: Callable[[str], str]
) -> None:
    root, log = tmp_path / "root.img", tmp_path / "qemu.log"
    make_root(root, ROOT_MB, peer("busybox"), peer("mkfs.ext4"))
    before = root.read_bytes()
    with protected_disks(tmp_path, store, {"root": root}, write_back=write_back) as protected:
        points = work(host, protected, log)
        protected.end()
        check(protected, before, log, points)
        with protected.recovery(points[-1][1]) as disks:
            assert disks["root"].read_bytes() == root.read_bytes()


def work(host: Machine, protected: ProtectedDisks, log: Path) -> list[tuple[int, int]]:
    """Let a guest work. Return the entries of the log and the LSN at each pause, the last one at its end."""
    node = json.dumps(recorder(protected.uris["root"], log) | {"node-name": "root"})
    points = []
    with running(host, ["-blockdev", node, "-device", "virtio-blk-pci,drive=root"]) as guest:
        for number in range(1, PAUSES + 1):
            guest.said(rf"^done {FILES_BETWEEN * number}\b")
            guest.pause()
            points.append((write_log.count(log), protected.lsn))
            if number < PAUSES:
                guest.resume()
    return points


def check(protected: ProtectedDisks, before: bytes, log: Path, points: list[tuple[int, int]]) -> None:
    image, done = bytearray(before), 0
    writes = list(write_log.entries(log))
    for entries, lsn in points:
        for write in writes[done:entries]:
            write_log.apply(write, image)
        done = entries
        with protected.recovery(lsn) as disks:
            assert disks["root"].read_bytes() == image, f"LSN {lsn} is not the log's first {entries} entries"
    kinds = [write.flags for write in writes]
    print(f"{len(kinds)} entries, {kinds.count(write_log.FLUSH)} flushes, {kinds.count(write_log.DISCARD)} discards")
    assert done == len(writes) > 200
    assert {0, write_log.FLUSH, write_log.DISCARD} <= set(kinds)
