"""The table of older copies, with the store away when the domain is opened. It comes back as it was, or older.

In no combination is a flushed write on a primary overwritten, and none ends consistent with a replica that differs from
the primary. What the store turns out to be never decides what was done before it was asked.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Iterator

import pytest

from jetdr_core.errors import ChainBroken, GenerationMismatch, StoreAway, StoreMissing
from tests.domain.fixture import recovered
from tests.domain.hosted import Machine, until
from tests.domain.test_older_copies import NEW, OLD, WHERE, Stop, copy, names_of, stopped_twice

PARTS = ("log", "disk", "state", "store")  # the runtime folder decides nothing, as the other table shows
EVERY = [dict(zip(PARTS, ages, strict=True)) for ages in itertools.product((OLD, NEW), repeat=len(PARTS))]
MISMATCH = (GenerationMismatch, ChainBroken)


def opens_alone(stop: Stop, ages: dict[str, str]) -> bool:
    """The table: whether the domain opens while its store is away, whatever that holds."""
    log, disk, state = ages["log"], ages["disk"], ages["state"]
    if stop is Stop.THROUGH_LOST_POWER:
        return log == state  # the disks are the truth, behind a gap
    if stop is Stop.BACK_LOST_POWER:
        return log == state == disk
    return log == state and (log, disk) != (OLD, NEW)  # an older disk is resynced


def joins(ages: dict[str, str]) -> bool:
    return ages["log"] == ages["store"]


@pytest.fixture(scope="module", params=Stop, ids=lambda stop: stop.name.lower())
def stopped(request: pytest.FixtureRequest) -> Iterator[tuple[Stop, Machine]]:
    with stopped_twice(request.param) as made:
        yield request.param, made


@pytest.mark.parametrize("ages", EVERY, ids=names_of)
def test_an_older_copy_is_not_taken_for_the_truth_while_the_store_is_away(
    stopped: tuple[Stop, Machine], ages: dict[str, str]
) -> None:
    stop, made = stopped
    for part, age in (ages | {"runtime": NEW}).items():
        copy(made.folder / f"{part}.{age}", WHERE[part](made))
    before, store = made.primary().read_bytes(), made.folder / "store"

    async def alone() -> bool:
        shutil.move(store, made.folder / "aside")
        try:
            async with made.open() as domain:
                assert not domain.status().joined
                shutil.move(made.folder / "aside", store)
                await asyncio.to_thread(until, lambda: domain.status().joined or domain.failure is not None)
                joined = domain.status().joined
                assert joined == joins(ages), domain.failure
                await domain.close(upload=joined, stop_host=True)
        except (StoreAway, StoreMissing):
            shutil.move(made.folder / "aside", store)
            return False
        return True

    async def later() -> None:
        """With its store the domain ends whole, or is refused."""
        try:
            async with made.open() as domain:
                await asyncio.wait_for(domain.wait_consistent(), 20)
                await domain.uploaded(domain.mark("after").lsn)
                await domain.close(stop_host=True)
        except MISMATCH:
            return
        assert (await recovered(made.store, "after"))["db01"] == made.primary().read_bytes()

    assert asyncio.run(alone()) == opens_alone(stop, ages)
    assert made.primary().read_bytes() == before
    asyncio.run(later())
    assert made.primary().read_bytes() == before
    made.end()


@pytest.fixture
def lost_power() -> Iterator[Machine]:
    with stopped_twice(Stop.BACK_LOST_POWER) as made:
        yield made


def test_no_choice_of_what_is_right_is_carried_out_without_the_store(lost_power: Machine) -> None:
    """Only with the store it is known what there is to choose."""
    made = lost_power
    copy(made.folder / "log.old", WHERE["log"](made))
    before = made.primary().read_bytes()
    shutil.rmtree(made.folder / "store")

    async def scenario() -> None:
        async with made.open():
            pass

    with pytest.raises(StoreMissing):
        asyncio.run(scenario())
    assert made.primary().read_bytes() == before
