"""A store that goes away as a whole during a recovery or a verification is no damage of its objects, one by one."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from jetdr_core.errors import StoreLost
from jetdr_core.rehydrate import rehydrate
from jetdr_core.store import DirectoryStore, ObjectStore, StoreWrapper
from jetdr_core.verify import verify
from tests.rehydrate.chains import Chain

BLOCK = 64 << 10
SEGMENTS = 6


async def build(store: ObjectStore) -> Chain:
    chain = Chain(store)
    await chain.begin()
    chain.add_disk(1, "a", SEGMENTS * BLOCK)
    await chain.seal()
    for number in range(SEGMENTS):
        chain.write(1, number * BLOCK, random.Random(number).randbytes(BLOCK))
        await chain.seal()
    return chain


class Unmounted(StoreWrapper):
    """Somebody takes the directory away when the first frame is asked for."""

    def __init__(self, inner: ObjectStore, path: Path) -> None:
        super().__init__(inner)
        self.path = path

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        if offset <= 64 and length >= BLOCK and self.path.exists():  # no footer is so long
            self.path.rename(self.path.with_name("away"))
        return await self._inner.get_range(key, offset, length)


def test_recovery_that_keeps_going_stops_when_the_store_is_lost_and_is_continued(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "store"
        store = DirectoryStore(path, create=True)
        chain = await build(store)
        with pytest.raises(StoreLost):
            await rehydrate(Unmounted(store, path), at="latest", target=tmp_path / "out", format="raw", keep_going=True)
        assert not (tmp_path / "out" / "a.raw").exists()
        (tmp_path / "away").rename(path)
        report = await rehydrate(store, at="latest", target=tmp_path / "out", format="raw", keep_going=True)
        assert not report.damaged
        assert (tmp_path / "out" / "a.raw").read_bytes() == chain.replay(1, SEGMENTS * BLOCK, chain.lsn)
        await store.close()

    asyncio.run(scenario())


def test_verification_stops_when_the_store_is_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "store"
        store = DirectoryStore(path, create=True)
        await build(store)
        with pytest.raises(StoreLost):
            await verify(Unmounted(store, path), settle_s=0)
        await store.close()

    asyncio.run(scenario())
