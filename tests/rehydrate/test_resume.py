"""An interrupted recovery, by a fault or by SIGKILL at any range, is continued by the same call."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from jetdr_core.errors import StoreError, TargetExists
from jetdr_core.rehydrate import DiskReport, Report, rehydrate, transfer
from jetdr_core.rehydrate.disk_files import FORMATS, DiskFiles
from jetdr_core.rehydrate.journal import decode_journal, encode_header
from jetdr_core.store import MemoryStore, ObjectStore, StoreWrapper, open_store
from tests.children import run_python
from tests.rehydrate.chains import Chain
from tests.vmdk.stream_walk import walk

ROOT = Path(__file__).resolve().parents[2]
SEGMENTS = 12
SEGMENT_BYTES = 1 << 20
SIZE = SEGMENTS * SEGMENT_BYTES


class Interrupted(StoreWrapper):
    """Answers ``gets`` reads of frames, then fails each one, or kills the process."""

    def __init__(self, inner: ObjectStore, gets: int, *, kill: bool = False) -> None:
        super().__init__(inner)
        self.gets = gets
        self.kill = kill

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        if offset == 64:  # frames begin there
            self.gets -= 1
            if self.gets < 0 and self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.gets < 0:
                raise StoreError("get range", key, "the line is cut", transient=True)
        return await self._inner.get_range(key, offset, length)


async def build(store: ObjectStore) -> Chain:
    chain = Chain(store)
    await chain.begin()
    chain.add_disk(1, "a", SIZE)
    chain.add_disk(2, "b", SIZE)
    for number in range(SEGMENTS):
        chain.write(1, number * SEGMENT_BYTES, bytes([number + 1]) * 512 * 1024)
        chain.write(2, number * SEGMENT_BYTES, bytes([number + 101]) * 512 * 1024)
        await chain.seal()
    return chain


def assert_whole(chain: Chain, report: Report) -> None:
    for number, disk in enumerate(report.disks, 1):
        path = disk.path.with_name(f"{disk.name}-flat.vmdk")
        assert path.read_bytes() == chain.replay(number, SIZE, report.point.lsn)
        assert disk.bytes_written + disk.bytes_resumed == SIZE // 2
    names = {path.name for path in report.disks[0].path.parent.iterdir()}
    assert names == {"a.vmdk", "a-flat.vmdk", "b.vmdk", "b-flat.vmdk"}


@pytest.mark.parametrize("gets", [0, 1, 5, SEGMENTS - 1])
def test_recovery_whose_store_fails_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gets: int) -> None:
    monkeypatch.setattr(transfer, "SAVE_BYTES", 1)

    async def scenario() -> tuple[Chain, Report]:
        chain = await build(MemoryStore())
        with pytest.raises(StoreError, match="the line is cut"):
            await rehydrate(Interrupted(chain.store, gets), at="latest", target=tmp_path, workers=2)
        assert all(name.startswith(".") for name in os.listdir(tmp_path))
        return chain, await rehydrate(chain.store, at="latest", target=tmp_path)

    chain, report = asyncio.run(scenario())
    assert_whole(chain, report)
    assert all(disk.bytes_resumed >= max(0, gets - 1) * 512 * 1024 for disk in report.disks)


@pytest.mark.parametrize("gets", [1, 7])
def test_recovery_that_was_killed_is_continued(tmp_path: Path, gets: int) -> None:
    script = (
        "import asyncio, sys; from jetdr_core.rehydrate import rehydrate, transfer;"
        "from jetdr_core.store import open_store; from tests.rehydrate.test_resume import Interrupted;"
        "transfer.SAVE_BYTES = 1;"
        "store = Interrupted(open_store(sys.argv[1]), int(sys.argv[3]), kill=True);"
        "asyncio.run(rehydrate(store, at='latest', target=sys.argv[2], workers=1))"
    )
    url, target = (tmp_path / "store").as_uri(), tmp_path / "out"

    chain = asyncio.run(build(open_store(url, create=True)))
    killed = run_python(script, url, target, gets)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert left == {f".jetdr-recovery/{name}.disk/{file}" for name in "ab" for file in ("data", "journal")}
    report = asyncio.run(rehydrate(url, at="latest", target=target))
    assert_whole(chain, report)


def test_continued_recovery_fetches_only_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SAVE_BYTES", 1)

    async def scenario() -> Report:
        chain = await build(MemoryStore())
        with pytest.raises(StoreError):
            await rehydrate(Interrupted(chain.store, 8), at="latest", target=tmp_path, workers=1)
        return await rehydrate(Interrupted(chain.store, SEGMENTS - 8), at="latest", target=tmp_path)

    report = asyncio.run(scenario())
    assert [disk.bytes_resumed for disk in report.disks] == [8 * 512 * 1024] * 2


def test_interrupted_recovery_can_be_finished_disk_by_disk(tmp_path: Path) -> None:
    async def scenario() -> tuple[Chain, Report]:
        chain = await build(MemoryStore())
        with pytest.raises(StoreError):
            await rehydrate(Interrupted(chain.store, 5), at="latest", target=tmp_path, workers=1)
        await rehydrate(chain.store, at="latest", target=tmp_path, disks=["b"])
        assert sorted(os.listdir(tmp_path)) == [".jetdr-recovery", "b-flat.vmdk", "b.vmdk"]
        await rehydrate(chain.store, at="latest", target=tmp_path, disks=["a"])
        return chain, await rehydrate(chain.store, at="latest", target=tmp_path / "fresh")

    chain, report = asyncio.run(scenario())
    assert_whole(chain, report)
    for name in ("a", "b"):
        assert (tmp_path / f"{name}-flat.vmdk").read_bytes() == (tmp_path / f"fresh/{name}-flat.vmdk").read_bytes()


Alter = Callable[[Path], None]


def flip(place: int) -> Alter:
    def alter(path: Path) -> None:
        times = path.stat()
        with path.open("r+b") as file:
            byte = os.pread(file.fileno(), 1, place)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 0x55]), place)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return alter


def scramble(path: Path) -> None:
    with path.open("r+b") as file:
        for place in range(0, SIZE, 4096):
            os.pwrite(file.fileno(), os.urandom(512), place)


ALTERATIONS: dict[str, Alter] = {
    "a byte that was written": flip(1000),
    "the last byte of a piece": flip(512 * 1024 - 1),
    "a byte of a hole": flip(512 * 1024),
    "the last byte of the disk": flip(SIZE - 1),
    "everything": scramble,
    "cut short": lambda path: os.truncate(path, SEGMENT_BYTES + 1),
    "emptied": lambda path: os.truncate(path, 0),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
@pytest.mark.parametrize("format_", FORMATS)
def test_target_that_was_altered_meanwhile_is_found_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, format_: str, alteration: str
) -> None:
    monkeypatch.setattr(transfer, "SAVE_BYTES", 1)
    path = DiskFiles(tmp_path, "a", format_).data

    async def scenario() -> tuple[Chain, Report]:
        chain = await build(MemoryStore())
        with pytest.raises(StoreError):
            await rehydrate(Interrupted(chain.store, 8), at="latest", target=tmp_path, workers=1, format=format_)
        ALTERATIONS[alteration](path)
        return chain, await rehydrate(chain.store, at="latest", target=tmp_path, format=format_)

    chain, report = asyncio.run(scenario())
    for number, disk in enumerate(report.disks, 1):
        assert content(disk, format_) == chain.replay(number, SIZE, report.point.lsn), alteration
    assert f"{path} was changed since it was written" in caplog.text
    changed, untouched = report.disks
    assert changed.bytes_resumed <= 8 * 512 * 1024 == untouched.bytes_resumed
    assert changed.bytes_written + changed.bytes_resumed == SIZE // 2


def content(disk: DiskReport, format_: str) -> bytes:
    """The bytes of a recovered disk."""
    if format_ != "stream":
        return DiskFiles(disk.path.parent, disk.name, format_).outputs[0].read_bytes()
    image = bytearray(disk.size_bytes)
    for step in walk(disk.path.read_bytes()):
        if step.kind == "grain":
            image[step.lba * 512 : step.lba * 512 + len(step.data)] = step.data
    return bytes(image[: disk.size_bytes])


def test_recovery_that_is_altered_again_and_again_ends_with_the_right_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of many runs overlap in one journal: each is right or wrong by itself."""
    monkeypatch.setattr(transfer, "SAVE_BYTES", 1)
    noise = random.Random(5)

    async def scenario() -> tuple[Chain, Report]:
        chain = await build(MemoryStore())
        for gets in (3, 2, 0, 4, 1, 2):
            with pytest.raises(StoreError):
                await rehydrate(Interrupted(chain.store, gets), at="latest", target=tmp_path, workers=1)
            for name in "ab":
                flip(noise.randrange(SIZE))(DiskFiles(tmp_path, name, "flat").data)
        return chain, await rehydrate(chain.store, at="latest", target=tmp_path)

    assert_whole(*asyncio.run(scenario()))


def test_disk_that_was_finished_and_changed_is_neither_called_whole_nor_overwritten(tmp_path: Path) -> None:
    async def scenario() -> None:
        chain = await build(MemoryStore())
        with pytest.raises(TargetExists, match="appeared"):
            await rehydrate(Blocking(chain.store, tmp_path / "b-flat.vmdk"), at="latest", target=tmp_path)
        (tmp_path / "b-flat.vmdk").unlink()
        flip(0)(tmp_path / "a-flat.vmdk")
        before = (tmp_path / "a-flat.vmdk").read_bytes()
        with pytest.raises(TargetExists, match=r"a-flat\.vmdk is not as this recovery wrote it"):
            await rehydrate(chain.store, at="latest", target=tmp_path)
        assert (tmp_path / "a-flat.vmdk").read_bytes() == before
        flip(0)(tmp_path / "a-flat.vmdk")
        assert_whole(chain, await rehydrate(chain.store, at="latest", target=tmp_path))

    asyncio.run(scenario())


class Blocking(StoreWrapper):
    """Puts a file in the way of an output while frames are read."""

    def __init__(self, inner: ObjectStore, path: Path) -> None:
        super().__init__(inner)
        self.path = path

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        if offset == 64:
            self.path.touch()
        return await self._inner.get_range(key, offset, length)


def test_another_point_does_not_continue_an_interrupted_recovery(tmp_path: Path) -> None:
    async def scenario() -> None:
        chain = await build(MemoryStore())
        with pytest.raises(StoreError):
            await rehydrate(Interrupted(chain.store, 5), at="latest", target=tmp_path, workers=1)
        await rehydrate(chain.store, at=chain.lsn - 1, target=tmp_path)

    with pytest.raises(TargetExists, match="belongs to another recovery"):
        asyncio.run(scenario())


@pytest.mark.parametrize("at", ["latest", "-1s", "2026-01-31T12:00:00Z"])
def test_same_words_continue_a_recovery_although_they_name_another_point_now(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    async def scenario() -> tuple[Chain, int, Report]:
        chain = await build(MemoryStore())
        begun = chain.lsn
        with pytest.raises(StoreError):
            await rehydrate(Interrupted(chain.store, 5), at="latest", target=tmp_path, workers=1)
        for name in "ab":
            rename_words(DiskFiles(tmp_path, name, "flat").journal, at)
        chain.write(1, 0, b"new" * 512)
        await chain.seal()
        return chain, begun, await rehydrate(chain.store, at=at, target=tmp_path)

    chain, begun, report = asyncio.run(scenario())
    assert report.point.lsn == begun < chain.lsn
    assert_whole(chain, report)
    assert f"{at!r} named LSN {begun}" in caplog.text or at != "latest"


def rename_words(path: Path, asked: str) -> None:
    """Let the journal be of a recovery that was begun in these words."""
    data = path.read_bytes()
    journal = decode_journal(data, "journal")
    assert journal is not None
    path.write_bytes(encode_header(journal.identity, asked))


def test_other_words_do_not_continue_a_recovery_and_the_refusal_names_its_point(tmp_path: Path) -> None:
    async def scenario() -> None:
        chain = await build(MemoryStore())
        begun = chain.lsn
        with pytest.raises(StoreError):
            await rehydrate(Interrupted(chain.store, 5), at=begun, target=tmp_path, workers=1)
        chain.write(1, 0, b"new" * 512)
        await chain.seal()
        with pytest.raises(TargetExists, match=f"its point is lsn:{begun}"):
            await rehydrate(chain.store, at="latest", target=tmp_path)
        assert_whole(chain, await rehydrate(chain.store, at=f"lsn:{begun}", target=tmp_path))

    asyncio.run(scenario())


def test_cancelled_recovery_leaves_no_thread_behind_and_is_continued(tmp_path: Path) -> None:
    class Waiting(StoreWrapper):
        reached = asyncio.Event()

        async def get_range(self, key: str, offset: int, length: int) -> bytes:
            if offset == 64:
                self.reached.set()
                await asyncio.Event().wait()
            return await self._inner.get_range(key, offset, length)

    async def scenario() -> tuple[Chain, Report]:
        chain = await build(MemoryStore())
        store = Waiting(chain.store)
        running = asyncio.create_task(rehydrate(store, at="latest", target=tmp_path))
        await store.reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return chain, await rehydrate(chain.store, at="latest", target=tmp_path)

    assert_whole(*asyncio.run(scenario()))
