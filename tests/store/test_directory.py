"""What the directory store promises beyond every store: durability step by step, no escape, clear errors."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from jetdr_core.errors import ObjectExists, ObjectNotFound, StoreAccessDenied, StoreError
from jetdr_core.store import DirectoryStore, ObjectStore
from jetdr_core.store.directory import failure_of
from jetdr_core.store.tree import STALE_S, ObjectTree
from tests.children import run_python
from tests.faults.refusal import refusing

RACER = """
import asyncio, pathlib, sys
from jetdr_core.errors import ObjectExists
from jetdr_core.store import DirectoryStore

async def put(store, mark):
    try:
        await store.put_if_absent("chain/00000000/0000000001", [mark.encode() * 50_000])
        print(mark, flush=True)
    except ObjectExists:
        pass

async def main():
    store = DirectoryStore(pathlib.Path(sys.argv[1]), create=True)
    print("ready", flush=True)
    sys.stdin.readline()
    await asyncio.gather(*(put(store, mark) for mark in sys.argv[2]))
    await store.close()

asyncio.run(main())
"""


def on_store(path: Path, scenario: Callable[[DirectoryStore], Awaitable[None]]) -> None:
    async def scene() -> None:
        store = DirectoryStore(path, create=True)
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(scene())


def python(program: str, *arguments: object) -> list[str]:
    """Command of a child that runs ``program`` with the package that this process tests."""
    safe_path = ["-P"] if sys.flags.safe_path else []
    return [sys.executable, *safe_path, "-c", program, *map(str, arguments)]


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()}


async def keys(store: ObjectStore) -> list[str]:
    return [info.key async for info in store.list_prefix("")]


def test_of_sixteen_puts_from_four_processes_exactly_one_wins(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(python(RACER, tmp_path / "c", marks), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for marks in ("abcd", "efgh", "ijkl", "mnop")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    winners = "".join(racer.communicate(timeout=30)[0] for racer in racers).split()
    assert [racer.returncode for racer in racers] == [0] * 4
    assert len(winners) == 1
    assert (tmp_path / "c/chain/00000000/0000000001").read_text() == winners[0] * 50_000


def test_objects_and_directories_are_the_owners_alone(tmp_path: Path) -> None:
    on_store(tmp_path / "new" / "c", lambda store: store.put_if_absent("chain/1", [b"x"]))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    assert modes == {"c": 0o700, ".tmp": 0o700, "chain": 0o700, "1": 0o600}


def test_bytes_are_synced_before_they_get_their_name_and_the_name_before_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, link = os.fsync, os.link

    def traced_fsync(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        steps.append("sync " + ("temporary" if path.parent.name == ".tmp" else path.name))
        fsync(fd)

    def traced_link(source: str, target: str, **options: int | bool) -> None:
        steps.append(f"link {target}")
        link(source, target, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "link", traced_link)
    on_store(tmp_path / "c", lambda store: store.put_if_absent("chain/00/1", [b"x"]))
    assert steps == [
        f"sync {tmp_path.name}",  # the entry of the container
        "sync c",  # of chain
        "sync chain",  # of chain/00
        "sync c",  # of .tmp
        "sync temporary",  # the bytes
        "link 1",
        "sync 00",  # the name
    ]


def test_loser_returns_only_when_the_winners_name_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: DirectoryStore) -> None:
        await store.put_if_absent("chain/1", [b"x"])
        synced: list[str] = []
        fsync = os.fsync

        def traced(fd: int) -> None:
            synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
            fsync(fd)

        monkeypatch.setattr(os, "fsync", traced)
        with pytest.raises(ObjectExists):
            await store.put_if_absent("chain/1", [b"y"])
        assert synced == ["chain"]

    on_store(tmp_path / "c", scenario)


def test_failed_put_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_fd: int, _buffers: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def scenario(store: DirectoryStore) -> None:
        buffer = bytearray(b"x")
        with monkeypatch.context() as patch:
            patch.setattr(os, "writev", failing)
            with pytest.raises(
                StoreError, match=r"'a/1': .*: writing 1 bytes failed: No space left on device; free some"
            ) as caught:
                await store.put_if_absent("a/1", [buffer])
        assert caught.value.transient
        buffer.clear()  # nothing, not even the error, keeps the caller's memory
        assert files(tmp_path / "c") == set()
        await store.put_if_absent("a/1", [b"x"])

    on_store(tmp_path / "c", scenario)


def test_partial_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev

    def stingy(fd: int, buffers: list[memoryview]) -> int:
        return writev(fd, [buffers[0][:7]])

    monkeypatch.setattr(os, "writev", stingy)
    parts = [bytes([number]) * number for number in range(1, 40)]
    on_store(tmp_path / "c", lambda store: store.put_if_absent("k", parts))
    assert (tmp_path / "c/k").read_bytes() == b"".join(parts)


def test_file_size_limit_is_a_lasting_error(tmp_path: Path) -> None:
    child = """
import asyncio, pathlib, resource, sys
from jetdr_core.errors import StoreError
from jetdr_core.store import DirectoryStore
async def main():
    store = DirectoryStore(pathlib.Path(sys.argv[1]), create=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        await store.put_if_absent("k", [bytes(8192)])
    except StoreError as error:
        print(error.transient, error)
    print([info.key async for info in store.list_prefix("")])
    await store.close()
asyncio.run(main())
"""
    command = python(child, tmp_path / "c")
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    failed = f"False put 'k': {tmp_path / 'c'}: writing 8192 bytes failed: File too large"
    assert said == f"{failed}; raise the file size limit (ulimit -f)\n[]\n"
    assert files(tmp_path / "c") == set()


def test_temporary_files_of_dead_writers_are_never_listed_and_are_removed(tmp_path: Path) -> None:
    area = tmp_path / "c" / ".tmp"
    area.mkdir(parents=True)
    old_s, dead, alive = STALE_S + 60, f"1-{'0' * 24}", f"2-{'f' * 24}"
    theirs = {"db01.img": old_s, "2024-report": old_s, f"1-{'0' * 25}": old_s, f"x1-{'0' * 24}": old_s}
    for name, age_s in {dead: old_s, alive: 60.0, **theirs}.items():
        (area / name).write_bytes(b"half")
        now = (area / name).stat().st_mtime
        os.utime(area / name, (now - age_s, now - age_s))

    async def scenario(store: DirectoryStore) -> None:
        assert await keys(store) == []
        await store.put_if_absent("k", [b"x"])
        assert await keys(store) == ["k"]

    on_store(tmp_path / "c", scenario)
    assert files(tmp_path / "c") == {"k", f".tmp/{alive}", *(f".tmp/{name}" for name in theirs)}


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("lost+found", ".hidden", "a b", "ä"):
        (tmp_path / name).write_text("not ours")
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")

    async def scenario(store: DirectoryStore) -> None:
        assert await keys(store) == []
        with pytest.raises(ObjectNotFound):
            await store.get("pipe")

    on_store(tmp_path, scenario)


def test_symbolic_links_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    container = tmp_path / "c"
    container.mkdir()
    (container / "folder").symlink_to(outside)
    (container / "object").symlink_to(outside / "secret")

    async def scenario(store: DirectoryStore) -> None:
        for get in (store.get("folder/secret"), store.get("object"), store.get_range("object", 0, 1)):
            with pytest.raises(StoreError):
                await get
        for put in (store.put_if_absent("folder/new", [b"x"]), store.put_if_absent("object", [b"x"])):
            with pytest.raises(StoreError) as caught:
                await put
            assert not caught.value.transient
            assert not isinstance(caught.value, ObjectExists)
        await store.delete("folder/secret")
        await store.replace("object", [b"ours"])
        assert await keys(store) == ["object"]

    on_store(container, scenario)
    assert files(outside) == {"secret"}
    assert (outside / "secret").read_text() == "secret"


def test_file_in_the_place_of_a_directory_is_named(tmp_path: Path) -> None:
    async def scenario(store: DirectoryStore) -> None:
        await store.put_if_absent("chain", [b"x"])
        with pytest.raises(StoreError, match=r"put 'chain/1': .*: Not a directory; a part of the key is") as caught:
            await store.put_if_absent("chain/1", [b"x"])
        assert not caught.value.transient
        await store.put_if_absent("heartbeat/1", [b"x"])
        for call in (store.put_if_absent("heartbeat", [b"x"]), store.replace("heartbeat", [b"x"])):
            with pytest.raises(StoreError, match="Is a directory; the key is a directory"):
                await call

    on_store(tmp_path / "c", scenario)


def test_directory_that_permits_nothing_is_access_denied(tmp_path: Path) -> None:
    child = """
import asyncio, os, pathlib, sys
from jetdr_core.errors import StoreAccessDenied
from jetdr_core.store import DirectoryStore
async def main():
    store = DirectoryStore(pathlib.Path(sys.argv[1]))
    os.chmod(sys.argv[1], 0)
    if os.geteuid() == 0:  # whom nothing is denied
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
    for call in (store.put_if_absent("l", [b"x"]), store.get("k"), store.delete("k")):
        try:
            await call
        except StoreAccessDenied as error:
            print(error.transient, error)
asyncio.run(main())
"""
    on_store(tmp_path / "c", lambda store: store.put_if_absent("k", [b"x"]))
    command = python(child, tmp_path / "c")
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    (tmp_path / "c").chmod(0o700)
    assert [line.partition(":")[0] for line in said] == ["False put 'l'", "False get 'k'", "False delete 'k'"]
    assert all("Permission denied; check owner and mode" in line for line in said)


@pytest.mark.parametrize(
    ("code", "transient"),
    [
        *((errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, True), (errno.ESTALE, True), (errno.EMFILE, True)),
        *((errno.EROFS, False), (errno.ENOTDIR, False), (errno.ELOOP, False), (errno.EXDEV, False), (0, False)),
        *((errno.EACCES, False), (errno.EPERM, False), (errno.ENODEV, False)),
    ],
)
def test_system_errors_are_classified(code: int, transient: bool) -> None:
    error = failure_of("put", "k", OSError(code, os.strerror(code)), Path("/srv/dr"))
    assert error.transient is transient
    assert os.strerror(code) in str(error)
    assert isinstance(error, StoreAccessDenied) == (code in {errno.EACCES, errno.EPERM})


def test_cancelled_put_returns_only_when_its_buffers_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, may_go_on = threading.Event(), threading.Event()
    create = ObjectTree.create

    def slow(tree: ObjectTree, key: str, views: list[memoryview]) -> None:
        writing.set()
        assert may_go_on.wait(10)
        create(tree, key, views)

    monkeypatch.setattr(ObjectTree, "create", slow)

    async def scenario(store: DirectoryStore) -> None:
        put = asyncio.ensure_future(store.put_if_absent("k", [b"whole"]))
        await asyncio.to_thread(writing.wait, 10)
        for _ in range(3):
            put.cancel()
            await asyncio.sleep(0)
        assert not put.done()
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await put
        assert await store.get("k") == b"whole"

    on_store(tmp_path / "c", scenario)


def test_close_waits_for_what_is_under_way(tmp_path: Path) -> None:
    async def scenario(store: DirectoryStore) -> None:
        puts = [asyncio.ensure_future(store.put_if_absent(f"k/{number}", [bytes(100_000)])) for number in range(20)]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*puts)

    on_store(tmp_path / "c", scenario)
    assert len(files(tmp_path / "c")) == 20


@pytest.mark.parametrize("code", errno.errorcode)
@pytest.mark.parametrize("operation", ["put", "replace", "get", "list", "delete", "open"])
def test_every_errno_names_store_call_and_remedy(operation: str, code: int) -> None:
    refused = OSError(code, os.strerror(code))
    refused.add_note("writing 5 bytes")
    error = failure_of(operation, "k", refused, Path("/srv/dr"))
    if isinstance(error, ObjectExists | ObjectNotFound):
        return
    assert f"/srv/dr: writing 5 bytes failed: {os.strerror(code)}" in str(error)
    assert error.hint


@pytest.mark.parametrize("name", ["EPERM", "EOPNOTSUPP", "ENOSYS", "EINVAL"])
def test_store_without_hard_links_is_told_so(tmp_path: Path, name: str) -> None:
    """exFAT and FAT answer EPERM, which elsewhere means that the user may not."""
    script = (
        "import asyncio, sys; from jetdr_core.store import open_store;"
        "asyncio.run(open_store(sys.argv[1]).put_if_absent('a/b', [b'x']))"
    )
    call = "int linkat(int a, const char *b, int c, const char *d, int e)"
    with refusing(tmp_path, call, name) as environment:
        told = run_python(script, tmp_path.as_uri(), env=environment)
    assert "linking the object to its key failed" in told.stderr
    assert "the file system has no hard links" in told.stderr
    assert "check owner" not in told.stderr
