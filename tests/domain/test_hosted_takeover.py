"""A domain in write-back is taken over without losing what guests were told is safe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.errors import InvalidRequest
from tests.domain.hosted import DISK_BYTES, LOG_BYTES, Drva, Machine, assert_whole_and_end, machine, until


@pytest.fixture
def made(peer: Callable[[str], str]) -> Iterator[Machine]:
    peer("nbdkit")
    with machine(write_back=True) as one:
        yield one


async def flushed(made: Machine) -> None:
    """A guest has flushed a write, the store has it, and then the power is lost."""
    with Drva(made, "create") as drva:
        drva.ask("wait")
        with made.client() as guest:
            guest.write(0, b"a" * 4096)
            guest.flush()
        until(lambda: is_uploaded(drva.ask("status")))
        drva.kill()
        made.kill_host()
    made.ring.unlink()


def is_uploaded(status: dict[str, Any]) -> bool:
    return bool(status["lsn_uploaded"] == status["lsn_reserved"])


def test_a_log_that_the_disks_wait_for_is_not_given_up(made: Machine) -> None:
    async def scenario() -> None:
        await flushed(made)
        with pytest.raises(InvalidRequest, match="may alone have writes that guests were told are safe") as refused:
            async with made.take_over():
                pass
        assert "open the domain without taking it over" in str(refused.value.hint)
        async with made.open() as domain:  # the first remedy: the log is replayed
            await domain.wait_consistent()
            with made.client() as guest:
                assert guest.read(0, 4096) == b"a" * 4096
            await domain.close(stop_host=True)
        async with made.take_over() as domain:
            await domain.wait_consistent()
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


def test_a_log_that_the_disks_wait_for_is_given_up_if_it_is_named(made: Machine) -> None:
    async def scenario() -> None:
        await flushed(made)
        with pytest.raises(InvalidRequest) as refused:
            async with made.take_over():
                pass
        (identity,) = {word for word in str(refused.value.hint).split("'") if len(word) == 16}
        taken = jetdr.HostedDomain.take_over(
            "vm",
            log=made.log,
            store=made.store,
            host=made.host_options,
            trust_stored_paths=True,
            log_bytes=LOG_BYTES,
            options=made.options,
            discard_log=identity,
        )
        async with taken as domain:
            await domain.wait_consistent()
            await assert_whole_and_end(domain, made)
        async with made.open() as domain:
            assert domain.consistent
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())


def test_a_host_component_that_lives_spares_the_log(made: Machine) -> None:
    """A larger section, for example: its ring has all that the disks lack."""

    async def scenario() -> None:
        async with made.create() as domain:
            await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
            with made.client() as guest:
                guest.write(0, b"a" * 4096)
                guest.flush()
        assert made.host.running()
        async with made.take_over() as domain:
            await domain.wait_consistent()
            with made.client() as guest:
                assert guest.read(0, 4096) == b"a" * 4096
            await assert_whole_and_end(domain, made)

    asyncio.run(scenario())
