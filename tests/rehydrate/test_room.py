"""What the file system of the target refuses is told with file, size and remedy, and leaves nothing half done."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetdr_core.cli.exits import ExitCode, exit_code_of
from jetdr_core.errors import JetdrError, TargetExists, TargetFailed, TargetFull
from jetdr_core.rehydrate import rehydrate
from jetdr_core.rehydrate.disk_files import FORMATS
from jetdr_core.rehydrate.target_failure import target_call, target_failure
from jetdr_core.store import MemoryStore, open_store
from tests.children import run_python
from tests.peers.loop import needs_root
from tests.rehydrate.chains import Chain

MIB = 1 << 20
PATH = Path("/target/db01.raw")


async def domain(store: object, *sizes: int) -> Chain:
    chain = Chain(store)  # type: ignore[arg-type]
    await chain.begin()
    for disk, size_bytes in enumerate(sizes, 1):
        chain.add_disk(disk, f"disk{disk}", size_bytes)
        chain.write(disk, 0, os.urandom(MIB))
    await chain.seal()
    return chain


@pytest.fixture
def small_target(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    needs_root()
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def no_file_over_8_mib() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.usefixtures("no_file_over_8_mib")
def test_file_size_limit_is_told_at_once_and_nothing_is_left(tmp_path: Path, format_: str) -> None:
    async def scenario() -> None:
        chain = await domain(MemoryStore(), 4 * MIB, 16 * MIB)
        await rehydrate(chain.store, at="latest", target=tmp_path, format=format_)

    with pytest.raises(
        TargetFull, match=r"disk2\.disk/data \(16777216 bytes\): .*File too large; .*ulimit -f"
    ) as raised:
        asyncio.run(scenario())
    assert exit_code_of(raised.value) == ExitCode.TARGET
    assert list(tmp_path.iterdir()) == []


def test_target_that_is_full_in_between_is_told_and_continued_when_there_is_room(small_target: Path) -> None:
    """Somebody else takes the room that was there when the recovery began."""

    class Filling(MemoryStore):
        async def get_range(self, key: str, offset: int, length: int) -> bytes:
            if offset == 64:
                (small_target / "other").write_bytes(bytes(3 * MIB))
            return await super().get_range(key, offset, length)

    chain = asyncio.run(domain(Filling(), 16 * MIB))
    told = r"disk1\.disk/data \(16777216 bytes\): writing it .*No space.*free space"
    with pytest.raises(TargetFull, match=told) as raised:
        asyncio.run(rehydrate(chain.store, at="latest", target=small_target, format="raw"))
    assert exit_code_of(raised.value) == ExitCode.TARGET
    (small_target / "other").unlink()
    store = MemoryStore(chain.store.url.removeprefix("memory://"))
    asyncio.run(rehydrate(store, at="latest", target=small_target, format="raw"))
    assert (small_target / "disk1.raw").read_bytes() == chain.replay(1, 16 * MIB, chain.lsn)
    assert len(list(small_target.iterdir())) == 1


LOCKLESS = """
#include <errno.h>
int flock(int fd, int how) { errno = ENOLCK; return -1; }
"""


def test_share_without_a_lock_service_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lockless.c").write_text(LOCKLESS)
    library = tmp_path / "lockless.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "lockless.c"], check=True)
    url = (tmp_path / "store").as_uri()
    asyncio.run(domain(open_store(url, create=True), MIB))
    monkeypatch.setenv("LD_PRELOAD", f"{library} {os.environ.get('LD_PRELOAD', '')}".strip())
    script = "import sys; from jetdr_core.cli.app import main; sys.exit(main(sys.argv[1:]))"
    told = run_python(script, "rehydrate", url, "--no-cache", "--at", "latest", "--to", tmp_path / "out")
    assert told.returncode == ExitCode.UNREACHABLE
    assert "disk1.disk/journal: locking it failed: No locks available; start the lock service" in told.stderr
    assert "Traceback" not in told.stderr


ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
IN_THE_WAY = (errno.EEXIST, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EXDEV)


@pytest.mark.parametrize("code", errno.errorcode)
def test_every_errno_names_path_size_call_and_remedy(code: int) -> None:
    error = target_failure(PATH, "writing it", OSError(code, os.strerror(code)), size_bytes=12345)
    expected = TargetFull if code in ROOM else TargetExists if code in IN_THE_WAY else TargetFailed
    assert type(error) is expected
    assert isinstance(error, OSError)
    assert str(PATH) in str(error)
    assert error.hint
    if expected is not TargetExists:
        assert f"(12345 bytes): writing it failed: {os.strerror(code)}" in str(error)
        assert error.errno == code
    assert exit_code_of(error) == (ExitCode.UNREACHABLE if expected is TargetFailed else ExitCode.TARGET)


def test_errors_of_the_engine_pass_as_they_are() -> None:
    told = TargetExists("it exists")
    with pytest.raises(JetdrError) as raised, target_call(PATH, "reading it"):
        raise told
    assert raised.value is told
