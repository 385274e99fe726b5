"""What somebody else put into the target: nothing of it hangs a recovery, is followed, read without end or overwritten.

Every kind of thing is put under every name that a recovery uses. The recovery either refuses it by its path, with a
remedy, or has no use for the name and succeeds with the right bytes.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from jetdr_core.errors import StoreError, TargetExists
from jetdr_core.rehydrate import rehydrate
from jetdr_core.rehydrate.disk_files import FORMATS
from jetdr_core.rehydrate.target_folder import TargetFolder
from jetdr_core.store import MemoryStore
from tests.peers.loop import needs_root
from tests.rehydrate.chains import Chain
from tests.rehydrate.test_resume import Interrupted

SIZE = 256 << 10
DATA = b"d" * 4096
WORK = ".jetdr-recovery"
NAMES = [
    WORK,
    f"{WORK}/db01.disk",
    *(f"{WORK}/db01.disk/{name}" for name in ("journal", "data", "announcing", "owner")),
    *("db01.vmdk", "db01-flat.vmdk", "db01.raw", "vm.vmx", ".db01.journal", ".db01.partial"),
]


def put_socket(path: Path) -> None:
    """The path of a socket is short, so it is bound in its folder."""
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def put_device(path: Path) -> None:
    needs_root()
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero


def put_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def put_huge_journal(path: Path) -> None:
    path.write_bytes(b"JDRRCVJ\0\2\0\0\0\xff\xff\0\0")
    os.truncate(path, 1 << 40)


def put_link_to_file(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"precious")
    path.symlink_to("elsewhere")


def put_hard_link(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(b"precious")
    path.hardlink_to(path.parent / "elsewhere")


def put_full_folder(path: Path) -> None:
    path.mkdir()
    (path / "precious").touch()


KINDS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "socket": put_socket,
    "device": put_device,
    "folder": Path.mkdir,
    "full folder": put_full_folder,
    "file of 1 TiB": put_huge,
    "journal of 1 TiB": put_huge_journal,
    "link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "link to a file": put_link_to_file,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to the folder above": lambda path: path.symlink_to(".."),
    "hard link": put_hard_link,
}


async def domain() -> Chain:
    chain = Chain(MemoryStore())
    await chain.begin()
    chain.add_disk(1, "db01", SIZE)
    chain.write(1, 0, DATA)
    chain.control(10, name="vm.vmx", text="memsize = 4")  # type: ignore[arg-type]
    await chain.seal()
    return chain


def everything(target: Path) -> dict[str, tuple[int, int, int]]:
    """What is there: mode, size and inode by path. Nothing is followed."""
    found = ((path, path.lstat()) for path in target.rglob("*"))
    return {str(path.relative_to(target)): (status.st_mode, status.st_size, status.st_ino) for path, status in found}


def recover(target: Path, format_: str) -> str:
    """The error of a recovery, or an empty text. It has bounded memory."""
    tracemalloc.start()
    try:
        asyncio.run(rehydrate(asyncio.run(domain()).store, at="latest", target=target, format=format_))
    except TargetExists as error:
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20
    return ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_planted_thing_is_refused_by_its_path_or_left_alone(tmp_path: Path, name: str, kind: str) -> None:
    for format_ in FORMATS:
        target = tmp_path / format_
        path = target / name
        path.parent.mkdir(parents=True)
        KINDS[kind](path)
        before = everything(target)
        error = recover(target, format_)
        left = everything(target)
        if error:
            assert str(path) in error or str(path.parent) in error
            assert re.search(r"remove|choose another|move it", error)
            assert before.items() <= left.items()
        else:
            first = (
                target
                / {"flat": "db01-flat.vmdk", "vmfs": "db01-flat.vmdk", "raw": "db01.raw", "stream": "db01.vmdk"}[
                    format_
                ]
            ).read_bytes()
            assert format_ == "stream" or first == DATA.ljust(SIZE, b"\0")
            gone = {lost for lost in before if lost not in left}
            assert all(lost.startswith(WORK) for lost in gone)
        assert not (target / "elsewhere").exists() or (target / "elsewhere").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["journal", "data", ""])
def test_working_files_of_another_user_are_not_continued(tmp_path: Path, name: str) -> None:
    needs_root()

    async def scenario() -> None:
        chain = await domain()
        with suppress(StoreError):
            await rehydrate(Interrupted(chain.store, 0), at="latest", target=tmp_path)
        os.chown(tmp_path / WORK / "db01.disk" / name, 12345, 12345)
        with pytest.raises(TargetExists, match=rf"{name} is another user's \(uid 12345\); remove it"):
            await rehydrate(chain.store, at="latest", target=tmp_path)

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["journal", "data"])
def test_working_files_that_others_may_change_are_not_continued(tmp_path: Path, name: str) -> None:
    async def scenario() -> None:
        chain = await domain()
        with suppress(StoreError):
            await rehydrate(Interrupted(chain.store, 0), at="latest", target=tmp_path)
        (tmp_path / WORK / "db01.disk" / name).chmod(0o666)
        with pytest.raises(TargetExists, match=rf"{name} is a file that others may change \(mode 0666\); remove it"):
            await rehydrate(chain.store, at="latest", target=tmp_path)

    asyncio.run(scenario())


@pytest.mark.parametrize("left", [b"", b"JDR", bytes(64)])
def test_journal_that_was_begun_and_not_yet_durable_holds_nobody_up(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / WORK / "db01.disk" / "journal"
    path.parent.mkdir(parents=True)
    path.write_bytes(left)
    path.chmod(0o600)
    assert recover(tmp_path, "raw") == ""


def test_file_that_is_no_journal_is_not_emptied(tmp_path: Path) -> None:
    path = tmp_path / WORK / "db01.disk" / "journal"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    assert f"{path} is damaged, or no journal; remove it" in recover(tmp_path, "raw")
    assert path.read_bytes() == b"precious"


def test_a_rename_never_replaces_what_has_the_name(tmp_path: Path) -> None:
    with TargetFolder.make(tmp_path) as target, TargetFolder.make(tmp_path / "work") as work:
        (tmp_path / "work/data").write_bytes(b"new")
        (tmp_path / "db01.raw").write_bytes(b"precious")
        with pytest.raises(TargetExists, match=r"db01\.raw is there already; remove it"):
            work.move_file("data", target, "db01.raw")
        (tmp_path / "db01.raw").unlink()
        work.move_file("data", target, "db01.raw")
    assert (tmp_path / "db01.raw").read_bytes() == b"new"


def test_no_more_of_a_file_is_read_than_asked_for(tmp_path: Path) -> None:
    put_huge(tmp_path / "huge")
    with TargetFolder.make(tmp_path) as target:
        assert target.read_file("huge", 5 << 20) == bytes(5 << 20)
        assert target.read_file("nothing", 5) is None
