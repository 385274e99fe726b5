"""The log is trimmed now and then, and at once while it fills up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jetdr_core.uploader.trimmer import CHECKPOINT_S, LogTrimmer
from jetdr_core.uploader.workers import Workers
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
