"""A host component with disks on a memory file system, and guests' programs run against it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from jetdr_core.host import HostComponent, HostOptions, StartDisk
from tests.host.nbd_client import NbdClient

DISK_BYTES = 16 << 20
NUMBERS = {"boot": 1, "data": 2}

GUEST_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
"""Guests' programs are not ours to check: sanitizers are for the plugin."""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder on tmpfs whose name leaves room for the path of a socket."""
    with TemporaryDirectory(prefix="jetdr-", dir="/dev/shm") as folder:
        yield Path(folder)


def make_disk(path: Path, size_bytes: int = DISK_BYTES) -> Path:
    with path.open("xb") as file:
        file.truncate(size_bytes)
    return path


def pause(pid: int) -> None:
    """SIGSTOP, and wait until no thread of the process runs any more: kill() does not."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 20
    while any(_thread_state(stat) != "T" for stat in Path(f"/proc/{pid}/task").glob("*/stat")):
        assert time.monotonic() < deadline, f"process {pid} does not stop"
        time.sleep(0.001)


def _thread_state(stat: Path) -> str:
    return stat.read_text().rpartition(") ")[2][0]


class Guest:
    """The host component of domain ``vm`` serving ``boot`` and ``data``, and who uses them."""

    def __init__(self, folder: Path, find: Callable[[str], str], **options: object) -> None:
        self.folder = folder
        self._find = find
        self.disks = {name: make_disk(folder / f"{name}.img") for name in NUMBERS}
        self.host = HostComponent("vm", HostOptions(runtime=str(folder / "run"), **options))  # type: ignore[arg-type]

    def start(self, *names: str) -> None:
        self._find("nbdkit")
        self.host.start(
            None,
            disks=[StartDisk(NUMBERS[name], name, DISK_BYTES, str(self.disks[name])) for name in names or NUMBERS],
        )

    def run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._find(program), *arguments],
            check=check,
            capture_output=True,
            text=True,
            timeout=60,
            env=None if program == "nbdkit" else GUEST_ENVIRONMENT,
            cwd=self.folder,
        )

    def uri(self, disk: str) -> str:
        return self.host.nbd_uri(disk)

    def client(self, disk: str) -> NbdClient:
        return NbdClient(str(self.host.folder / "nbd.sock"), disk)

    def qemu_io(self, disk: str, *commands: str) -> str:
        """What qemu-io says to ``commands``; it fails when one of them does."""
        words = [word for command in commands for word in ("-c", command)]
        done = self.run("qemu-io", "-f", "raw", "--cache=none", *words, self.uri(disk), check=False)
        return f"{done.stdout}{done.stderr}exit {done.returncode}"

    def end(self) -> None:
        """Raises when it is there and cannot be asked: it would stay."""
        try:
            self.host.stop()
        finally:
            self.host.control.close()
