"""A DRVA that is killed or paused while guests write: they do not feel it, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

import jetdr_core as jetdr
from jetdr_core.device import MemoryDevice
from jetdr_core.errors import Fenced
from tests.domain.hosted import DISK_BYTES, LOG_BYTES, LONGEST_S, Drva, Load, Machine, machine, until


@pytest.fixture
def made(peer: Callable[[str], str]) -> Iterator[Machine]:
    peer("nbdkit")
    with machine() as one:
        yield one


@pytest.mark.parametrize("write_back", [False, True], ids=["write-through", "write-back"])
def test_a_drva_killed_under_load_and_restarted_misses_nothing(peer: Callable[[str], str], write_back: bool) -> None:
    """Without flushes a guest waits for nothing while there is room in the ring."""
    peer("nbdkit")
    with machine(ring_bytes=64 << 20, write_back=write_back) as made, ExitStack() as processes:
        drva = processes.enter_context(Drva(made, "create"))
        with Load(made, pause_s=0.005, flushes=False) as load:
            for _ in range(3):
                load.goes_on(200)
                drva.kill()
                load.goes_on(50)
                drva = processes.enter_context(Drva(made, "open"))
                assert drva.opened["consistent"], drva.opened["why_inconsistent"]
                assert drva.opened["host"]["off_times"] == 0
            load.goes_on()
        assert drva.ask("equal")
        assert drva.ask("status")["host"]["restarts"] == 0
        drva.close(stop_host=True)
        assert load.longest_s < LONGEST_S


def test_a_drva_that_is_paused_for_too_long_costs_a_gap_and_a_resync(made: Machine) -> None:
    with Drva(made, "create") as drva:
        with Load(made, pause_s=0) as load:
            load.goes_on()
            drva.signal(signal.SIGSTOP)
            until(lambda: load.longest_s > 0.4)  # the ring is full: the limit has passed
            load.goes_on(500)
            drva.signal(signal.SIGCONT)
            until(lambda: drva.ask("status")["host"]["off_times"] >= 1)
        status = drva.ask("wait")
        assert status["consistent"]
        assert drva.ask("equal")
        until(lambda: drva.ask("status")["disks"][0]["unlogged_writes"] > 0)
        drva.close(stop_host=True)
    assert load.longest_s < LONGEST_S


def test_a_drva_that_stays_away_too_long_finds_logging_off_and_makes_up_for_it(made: Machine) -> None:
    with Drva(made, "create") as drva, Load(made, pause_s=0) as load:
        load.goes_on()
        drva.kill()
        until(lambda: load.longest_s > 0.4)
        load.goes_on(500)
    with Drva(made, "open") as drva:
        drva.ask("wait")
        assert drva.ask("equal")
        assert drva.ask("status")["host"]["off_times"] == 1
        drva.close(stop_host=True)
    assert load.longest_s < LONGEST_S


def test_a_fenced_domain_stops_logging_and_its_guests_do_not_wait(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            await domain.uploaded(domain.status().lsn_reserved)
            with Load(made) as load:
                await asyncio.to_thread(load.goes_on)
                await domain.uploaded(domain.status().lsn_durable)  # the other owner knows the disk from the store
                other = jetdr.ProtectedDomain.take_over(
                    "vm",
                    log=MemoryDevice(16 << 20),
                    log_bytes=LOG_BYTES,
                    store=made.store,
                    disks={"db01": copy_of(made)},
                )
                async with other:
                    await asyncio.to_thread(until, lambda: domain.status().failure)
                    assert "fenced" in domain.status().failure
                    await asyncio.to_thread(load.goes_on, 200)
                    assert not domain.consistent
            assert load.longest_s < LONGEST_S
            with suppress(Fenced):
                await domain.close(stop_host=True)

    asyncio.run(scenario())


def copy_of(made: Machine) -> MemoryDevice:
    device = MemoryDevice(DISK_BYTES)
    device.write(0, made.primary().read_bytes())
    return device
