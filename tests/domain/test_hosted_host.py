"""A host component that dies, ends or hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

import jetdr_core as jetdr
from jetdr_core.domain.hosting import watch
from jetdr_core.errors import HostFailed
from tests.domain.hosted import (
    DISK_BYTES,
    LONGEST_S,
    Load,
    Machine,
    assert_whole_and_end,
    gaps,
    machine,
    until,
    written_domain,
)


@pytest.fixture
def made(peer: Callable[[str], str]) -> Iterator[Machine]:
    peer("nbdkit")
    with machine() as one:
        yield one


def test_a_host_component_killed_under_load_comes_back_after_a_gap(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            with Load(made) as load:
                for times in (1, 2):
                    await asyncio.to_thread(load.goes_on, 100)
                    await asyncio.to_thread(made.kill_host)
                    await asyncio.to_thread(load.goes_on, 50)
                    await asyncio.to_thread(until, lambda n=times: domain.status().host.restarts == n)  # type: ignore[misc,union-attr]
            await asyncio.wait_for(domain.wait_consistent(), 30)
            await assert_whole_and_end(domain, made)
            assert load.longest_s < LONGEST_S

    asyncio.run(scenario())


def test_a_host_component_that_died_while_no_drva_was_there_costs_a_gap(made: Machine) -> None:
    async def scenario() -> None:
        async with written_domain(made):
            pass
        with Load(made) as load:
            await asyncio.to_thread(load.goes_on)
            await asyncio.to_thread(made.kill_host)
        async with made.open() as domain:
            await asyncio.wait_for(domain.wait_consistent(), 30)
            assert len(gaps(domain)) == 1
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


async def assert_it_came_back_at_no_cost(domain: jetdr.HostedDomain) -> None:
    await asyncio.to_thread(until, lambda: domain.status().host.restarts == 1)  # type: ignore[union-attr]
    host = domain.status().host
    assert host is not None
    assert host.off_times == 0
    assert domain.consistent


def test_a_host_component_that_ended_in_order_costs_nothing(made: Machine) -> None:
    async def scenario() -> None:
        async with written_domain(made) as domain:
            await asyncio.to_thread(made.host.stop)
            await assert_it_came_back_at_no_cost(domain)
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


def test_an_opening_whose_host_component_does_not_start_costs_nothing(made: Machine) -> None:
    """It had the ring, but no disk: nothing was written."""
    obstacle = made.folder / "run/vm/host.sock"

    async def scenario() -> None:
        async with written_domain(made) as domain:
            await domain.close(stop_host=True)
        obstacle.mkdir()
        for _ in range(2):
            with pytest.raises(HostFailed, match="did not start"):
                async with made.open():
                    pass
        obstacle.rmdir()
        async with made.open() as domain:
            assert gaps(domain) == []
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


def test_a_host_component_that_ended_in_order_and_does_not_start_again_costs_nothing(
    made: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "POLL_S", 0.3)  # time to put the obstacle there
    obstacle = made.folder / "run/vm/host.sock"

    async def scenario() -> None:
        async with written_domain(made) as domain:
            await asyncio.to_thread(made.host.stop)
            obstacle.unlink(missing_ok=True)
            obstacle.mkdir()
            await asyncio.to_thread(until, lambda: made.host.log_path.read_text().count("Address already in use") >= 2)
            obstacle.rmdir()
            await assert_it_came_back_at_no_cost(domain)
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


def test_a_host_component_that_does_not_answer_holds_up_no_status(made: Machine) -> None:
    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            pid = made.host.pid
            os.kill(pid, signal.SIGSTOP)
            try:
                begun = time.monotonic()
                for _ in range(20):
                    assert domain.status().host is not None
                    await asyncio.sleep(0.01)
                assert time.monotonic() - begun < 10  # each that waited for it would take a second or more
            finally:
                os.kill(pid, signal.SIGCONT)

    asyncio.run(scenario())


def test_a_removed_control_socket_is_made_again_while_guests_go_on(made: Machine) -> None:
    async def scenario() -> None:
        async with written_domain(made) as domain:
            with Load(made) as load:
                await asyncio.to_thread(load.goes_on)
                (made.folder / "run/vm/host.sock").unlink()
                await asyncio.to_thread(until, (made.folder / "run/vm/host.sock").exists)
                control = made.host.control
                assert control.hello() == made.host.pid
                control.close()
                await asyncio.to_thread(load.goes_on)
            status = domain.status().host
            assert status is not None
            assert (status.restarts, status.failure, status.alive) == (0, "", True)
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


def test_a_removed_socket_for_guests_is_told_and_the_remedy_costs_nothing(made: Machine) -> None:
    async def scenario() -> None:
        async with written_domain(made) as domain:
            with Load(made) as load:
                await asyncio.to_thread(load.goes_on)
                (made.folder / "run/vm/nbd.sock").unlink()
                told = await asyncio.to_thread(told_of, domain)
                assert "guests that are connected go on, but no other can connect" in told
                await asyncio.to_thread(load.goes_on)
            named = int(told.partition("(kill ")[2].partition(")")[0])
            os.kill(named, signal.SIGTERM)
            await assert_it_came_back_at_no_cost(domain)
            await asyncio.to_thread(until, lambda: domain.status().host.failure == "")  # type: ignore[union-attr]
            with made.client() as guest:
                guest.write(0, b"again" + bytes(507))
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


def told_of(domain: jetdr.HostedDomain) -> str:
    """What is wrong with the host component, as soon as anything is."""
    until(lambda: domain.status().host.failure)  # type: ignore[union-attr]
    return domain.status().host.failure  # type: ignore[union-attr]
