"""A block device or file system that hangs, fails and recovers when a test says so: nbdkit, nbdfuse, a loop device.

Whoever waits for it while it hangs cannot be interrupted, as with a real disk. Only root can make one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.peers.loop import LIMIT_S, attach, needs_root


class SickDisk:
    """``device`` is a loop device. ``folder`` is the file system on it, if it was made with one."""

    def __init__(self, server: subprocess.Popen[bytes], device: str, folder: Path, errors: Path, file: Path) -> None:
        self.device = device
        self._file = file
        self.folder = folder
        self._server = server
        self._errors = errors

    def forget(self) -> None:
        """Mount the file system anew, so that the kernel knows nothing of its files."""
        subprocess.run(["umount", self.folder], check=True)
        subprocess.run(["mount", self.device, self.folder], check=True)

    def forget_device(self) -> None:
        """Have the kernel forget what it knows of the device, so that reads reach the disk."""
        for path in (self.device, self._file):
            with Path(path).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def hang(self) -> None:
        self._server.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._server.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def well_at_the_end(self) -> Iterator[None]:
        """Let go, at the end, whoever waits for the disk, so that a test that fails can end."""
        try:
            yield
        finally:
            self.go_on()
            self.heal()

    def fail(self) -> None:
        """Answer everything with EIO."""
        self._errors.touch()

    def heal(self) -> None:
        self._errors.unlink(missing_ok=True)


@contextlib.contextmanager
def sick_disk(
    find: Callable[[str], str], folder: Path, size: str = "64M", *, mounted: bool = True
) -> Iterator[SickDisk]:
    """Give a disk in memory that is well. ``find`` finds programs. ``mounted``: with a file system on it."""
    needs_root()
    socket, errors, file, mount = (folder / name for name in ("nbd.sock", "errors", "disk", "mount"))
    file.touch()
    mount.mkdir()
    plugin = ["--filter=error", "memory", size, "error=EIO", "error-rate=100%", f"error-file={errors}"]
    with contextlib.ExitStack() as made:
        server = made.enter_context(_file_over_nbd(find, socket, file, plugin))
        device = attach(file)
        made.callback(lambda: subprocess.run(["losetup", "--detach", device], check=True))
        if mounted:
            options = "lazy_itable_init=0,lazy_journal_init=0"
            subprocess.run([find("mkfs.ext4"), "-q", "-E", options, device], check=True)
            subprocess.run(["mount", device, mount], check=True)
            made.callback(lambda: subprocess.run(["umount", "--lazy", mount], check=True))
        disk = SickDisk(server, device, mount, errors, file)
        with disk.well_at_the_end():
            yield disk


@contextlib.contextmanager
def slow_file(find: Callable[[str], str], folder: Path, size: str, bits_per_s: str) -> Iterator[Path]:
    """Give a file in memory that takes no more than so much. The first second is free."""
    needs_root()
    socket, file = folder / "nbd.sock", folder / "disk"
    file.touch()
    plugin = ["--filter=rate", "memory", size, f"rate={bits_per_s}", "burstiness=1"]
    with _file_over_nbd(find, socket, file, plugin):
        yield file


def hanging_threads(pid: int) -> int:
    """Count the threads of a process that wait in a way that nothing can interrupt."""
    states = [_state(thread) for thread in Path(f"/proc/{pid}/task").glob("*/stat")]
    return states.count("D")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(") ")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def _file_over_nbd(
    find: Callable[[str], str], socket: Path, file: Path, plugin: list[str]
) -> Iterator[subprocess.Popen[bytes]]:
    with contextlib.ExitStack() as made:
        server = _started(made, [find("nbdkit"), "--foreground", "--unix", str(socket), *plugin])
        _wait_for(socket.exists)
        made.callback(lambda: subprocess.run(["umount", "--lazy", file], check=False, stderr=subprocess.DEVNULL))
        _started(made, [find("nbdfuse"), str(file), f"nbd+unix:///?socket={socket}"])
        _wait_for(lambda: file.stat().st_size > 0)
        yield server


def _state(stat: Path) -> str:
    try:
        return stat.read_text().rpartition(") ")[2][0]
    except OSError:
        return ""


def _started(made: contextlib.ExitStack, command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    made.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "the disk does not appear"
        time.sleep(0.01)
