"""The store is away when a hosted domain is opened: guests are served, the log takes writes, and nothing is lost.

Nor is anything called stored, and nothing is uploaded into a history that is not this log's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import Fenced, GenerationMismatch, InvalidRequest, StoreAway, StoreError
from tests.domain.fixture import recovered
from tests.domain.hosted import (
    DISK_BYTES,
    LOG_BYTES,
    LONGEST_S,
    Drva,
    Load,
    Machine,
    assert_replica_equals_primary,
    gaps,
    machine,
    until,
)

BACK, THROUGH = {"write_back": True}, {"write_back": False}
BOTH = pytest.mark.parametrize("made", [THROUGH, BACK], indirect=True, ids=["through", "back"])


@pytest.fixture
def made(peer: Callable[[str], str], request: pytest.FixtureRequest) -> Iterator[Machine]:
    peer("nbdkit")
    with machine(**getattr(request, "param", THROUGH)) as one:
        yield one


def take_away(made: Machine) -> Callable[[], object]:
    """The store's directory goes. The result brings it back."""
    store, aside = made.folder / "store", made.folder / "aside"
    store.rename(aside)
    return lambda: shutil.move(aside, store)


def write(made: Machine, block: int, text: bytes, *, flush: bool = True) -> None:
    """Without a DRVA a flush would not be durable in the log in time, and logging would go off."""
    with made.client() as guest:
        guest.write(4096 * block, text * 4096)
        if flush:
            guest.flush()


def created(made: Machine) -> None:
    """A domain with one disk and a block on it, whose processes then all die."""
    with Drva(made, "create") as drva:
        write(made, 0, b"A")
        drva.ask("equal")
        drva.kill()


async def ends_whole(made: Machine, *, gap: bool = False) -> None:
    """The domain is joined, without a gap, and replica and primary are equal: now, and when it is opened again."""
    async with made.open() as domain:
        await asyncio.to_thread(until, lambda: domain.status().joined)
        await asyncio.wait_for(domain.wait_consistent(), 20)
        assert bool(gaps(domain)) == gap, gaps(domain)
        await assert_replica_equals_primary(domain, made)
        assert domain.status().lsn_uploaded == domain.status().lsn_reserved
        await domain.close(stop_host=True)
    async with made.open() as domain:
        assert domain.consistent
        await domain.close(stop_host=True)


@BOTH
def test_guests_are_served_and_logged_without_the_store_and_nothing_is_missing_later(made: Machine) -> None:
    created(made)
    back = take_away(made)

    async def scenario() -> None:
        async with made.open() as domain:
            with Load(made, pause_s=0.02, flushes=False) as load:  # the small log has room, however busy the machine
                status = domain.status()
                assert not status.joined
                assert status.unjoined_since_ns > 0
                assert "does not exist" in status.store_away
                assert status.host is not None
                assert status.host.logging
                await asyncio.to_thread(load.goes_on)
                point = domain.mark("while the store was away")
                await domain.make_durable()
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(domain.uploaded(point.lsn), 0.5)
                status = domain.status()
                assert status.segments_uploaded == 0
                assert status.lsn_uploaded < point.lsn
                assert status.rpo_s > 0
                assert status.consistent
                back()
                await asyncio.wait_for(domain.uploaded(point.lsn), 20)
                assert domain.status().joined
                assert domain.status().store_away_s == 0
            assert load.longest_s < LONGEST_S
            assert not gaps(domain)
        assert point.lsn in {found.lsn for found in await marks(made)}
        await ends_whole(made)

    asyncio.run(scenario())


async def marks(made: Machine) -> list[Any]:
    async with await jetdr.Catalog.open(made.store) as catalog:
        return list(catalog.history.marks.values())


@BOTH
@pytest.mark.parametrize("in_order", [True, False], ids=["in order", "killed"])
def test_any_number_of_restarts_without_the_store_is_no_mismatch(made: Machine, in_order: bool) -> None:
    created(made)
    back = take_away(made)
    for nth in range(1, 4):
        with Drva(made, "open") as drva:
            assert not drva.opened["joined"]
            write(made, nth, b"%d" % nth)
            if in_order:
                drva.ask("pause")  # else it would wait for the upload
                drva.close(stop_host=nth == 2)
            else:
                drva.kill()
    back()
    asyncio.run(ends_whole(made))
    held = asyncio.run(recovered(made.store))["db01"]
    assert [held[4096 * nth : 4096 * nth + 1] for nth in range(4)] == [b"A", b"1", b"2", b"3"]


STEPS = {
    "before it is noted": ("jetdr_core.domain.known_file", "KnownKeeper.beginning", 0),
    "before the log begins": ("jetdr_core.replication_log", "ReplicationLog.begin", 0),
    "after the log has begun": ("jetdr_core.domain.known_file", "KnownKeeper.begun", 0),
    "before the ring": ("jetdr_core.domain.hosting.resumption", "HostedResumption.begin_ring", 0),
    "before guests": ("jetdr_core.domain.hosting.hosted_mode", "HostedMode._serve_known", 0),
    "before the claim": ("jetdr_core.uploader", "ChainWriter.claim", 1),
    "after the claim": ("jetdr_core.domain.known_file", "KnownKeeper.joined", 1),
    "before the upload": ("jetdr_core.uploader", "Uploader.start", 1),
    "after the first object": ("jetdr_core.uploader.store_watch", "StoreWatch.stored", 1),
}
"""Where the DRVA dies: what it is about to call, and whether the store is there by then."""


@BOTH
@pytest.mark.parametrize("step", STEPS)
def test_a_drva_that_dies_between_begin_claim_and_upload_leaves_no_gap(made: Machine, step: str) -> None:
    module, name, has_store = STEPS[step]
    created(made)
    back = take_away(made)
    write(made, 1, b"B", flush=False)
    with Drva(made, "open", dies_at=(module, name), expect_open=bool(has_store)) as drva:
        if has_store:
            write(made, 2, b"C")
            back()
        drva.died()
    write(made, 3, b"D", flush=False)
    if not has_store:
        with Drva(made, "open") as drva:  # still without the store
            assert not drva.opened["joined"]
            write(made, 4, b"E")
            drva.kill()
        back()
    asyncio.run(ends_whole(made))


@BOTH
@pytest.mark.parametrize("step", [step for step, where in STEPS.items() if where[2]])
def test_a_store_that_is_away_again_after_a_claim_is_joined_all_the_same(made: Machine, step: str) -> None:
    """The DRVA does not take its own claim for that of another owner."""
    module, name, _ = STEPS[step]
    created(made)
    back = take_away(made)
    with Drva(made, "open", dies_at=(module, name)) as drva:
        write(made, 1, b"B")
        back()
        drva.died()
    back = take_away(made)
    with Drva(made, "open") as drva:
        assert not drva.opened["joined"]
        write(made, 2, b"C")
        back()
        until(lambda: drva.ask("status")["joined"] or drva.ask("status")["failure"])
        assert drva.ask("status")["joined"], drva.ask("status")["failure"]
        drva.kill()
    asyncio.run(ends_whole(made))


@BOTH
def test_power_is_lost_without_the_store(made: Machine) -> None:
    """Write-through owes a gap, as with the store. In write-back the log is replayed on the word of all others."""
    created(made)
    back = take_away(made)
    with Drva(made, "open") as drva:
        write(made, 1, b"B")
        drva.kill()
        made.kill_host()
    lose_runtime_folder(made)

    async def scenario() -> None:
        async with made.open() as domain:
            assert not domain.status().joined
            write(made, 2, b"C")
            back()
            await ended_whole(domain, made)
        assert bool(gaps_in(await history(made))) != made.write_back

    asyncio.run(scenario())
    held = made.primary().read_bytes()
    assert [held[4096 * nth : 4096 * nth + 1] for nth in range(3)] == [b"A", b"B", b"C"]


async def ended_whole(domain: jetdr.HostedDomain, made: Machine) -> None:
    await asyncio.to_thread(until, lambda: domain.status().joined)
    await asyncio.wait_for(domain.wait_consistent(), 20)
    await assert_replica_equals_primary(domain, made)
    await domain.close(stop_host=True)


async def history(made: Machine) -> Any:
    catalog = await jetdr.Catalog.open(made.store)
    async with catalog:
        return catalog.history


def gaps_in(found: Any) -> list[str]:
    return [gap.reason for gap in found.gaps]


def lose_runtime_folder(made: Machine) -> None:
    shutil.rmtree(made.folder / "run")
    (made.folder / "run").mkdir(mode=0o700)


# -- when the store is needed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [BACK], indirect=True, ids=["back"])
def test_a_log_is_not_replayed_without_store_and_stamp(made: Machine) -> None:
    created(made)
    made.kill_host()
    lose_runtime_folder(made)
    os.removexattr(made.primary(), "user.jetdr")
    before = made.primary().read_bytes()
    take_away(made)
    with pytest.raises(StoreAway, match="waits for its store"):
        asyncio.run(opened(made))
    assert made.primary().read_bytes() == before


async def opened(made: Machine) -> None:
    async with made.open():
        pass


@BOTH
@pytest.mark.parametrize("lost", ["known", "all of it"])
def test_without_what_is_known_the_store_is_waited_for(made: Machine, lost: str) -> None:
    created(made)
    back = take_away(made)
    if lost == "known":
        (made.folder / "state/vm/known").write_bytes(b"{}\n")
    else:
        shutil.rmtree(made.folder / "state")
    with pytest.raises(InvalidRequest, match="does not exist"):
        asyncio.run(opened(made))
    back()
    asyncio.run(ends_whole(made))


def test_an_older_log_is_not_opened_without_the_store(made: Machine) -> None:
    created(made)
    made.host.stop()
    shutil.copy(made.log, made.folder / "older")
    with Drva(made, "open") as drva:
        write(made, 1, b"B")
        drva.close(stop_host=True)
    shutil.copy(made.folder / "older", made.log)
    take_away(made)
    with pytest.raises(InvalidRequest, match="does not exist"):
        asyncio.run(opened(made))


def test_a_store_that_refuses_us_or_is_empty_is_not_away(made: Machine) -> None:
    created(made)
    take_away(made)
    (made.folder / "store").mkdir()
    with pytest.raises(InvalidRequest, match="holds no protected domain"):
        asyncio.run(opened(made))


# -- what the store turns out to be ------------------------------------------------------------------------------------


@BOTH
def test_another_owner_has_taken_the_domain_over_meanwhile(made: Machine) -> None:
    """Ours is fenced, logging goes off, guests go on, and nothing of ours is in the other's history."""
    created(made)
    back = take_away(made)

    async def scenario() -> None:
        async with made.open() as domain:
            write(made, 1, b"B")
            shutil.copytree(made.folder / "aside", made.folder / "other")
            url = (made.folder / "other").as_uri()
            disk = MemoryDevice(DISK_BYTES)
            other = jetdr.ProtectedDomain.take_over(
                "vm", log=MemoryDevice(16 << 20), log_bytes=LOG_BYTES, store=url, disks={"db01": disk}
            )
            async with other as owner:
                owner.disk("db01").write(0, b"Z" * 4096)
                await owner.wait_consistent()
                await owner.uploaded(owner.mark("theirs").lsn)
            objects = sorted((made.folder / "other").rglob("*.jseg"))
            shutil.rmtree(made.folder / "aside")
            (made.folder / "other").rename(made.folder / "aside")
            back()
            await asyncio.to_thread(until, lambda: domain.failure is not None)
            assert isinstance(domain.failure, Fenced)
            status = domain.status()
            assert not status.joined
            assert status.host is not None
            assert not status.host.logging
            with Load(made) as load:
                await asyncio.to_thread(load.goes_on)
            assert load.longest_s < LONGEST_S
            assert len(sorted((made.folder / "store").rglob("*.jseg"))) == len(objects)
            with pytest.raises(Fenced):
                await domain.uploaded(1)
            with pytest.raises(Fenced):
                await domain.close()

    asyncio.run(scenario())
    assert asyncio.run(recovered(made.store, "theirs"))["db01"][:1] == b"Z"


@BOTH
def test_an_older_store_comes_back_and_the_domain_is_opened_again_with_full_knowledge(made: Machine) -> None:
    created(made)
    shutil.copytree(made.folder / "store", made.folder / "older")
    with Drva(made, "open") as drva:
        write(made, 1, b"B")
        drva.ask("equal")
        drva.kill()
    take_away(made)

    async def scenario() -> None:
        async with made.open() as domain:
            write(made, 2, b"C")
            shutil.copytree(made.folder / "older", made.folder / "store")
            await asyncio.to_thread(until, lambda: domain.failure is not None)
            assert not isinstance(domain.failure, Fenced | StoreError)
            assert not domain.status().joined
            with pytest.raises(GenerationMismatch, match="opened again"):
                await domain.close()

    asyncio.run(scenario())
    assert not any(path.is_file() for path in changed_files(made.folder / "older", made.folder / "store"))


def changed_files(before: Path, after: Path) -> list[Path]:
    known = {path.relative_to(before) for path in before.rglob("*")}
    return [path for path in after.rglob("*") if path.relative_to(after) not in known]


def test_an_empty_directory_is_an_unmounted_store_for_a_domain_that_is_open(made: Machine) -> None:
    created(made)
    back = take_away(made)

    async def scenario() -> None:
        async with made.open() as domain:
            (made.folder / "store").mkdir()
            await asyncio.to_thread(until, lambda: "is empty" in domain.status().store_away)
            (made.folder / "store").rmdir()
            back()
            await ended_whole(domain, made)

    asyncio.run(scenario())
    asyncio.run(ends_whole(made))


def test_what_was_protected_and_marked_before_is_there_without_the_store(made: Machine) -> None:
    """Control records that the log has trimmed are in the known file."""

    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            await domain.protect("db02", made.primary("db02"), size_bytes=DISK_BYTES)
            for nth in range(3):
                await domain.uploaded(domain.mark(f"m{nth}").lsn)
            await domain.unprotect("db02")
            await domain.uploaded(domain.status().lsn_reserved)
        with Drva(made, "open") as drva:  # whatever it trims, it keeps
            write(made, 0, b"A")
            drva.ask("equal")
            drva.close(stop_host=True)
        back = take_away(made)
        async with made.open() as domain:
            assert list(domain.disks) == ["db01"]
            known = domain._alive.control_log.history
            assert {"m0", "m1", "m2"} <= set(known.marks)
            with pytest.raises(jetdr.errors.DuplicateMark):
                domain.mark("m1")
            back()
            await ended_whole(domain, made)

    asyncio.run(scenario())
