"""A primary that is a block device or a partition."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from jetdr_core.device import FileDevice
from jetdr_core.errors import DeviceBusy, HostFailed
from jetdr_core.host import StartDisk
from tests.host.guest import DISK_BYTES, Guest
from tests.peers.loop import loop_device, partition_on_loop_device


@pytest.mark.parametrize("make", [loop_device, partition_on_loop_device])
def test_a_block_device_is_served_whole(
    stopped: Guest, tmp_path: Path, make: Callable[[Path, int], AbstractContextManager[str]]
) -> None:
    with make(tmp_path / "image", DISK_BYTES) as path:
        stopped.host.start(None, disks=[StartDisk(1, "boot", DISK_BYTES, path)])
        (export,) = json.loads(stopped.run("nbdinfo", "--json", "--map", stopped.uri("boot")).stdout)
        assert export["type"] == 0, "the kernel tells no holes of a block device"
        said = stopped.qemu_io(
            "boot",
            f"write -P 5 {DISK_BYTES - (1 << 20)} 1M",
            "write -P 5 0 1M",
            "write -z 0 64k",
            "write -z -u 64k 64k",
            "discard 128k 64k",
            "flush",
            "read -P 0 0 192k",
            "read -P 5 192k 832k",
        )
        assert said.endswith("exit 0")
        stopped.host.stop()
        with open(path, "rb") as device:
            assert device.read(1 << 20) == bytes(192 << 10) + b"\5" * (832 << 10)


def test_a_mounted_block_device_is_refused(stopped: Guest, tmp_path: Path, peer: Callable[[str], str]) -> None:
    with loop_device(tmp_path / "image", DISK_BYTES) as path:
        subprocess.run([peer("mkfs.ext4"), "-q", path], check=True)
        (tmp_path / "mounted").mkdir()
        subprocess.run(["mount", path, str(tmp_path / "mounted")], check=True)
        try:
            with pytest.raises(HostFailed, match=f"{path}: it is in use; unmount it, or end the process"):
                stopped.host.start(None, disks=[StartDisk(1, "boot", DISK_BYTES, path)])
        finally:
            subprocess.run(["umount", path], check=True)


def test_a_block_device_that_is_served_is_refused_to_others_by_any_node(stopped: Guest, tmp_path: Path) -> None:
    with loop_device(tmp_path / "image", DISK_BYTES) as path:
        stopped.host.start(None, disks=[StartDisk(1, "boot", DISK_BYTES, path)])
        os.mknod(tmp_path / "node", 0o600 | stat.S_IFBLK, os.stat(path).st_rdev)
        for node in (path, str(tmp_path / "node")):
            with pytest.raises(DeviceBusy, match="is in use"):
                FileDevice(node, lock=True)
        with pytest.raises(DeviceBusy, match="it is in use; unmount it, or end the process"):
            stopped.host.control.add(2, DISK_BYTES, 0, "again", str(tmp_path / "node"))
        stopped.host.stop()
        FileDevice(str(tmp_path / "node"), lock=True).close()
