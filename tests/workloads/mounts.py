"""Mounts a disk image or NBD export as a file system, with nbdfuse, a loop device and mount. Only root can.

Invariant: every context undoes what it did, whatever happens inside. A mount that cannot be undone in time is detached.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.peers.loop import attach

LIMIT_S = 30.0


class MountFailed(Exception):
    """A device or a mount did not appear."""


def why_not() -> str:
    """Return why this process cannot mount, or an empty text if it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    missing = [place for place in ("/dev/fuse", "/dev/loop-control") if not Path(place).exists()]
    return f"there is no {', '.join(missing)}" if missing else ""


@contextlib.contextmanager
def exported_file(nbdfuse: str, uri: str, folder: Path) -> Iterator[Path]:
    """Yield a file in the new ``folder`` that is the NBD export."""
    folder.mkdir()
    place, said = folder / "disk", folder.with_suffix(".said")
    place.touch()
    with said.open("w") as errors, subprocess.Popen([nbdfuse, place, uri], stdout=errors, stderr=errors) as process:
        try:
            deadline = time.monotonic() + LIMIT_S
            while not os.path.ismount(place):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise MountFailed(f"nbdfuse {uri}: {said.read_text()}")
                time.sleep(0.01)
            yield place
        finally:
            try:
                if os.path.ismount(place):
                    _undo(["umount", place])
                    process.wait(LIMIT_S)
            finally:
                process.kill()


@contextlib.contextmanager
def loop_device(file: Path) -> Iterator[str]:
    device = attach(file)
    try:
        yield device
    finally:
        run("losetup", "-d", device)


@contextlib.contextmanager
def mounted(device: str, folder: Path) -> Iterator[Path]:
    """Mount the ext4 file system on ``device`` at the new ``folder``."""
    folder.mkdir()
    run("mount", "-t", "ext4", device, folder)
    try:
        yield folder
    finally:
        _undo(["umount", folder])


def run(*command: str | Path) -> str:
    """Run a command and return what it printed. MountFailed if it failed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        raise MountFailed(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _undo(command: list[str | Path]) -> None:
    try:
        run(*command)
    except (MountFailed, subprocess.TimeoutExpired):
        run(command[0], "--lazy", *command[1:])
        raise
