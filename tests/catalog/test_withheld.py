"""An object that a store lists and does not give, whatever the cause, costs what needs it, and says why."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from jetdr_core.catalog import Catalog
from jetdr_core.errors import ChainBroken, DamagedObject, NoSuchPoint, StoreAccessDenied
from jetdr_core.rehydrate import rehydrate
from jetdr_core.store import MemoryStore
from jetdr_core.verify import VerifyReport, verify
from tests.faults.withheld import WITHHELD, Withholding, access_denied
from tests.rehydrate.chains import Chain

SIZE = 64 << 10


async def build() -> Chain:
    """Mark "one" is in segment 2. Segment 3 overwrites half of the disk, and mark "two" is after it."""
    chain = Chain(MemoryStore())
    await chain.begin()
    chain.add_disk(1, "a", SIZE)
    chain.write(1, 0, b"1" * SIZE)
    chain.mark("one")
    await chain.seal()
    chain.write(1, 0, b"2" * (SIZE // 2))
    await chain.seal()
    chain.mark("two")
    await chain.seal()
    return chain


@pytest.mark.parametrize("why", WITHHELD)
def test_points_before_the_object_are_listed(why: str) -> None:
    async def scenario() -> Catalog:
        chain = await build()
        return await Catalog.open(Withholding(chain.store, chain.keys[2], WITHHELD[why]))

    catalog = asyncio.run(scenario())
    assert [point.name for point in catalog.points() if point.name] == ["one"]
    end = str(catalog.chain_break)
    assert "0000000003" in end
    assert ("vanished" if why == "missing" else WITHHELD[why]("k").problem) in end


@pytest.mark.parametrize("why", WITHHELD)
@pytest.mark.parametrize("reads", [0, 1])
def test_verify_names_the_object_and_the_points_that_need_it(why: str, reads: int) -> None:
    """After one read of the object the chain has been followed to its end."""

    async def scenario() -> VerifyReport:
        chain = await build()
        return await verify(Withholding(chain.store, chain.keys[2], WITHHELD[why], reads=reads))

    report = asyncio.run(scenario())
    assert WITHHELD[why]("k").problem in str(report.damage[0])
    survives = {check.point.name: check.survives for check in report.points}
    assert survives["one"]
    assert not survives.get("two", False)


@pytest.mark.parametrize("why", WITHHELD)
@pytest.mark.parametrize("reads", [0, 1, 2])
def test_recovery_fails_only_if_it_needs_the_object_and_says_why(why: str, reads: int, tmp_path: Path) -> None:
    """The reads are those of the chain, of the index and of the data."""

    async def scenario() -> None:
        chain = await build()
        store = Withholding(chain.store, chain.keys[2], WITHHELD[why], reads=reads)
        with pytest.raises((NoSuchPoint, ChainBroken, DamagedObject)) as caught:
            await rehydrate(store, at="mark:two", target=tmp_path / "two", format="raw")
        assert chain.keys[2] in str(caught.value)
        assert re.search("missing|vanished" if why == "missing" else WITHHELD[why]("k").problem, str(caught.value))
        done = await rehydrate(store, at="one", target=tmp_path / "one", format="raw")
        assert done.disks[0].path.read_bytes() == b"1" * SIZE

    asyncio.run(scenario())


@pytest.mark.parametrize("why", WITHHELD)
def test_recovery_that_keeps_going_loses_only_what_the_object_held(why: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        chain = await build()
        store = Withholding(chain.store, chain.keys[2], WITHHELD[why], reads=2)
        done = await rehydrate(store, at="two", target=tmp_path, format="raw", keep_going=True)
        assert done.disks[0].path.read_bytes() == bytes(SIZE // 2) + b"1" * (SIZE // 2)
        (lost,) = done.damaged
        assert (lost.offset, lost.length) == (0, SIZE // 2)
        assert WITHHELD[why]("k").cause in lost.problem

    asyncio.run(scenario())


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_what_is_denied_for_the_whole_container_ends_every_reader(reads: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        chain = await build()

        def denied() -> Withholding:
            return Withholding(chain.store, chain.keys[2], access_denied, reads=reads)

        with pytest.raises(StoreAccessDenied):
            await rehydrate(denied(), at="two", target=tmp_path, format="raw", keep_going=True)
        if reads < 2:
            with pytest.raises(StoreAccessDenied):
                await verify(denied())
        if reads == 0:
            with pytest.raises(StoreAccessDenied):
                await Catalog.open(denied())

    asyncio.run(scenario())
