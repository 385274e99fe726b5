"""The log is trimmed now and then, and at once while it fills up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jetdr_core as jetdr
from jetdr_core.device import MemoryDevice
from jetdr_core.uploader.trimmer import CHECKPOINT_S, LogTrimmer
from jetdr_core.uploader.workers import Workers
from tests.domain.fixture import DISK_BYTES, fresh_store, new_domain, within
from tests.uploader.listed_source import ListedSource, cursor_at


@asynccontextmanager
async def scene(now: list[float]) -> AsyncIterator[tuple[ListedSource, LogTrimmer]]:
    source, workers = ListedSource(), Workers(1, verify=False)
    try:
        yield source, LogTrimmer(source, workers, cursor_at(0), lambda: now[0])
    finally:
        await workers.close()


def test_the_tail_moves_once_in_a_while() -> None:
    async def scenario() -> None:
        now = [0.0]
        async with scene(now) as (source, trimmer):
            source.write(3)
            for lsn in (1, 2):
                await trimmer.trim_if_due(cursor_at(lsn))
            assert source.checkpoints == []
            now[0] += CHECKPOINT_S
            for lsn in (2, 3):
                await trimmer.trim_if_due(cursor_at(lsn))
            assert source.checkpoints == [2]

    asyncio.run(scenario())


def test_the_tail_moves_at_once_while_the_log_is_a_quarter_full() -> None:
    async def scenario() -> None:
        async with scene([0.0]) as (source, trimmer):
            source.write(24)
            await trimmer.trim_if_due(cursor_at(1))
            assert source.checkpoints == []
            source.write(1)
            await trimmer.trim_if_due(cursor_at(2))
            await trimmer.trim_if_due(cursor_at(3))
            assert source.checkpoints == [2]

    asyncio.run(scenario())


def test_the_tail_moves_when_told_to() -> None:
    async def scenario() -> None:
        async with scene([0.0]) as (source, trimmer):
            await trimmer.trim(cursor_at(1))
            assert source.checkpoints == [1]

    asyncio.run(scenario())


def test_what_was_stored_last_goes_although_nothing_is_stored_after_it() -> None:
    """With logging off nothing is stored any more, and logging comes back only once the log has drained."""

    async def scenario() -> None:
        now = [0.0]
        async with scene(now) as (source, trimmer):
            source.write(3)
            await trimmer.trim_rest(cursor_at(0))
            await trimmer.trim_if_due(cursor_at(2))
            await trimmer.trim_rest(cursor_at(2))
            assert source.checkpoints == []
            now[0] += CHECKPOINT_S
            for _ in range(2):
                await trimmer.trim_rest(cursor_at(2))
            now[0] += CHECKPOINT_S
            await trimmer.trim_rest(cursor_at(2))
            assert source.checkpoints == [2]

    asyncio.run(scenario())


def test_a_tail_that_lies_before_what_the_store_was_found_to_have_moves_there() -> None:
    """A domain that was opened without its store learns only later how much the store has."""

    async def scenario() -> None:
        now = [0.0]
        async with scene(now) as (source, trimmer):
            now[0] += CHECKPOINT_S
            for _ in range(2):
                await trimmer.trim_rest(cursor_at(0))
                now[0] += CHECKPOINT_S
            assert source.checkpoints == [0]

    asyncio.run(scenario())


def test_an_idle_domain_has_an_empty_log() -> None:
    async def scenario() -> None:
        async with new_domain(fresh_store()) as domain:
            disk = await domain.protect("db01", MemoryDevice(DISK_BYTES))
            for n in range(3):
                await domain.uploaded(disk.write(0, bytes([n]) * 512))
            await within(10, emptied(domain))

    async def emptied(domain: jetdr.ProtectedDomain) -> None:
        while domain.status().log_used_bytes:
            await asyncio.sleep(0.02)

    asyncio.run(scenario())
