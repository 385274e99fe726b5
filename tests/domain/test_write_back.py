"""Write-back: the log acknowledges, and the primaries follow. A crash at any instant loses nothing that was flushed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

import pytest

import jetdr_core as jetdr
from jetdr_core.domain.hosting import bypass
from jetdr_core.errors import InvalidRequest
from tests.domain.fixture import recovered
from tests.domain.hosted import (
    DISK_BYTES,
    LONGEST_S,
    Drva,
    Load,
    Machine,
    assert_replica_equals_primary,
    gaps,
    machine,
    until,
)


@pytest.fixture
def made(peer: Callable[[str], str]) -> Iterator[Machine]:
    peer("nbdkit")
    with machine(write_back=True) as one:
        yield one


def write_and_flush(made: Machine, seed: int, writes: int = 300) -> bytes:
    """Write at random and flush; what the disk then holds, as a guest reads it. Reads are checked on the way."""
    chance = random.Random(seed)
    with made.client() as guest:
        model = bytearray(guest.read(0, DISK_BYTES))
        for _ in range(writes):
            length = 512 * chance.choice([1, 8, 64])
            offset = 512 * chance.randrange((DISK_BYTES - length) // 512 + 1)
            model[offset : offset + length] = chance.randbytes(length)
            guest.write(offset, bytes(model[offset : offset + length]))
            around = max(0, offset - 4096)
            assert guest.read(around, 8192 if around + 8192 <= DISK_BYTES else 512) == bytes(
                model[around : around + (8192 if around + 8192 <= DISK_BYTES else 512)]
            )
        guest.flush()
        return bytes(model)


def test_reads_are_newest_and_the_replica_equals_what_was_written(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            expected = await asyncio.to_thread(write_and_flush, made, 1)
            point = domain.mark("written")
            await domain.uploaded(point.lsn)
            assert (await recovered(made.store))["db01"] == expected
            await domain.close(stop_host=True)
        assert made.primary().read_bytes() == expected
        assert not made.ring.exists()
        async with made.open() as domain:
            assert gaps(domain) == []
            await domain.close(stop_host=True)

    asyncio.run(scenario())


@pytest.mark.parametrize("stop_host", [False, True])
def test_a_full_log_is_emptied_while_the_domain_closes(made: Machine, stop_host: bool) -> None:
    """Its records are stored, and the primaries have them soon: only then is there room for what the ring holds."""
    piece = 256 << 10

    def fill() -> None:
        with made.client() as guest:
            for number in range((10 << 20) // piece):
                guest.write(number * piece % DISK_BYTES, bytes([number + 1]) * piece)

    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            await asyncio.to_thread(fill)
            assert domain.status().lsn_durable < domain.status().lsn_reserved
            await domain.close(stop_host=stop_host)
        async with made.open() as domain:
            assert gaps(domain) == []
            assert domain.consistent
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(3))
def test_after_a_crash_that_lost_the_ring_the_log_is_replayed(made: Machine, seed: int) -> None:
    async def scenario() -> None:
        with Drva(made, "create") as drva:
            drva.ask("pause")
            expected = await asyncio.to_thread(write_and_flush, made, seed)
            drva.kill()
            made.kill_host()
        made.ring.unlink()
        lose_what_was_not_applied(made, expected)
        async with made.open() as domain:
            assert domain.consistent
            assert gaps(domain) == []
            with made.client() as guest:
                assert guest.read(0, DISK_BYTES) == expected
            point = domain.mark("after the crash")
            await domain.uploaded(point.lsn)
            assert (await recovered(made.store))["db01"] == expected
            await domain.close(stop_host=True)
        assert made.primary().read_bytes() == expected

    asyncio.run(scenario())


def lose_what_was_not_applied(made: Machine, expected: bytes) -> None:
    """The worst that a power loss may leave: what the log still has to replay was not applied at all.

    Uploads were paused before, so the log's tail has not moved, and the log holds all that was written.
    """
    with made.primary().open("r+b") as primary:
        for offset in range(0, len(expected), 64 << 10):
            primary.seek(offset)
            primary.write(bytes(4096))


def test_a_host_component_killed_under_load_costs_no_gap(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            with Load(made, pause_s=0.01) as load:  # the log gets room once a second
                await asyncio.to_thread(load.goes_on, 100)
                await asyncio.to_thread(made.kill_host)
                await asyncio.to_thread(load.goes_on, 100)
            assert gaps(domain) == []
            point = domain.mark("end")
            await domain.uploaded(point.lsn)
            await domain.close(stop_host=True)
        assert (await recovered(made.store))["db01"] == made.primary().read_bytes()
        assert load.longest_s < LONGEST_S

    asyncio.run(scenario())


def test_a_disk_protected_as_the_host_component_dies_is_served_by_the_next_one(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            await asyncio.to_thread(made.kill_host)
            await domain.protect("web01", made.primary("web01"), size_bytes=DISK_BYTES)
            await asyncio.wait_for(domain.wait_consistent(), 20)
            with made.client("web01") as guest:
                guest.write(0, b"w" * 4096)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_with_the_bypassed_file_the_log_is_not_replayed_but_the_disks_are_resynced(made: Machine) -> None:
    async def scenario() -> None:
        with Drva(made, "create") as drva:
            await asyncio.to_thread(write_and_flush, made, 1)
            drva.kill()
            with Load(made, pause_s=0) as load:
                await asyncio.to_thread(until, made.bypassed.exists)
                await asyncio.to_thread(load.goes_on, 200)
            with made.client() as guest:
                guest.flush()
                expected = guest.read(0, DISK_BYTES)
            made.kill_host()
        made.ring.unlink()
        async with made.open() as domain:
            await asyncio.wait_for(domain.wait_consistent(), 20)
            assert gaps(domain) == ["unclean stop"]
            assert not made.bypassed.exists()
            with made.client() as guest:
                assert guest.read(0, DISK_BYTES) == expected
            await domain.uploaded(domain.mark("after").lsn)
            assert (await recovered(made.store))["db01"] == expected
            await domain.close(stop_host=True)
        assert load.longest_s < LONGEST_S

    asyncio.run(scenario())


def test_logging_that_went_off_comes_back_after_a_gap_and_leaves_no_bypassed_file(made: Machine) -> None:
    async def scenario() -> None:
        with Drva(made, "create") as drva:
            with Load(made, pause_s=0) as load:
                await asyncio.to_thread(load.goes_on)
                drva.kill()
                await asyncio.to_thread(until, made.bypassed.exists)
                await asyncio.to_thread(load.goes_on, 200)
            async with made.open() as domain:
                with Load(made) as more:
                    await asyncio.to_thread(more.goes_on)
                await asyncio.wait_for(domain.wait_consistent(), 20)
                assert not made.bypassed.exists()
                assert len(gaps(domain)) == 1
                await domain.close(stop_host=True)
        async with made.open() as domain:
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)
        assert max(load.longest_s, more.longest_s) < LONGEST_S

    asyncio.run(scenario())


def test_a_drva_that_died_between_bypassed_file_and_logging_holds_up_nothing(
    made: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had removed the bypassed file, and the host component makes none again."""
    monkeypatch.setattr(bypass, "SETTLE_S", 0.5)

    async def scenario() -> None:
        with Drva(made, "create") as drva:
            drva.kill()
            with Load(made, pause_s=0) as load:
                await asyncio.to_thread(until, made.bypassed.exists)
                await asyncio.to_thread(load.goes_on, 200)
        made.bypassed.unlink()
        async with made.open() as domain:
            await asyncio.wait_for(domain.wait_consistent(), 20)
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_bypassed_file_of_an_earlier_domain_is_not_believed(made: Machine) -> None:
    made.bypassed.parent.mkdir(parents=True, mode=0o700)
    made.bypassed.touch()

    async def scenario() -> None:
        async with made.create() as domain:
            assert not made.bypassed.exists()
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def open_state_folder(made: Machine) -> None:
    made.bypassed.parent.chmod(0o770)


def state_folder_below_an_open_one(made: Machine) -> None:
    made.bypassed.parents[1].chmod(0o777)


@pytest.mark.parametrize("spoil", [open_state_folder, state_folder_below_an_open_one])
def test_a_state_folder_that_others_can_change_decides_nothing(made: Machine, spoil: Callable[[Machine], None]) -> None:
    """Whether the file is there decides whether the log is replayed over the primaries."""

    async def scenario() -> None:
        async with made.create() as domain:
            await domain.close(stop_host=True)
        spoil(made)
        with pytest.raises(InvalidRequest, match=r"the state folder .*/vm(: .*)? (belongs|may be changed) (to|by)"):
            async with made.open():
                pass

    asyncio.run(scenario())


def test_a_ring_that_was_left_in_the_other_mode_is_given_up(made: Machine) -> None:
    """A DRVA that died as it closed had marked the log clean, and not yet removed the ring."""

    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            kept = made.folder / "kept"
            kept.hardlink_to(made.ring)
            await domain.close(stop_host=True)
        kept.rename(made.ring)
        made.write_back = False
        async with made.open() as domain:
            assert gaps(domain) == []
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_the_mode_is_changed_only_where_nothing_is_pending(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            expected = await asyncio.to_thread(write_and_flush, made, 1)
        made.write_back = False
        with pytest.raises(InvalidRequest, match="write-back"):
            async with made.open():
                pass
        made.kill_host()
        made.ring.unlink()
        with pytest.raises(InvalidRequest, match="write-back"):
            async with made.open():
                pass
        with pytest.raises(InvalidRequest, match="write-back"):
            async with jetdr.ProtectedDomain.open("vm", log=made.log, store=made.store, options=made.options):
                pass
        made.write_back = True
        async with made.open() as domain:
            await domain.close(stop_host=True)
        made.write_back = False
        async with made.open() as domain:
            assert gaps(domain) == []
            with made.client() as guest:
                assert guest.read(0, DISK_BYTES) == expected
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_what_guests_wrote_while_the_domain_was_closed_is_not_overwritten_by_the_log(made: Machine) -> None:
    """Whoever let them write noted it in the served file alone, as in write-through."""

    async def scenario() -> None:
        with Drva(made, "create") as drva:
            await asyncio.to_thread(write_and_flush, made, 1)
            drva.ask("applied")
            drva.kill()
            made.kill_host()
        made.ring.unlink()
        served = made.bypassed.with_name("served")
        served.touch(0o600)
        with made.primary().open("r+b") as disk:
            disk.write(b"newer than the log".ljust(512) * (DISK_BYTES // 512))
        expected = made.primary().read_bytes()
        async with made.open() as domain:
            await asyncio.wait_for(domain.wait_consistent(), 20)
            assert made.primary().read_bytes() == expected
            assert len(gaps(domain)) == 1
            assert not served.exists()
            await assert_replica_equals_primary(domain, made)
            await domain.close(stop_host=True)

    asyncio.run(scenario())


def test_a_served_file_of_a_time_without_disks_does_not_keep_the_log_from_being_replayed(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.close(stop_host=True)
        served = made.bypassed.with_name("served")
        served.touch(0o600)
        async with made.open() as domain:
            assert not served.exists()
            await domain.close(stop_host=True)

    asyncio.run(scenario())
