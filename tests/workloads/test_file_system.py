"""ext4 on a loop device on a protected disk mounts at any recovery point, is clean, and has what was durable then.

The test notes the domain's last LSN after each durable step of the work. At that LSN, and at every later one, the step
must be there. Where the whole file system was synced and then left alone, the recovered tree is exactly the same.
"""

from __future__ import annotations

import bisect
import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.workloads import file_work
from tests.workloads.file_work import FileWork
from tests.workloads.mounts import exported_file, loop_device, mounted, run, why_not
from tests.workloads.protected_disks import ProtectedDisks, protected_disks

DISK_BYTES = 64 << 20
STEPS = 60
SYNCED_AFTER = (10, 30, 60)
FLUSH_POINTS = 15
OTHER_POINTS = 5


@dataclass
class Notes:
    """What is known of the work, by LSN."""

    lsns: list[int] = field(default_factory=list)
    """The last LSN after each step, once the step was durable."""
    trees: dict[int, dict[str, str]] = field(default_factory=dict)
    """Every file at an LSN at which everything was synced, by LSN."""

    def steps_at(self, lsn: int) -> int:
        return bisect.bisect_right(self.lsns, lsn)


@pytest.fixture
def tools(peer: Callable[[str], str]) -> dict[str, str]:
    if why := why_not():
        pytest.skip(why)
    return {name: peer(name) for name in ("nbdfuse", "losetup", "mount", "mkfs.ext4", "e2fsck", "git", "umount")}


def test_file_system_and_databases_are_whole_at_every_point(
    tmp_path: Path, store: str, write_back: bool, tools: dict[str, str]
) -> None:
    with protected_disks(tmp_path, store, {"disk": DISK_BYTES}, write_back=write_back) as protected:
        notes = Notes()
        with file_system(tmp_path / "guest", protected.uris["disk"], tools) as root, closing_work(root) as work:
            do_work(work, protected, notes)
        lsn_last = protected.lsn
        protected.end()
        for lsn in [*points(notes), lsn_last]:
            check_point(protected, lsn, notes, tools)
        with protected.recovery() as newest:
            assert newest["disk"].read_bytes() == protected.primaries["disk"].read_bytes()


@contextlib.contextmanager
def file_system(folder: Path, uri: str, tools: dict[str, str]) -> Iterator[Path]:
    """Make and mount a file system on the NBD export."""
    folder.mkdir()
    with (
        exported_file(tools["nbdfuse"], uri, folder / "export") as file,
        loop_device(file) as device,
    ):
        run(tools["mkfs.ext4"], "-q", device)
        with mounted(device, folder / "root") as root:
            yield root


@contextlib.contextmanager
def closing_work(root: Path) -> Iterator[FileWork]:
    with contextlib.closing(FileWork(root)) as work:
        yield work


def do_work(work: FileWork, protected: ProtectedDisks, notes: Notes) -> None:
    for _ in range(STEPS):
        number = work.step()
        notes.lsns.append(protected.lsn)
        if number in SYNCED_AFTER:
            work.unpack_and_commit()
            run("sync", "--file-system", work.root)
            notes.trees[protected.lsn] = file_work.manifest(work.root)


def points(notes: Notes) -> list[int]:
    """Return LSNs after steps, LSNs in the middle of a step, and those at which the whole tree is known."""
    chance = random.Random(0)
    others = chance.sample(range(notes.lsns[0], notes.lsns[-1]), OTHER_POINTS)
    return sorted({notes.lsns[0], *chance.sample(notes.lsns, FLUSH_POINTS), *others, *notes.trees})


def check_point(protected: ProtectedDisks, lsn: int, notes: Notes, tools: dict[str, str]) -> None:
    steps = notes.steps_at(lsn)
    print(f"LSN {lsn}: {steps} steps, {'the whole tree' if lsn in notes.trees else 'no tree noted'}")
    with protected.recovery(lsn) as disks:
        image = disks["disk"]
        with loop_device(image) as device, mounted(device, image.parent / "root") as root:
            if lsn in notes.trees:
                assert file_work.manifest(root) == notes.trees[lsn]
                run(tools["git"], "-C", root / "tree", "fsck", "--strict")
            file_work.check(root, steps)
        run(tools["e2fsck"], "-fn", image)
