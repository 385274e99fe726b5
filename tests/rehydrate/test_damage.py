"""Damage is named and contained: nothing is announced, or, with keep_going, everything else is recovered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jetdr_core.errors import ChainBroken, DamagedObject, TargetExists
from jetdr_core.rehydrate import DamagedExtent, Report, rehydrate
from jetdr_core.segment import HEADER_BYTES, decode_trailer
from jetdr_core.store import MemoryStore
from tests.rehydrate.chains import Chain
from tests.rehydrate.test_resume import Blocking

SIZE = 1 << 20
HALF = SIZE // 2


async def build() -> Chain:
    """Segment 2: both halves of disk a, and disk b. Segment 3: the first half of a again."""
    chain = Chain(MemoryStore())
    await chain.begin()
    chain.add_disk(1, "a", SIZE)
    chain.add_disk(2, "b", SIZE)
    chain.write(1, 0, b"1" * HALF)
    chain.write(1, HALF, b"2" * HALF)
    chain.write(2, 0, b"3" * SIZE)
    await chain.seal()
    chain.write(1, 0, b"4" * HALF)
    await chain.seal()
    return chain


async def damage(chain: Chain, key: str, at: int) -> None:
    data = bytearray(await chain.store.get(key))
    data[at] ^= 1
    await chain.store.replace(key, [bytes(data)])


async def recover(chain: Chain, target: Path, *, keep_going: bool, at: int | str = "latest") -> Report:
    return await rehydrate(chain.store, at=at, target=target, format="raw", keep_going=keep_going)


def test_damaged_frame_is_named_and_nothing_is_announced(tmp_path: Path) -> None:
    async def scenario() -> None:
        chain = await build()
        await damage(chain, chain.keys[2], HEADER_BYTES)
        await recover(chain, tmp_path, keep_going=False)

    with pytest.raises(DamagedObject, match=r"0000000003: disk 'a' \[0, 262144\) of LSN 6: frame at 64: checksum"):
        asyncio.run(scenario())
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())


def test_everything_that_does_not_need_the_damaged_frame_is_recovered(tmp_path: Path) -> None:
    async def scenario() -> tuple[Chain, Report]:
        chain = await build()
        await damage(chain, chain.keys[2], HEADER_BYTES)
        return chain, await recover(chain, tmp_path, keep_going=True)

    chain, report = asyncio.run(scenario())
    (lost,) = report.damaged
    assert lost == report.disks[0].damaged[0]
    assert (lost.disk, lost.offset, lost.length, lost.lsn_first, lost.lsn_last) == ("a", 0, 262144, 6, 6)
    expected = bytearray(chain.replay(1, SIZE, chain.lsn))
    expected[:262144] = bytes(262144)
    assert report.disks[0].path.read_bytes() == expected
    assert report.disks[0].bytes_written == SIZE - 262144
    assert report.disks[1].path.read_bytes() == chain.replay(2, SIZE, chain.lsn)
    assert report.disks[1].damaged == ()


def test_damage_that_the_point_does_not_need_disturbs_nobody(tmp_path: Path) -> None:
    async def scenario() -> tuple[Chain, Report]:
        chain = await build()
        await damage(chain, chain.keys[1], HEADER_BYTES)  # the first frame: overwritten since
        return chain, await recover(chain, tmp_path, keep_going=False)

    chain, report = asyncio.run(scenario())
    assert report.disks[0].path.read_bytes() == chain.replay(1, SIZE, chain.lsn)


def test_segment_that_vanishes_is_named_with_its_lsns(tmp_path: Path) -> None:
    class Forgetful(MemoryStore):
        """Loses the frames of one object, after the catalog was read."""

        async def get_range(self, key: str, offset: int, length: int) -> bytes:
            if key.endswith("2") and offset + length < len(await self.get(key)):
                await self.delete(key)
            return await super().get_range(key, offset, length)

    async def scenario(*, keep_going: bool) -> Report:
        chain = await build()
        store = Forgetful(chain.store.url.removeprefix("memory://"))
        return await rehydrate(store, at="latest", target=tmp_path, format="raw", keep_going=keep_going)

    with pytest.raises(ChainBroken, match=r"segment 2 \(chain/.*, LSN 1 to 5\) has vanished .* disk 'a' \[524288"):
        asyncio.run(scenario(keep_going=False))
    assert not any(path.suffix == ".raw" for path in tmp_path.iterdir())
    report = asyncio.run(scenario(keep_going=True))
    assert [(extent.disk, extent.offset, extent.length) for extent in report.damaged] == [
        ("a", HALF, HALF),
        ("b", 0, SIZE),
    ]
    assert [disk.bytes_written + disk.bytes_resumed for disk in report.disks] == [HALF, 0]


def test_damaged_index_is_named_and_with_keep_going_older_bytes_are_marked(tmp_path: Path) -> None:
    async def scenario(*, keep_going: bool) -> tuple[Chain, Report]:
        chain = await build()
        trailer = decode_trailer(await chain.store.get(chain.keys[2]), "")
        await damage(chain, chain.keys[2], trailer.index_offset)
        return chain, await recover(chain, tmp_path, keep_going=keep_going)

    with pytest.raises(DamagedObject, match=r"0000000003: index of LSN 6 to 6: .*recover a point before LSN 6"):
        asyncio.run(scenario(keep_going=False))
    assert list(tmp_path.iterdir()) == []
    chain, report = asyncio.run(scenario(keep_going=True))
    assert report.disks[0].path.read_bytes() == chain.replay(1, SIZE, chain.lsn - 1)
    assert [(extent.disk, extent.offset, extent.length, extent.lsn_first) for extent in report.damaged] == [
        ("a", 0, SIZE, 6),
        ("b", 0, SIZE, 6),
    ]


def test_extent_reads_as_a_sentence() -> None:
    extent = DamagedExtent("db01", 4096, 512, 7, 9, "key", "problem")
    assert str(extent) == "disk 'db01' [4096, 4608) of LSN 7 to 9"


def test_damage_is_remembered_when_a_recovery_is_continued_after_its_disk_was_finished(tmp_path: Path) -> None:
    async def scenario() -> Report:
        chain = await build()
        await damage(chain, chain.keys[2], HEADER_BYTES)
        (tmp_path / "b.raw").symlink_to("nowhere")
        with pytest.raises(TargetExists):
            await recover(chain, tmp_path, keep_going=True)
        (tmp_path / "b.raw").unlink()
        with pytest.raises(TargetExists, match="appeared"):
            await rehydrate(
                Blocking(chain.store, tmp_path / "b.raw"), at="latest", target=tmp_path, format="raw", keep_going=True
            )
        assert (tmp_path / "a.raw").exists()
        (tmp_path / "b.raw").unlink()
        with pytest.raises(DamagedObject, match="was damaged when the disk was recovered"):
            await recover(chain, tmp_path, keep_going=False)
        return await recover(chain, tmp_path, keep_going=True)

    report = asyncio.run(scenario())
    assert [(extent.disk, extent.offset, extent.length) for extent in report.damaged] == [("a", 0, 262144)]
    assert report.disks[0].bytes_resumed == SIZE - 262144
