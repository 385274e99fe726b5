"""A run is cut when it is large enough, old enough or wanted, and never while the uploader is paused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from jetdr_core.options import DomainOptions
from jetdr_core.uploader.cutter import POLL_WANTED_S, Cutter, Run
from jetdr_core.uploader.lag import UploadLag
from jetdr_core.uploader.workers import Workers
from tests.uploader.listed_source import BATCH_BYTES, ListedSource, cursor_at

OPTIONS = DomainOptions(segment_bytes=4 * BATCH_BYTES, segment_age_s=60)
LIMIT_S = 10


@dataclass
class Scene:
    source: ListedSource
    cutter: Cutter
    now: list[float]

    def begin(self) -> asyncio.Task[Run]:
        return asyncio.create_task(self.cutter.next_run())


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    source, now = ListedSource(), [0.0]
    workers = Workers(1, verify=False)
    lag = UploadLag(source, 0, lambda: now[0])
    try:
        yield Scene(source, Cutter(source, workers, lag, OPTIONS, cursor_at(0)), now)
    finally:
        await workers.close()


async def lsns(run: asyncio.Task[Run]) -> list[int]:
    async with asyncio.timeout(LIMIT_S):
        cut = await run
    assert cut.end.lsn == cut.records[-1].headers["lsn"][-1]
    return [int(lsn) for records in cut.records for lsn in records.headers["lsn"]]


async def is_waiting(run: asyncio.Task[Run]) -> bool:
    """Whether the cutter has looked several times, and cut nothing."""
    done, _ = await asyncio.wait({run}, timeout=0.2)
    return not done


def test_a_large_backlog_is_cut_into_runs_without_a_lost_or_doubled_lsn() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.source.write(8)
            assert await lsns(here.begin()) == [1, 2, 3, 4]
            assert await lsns(here.begin()) == [5, 6, 7, 8]
            last = here.begin()
            assert await is_waiting(last)
            last.cancel()

    asyncio.run(scenario())


def test_a_small_backlog_is_cut_when_it_is_old() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.source.write(2)
            run = here.begin()
            assert await is_waiting(run)
            here.now[0] += OPTIONS.segment_age_s
            assert await lsns(run) == [1, 2]

    asyncio.run(scenario())


def test_a_small_backlog_is_cut_when_somebody_wants_it() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.source.write(2)
            run = here.begin()
            assert await is_waiting(run)
            here.cutter.want(2)
            assert await lsns(run) == [1, 2]
            assert here.source.wanted == [2]

    asyncio.run(scenario())


def test_what_is_wanted_before_it_is_written_is_cut_when_it_is() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.cutter.want(1)
            run = here.begin()
            assert await is_waiting(run)
            here.source.write()
            assert await lsns(run) == [1]

    asyncio.run(scenario())


def test_what_is_not_durable_is_not_cut() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.source.lsn_written = 4
            run = here.begin()
            assert await is_waiting(run)
            here.source.write(0)
            assert await lsns(run) == [1, 2, 3, 4]

    asyncio.run(scenario())


def test_a_lap_that_has_ended_without_a_next_batch_is_not_read_again_without_a_pause() -> None:
    """The log's device may take long for the next batch, and nothing can be read until then."""

    async def scenario() -> None:
        async with scene() as here:
            here.source.lsn_written = 1  # in the log, and nothing of it can be read
            here.cutter.want(1)
            run, began_s = here.begin(), time.monotonic()
            assert await is_waiting(run)
            assert here.source.reads <= (time.monotonic() - began_s) / POLL_WANTED_S + 1
            here.source.write(0)
            assert await lsns(run) == [1]

    asyncio.run(scenario())


def test_nothing_is_cut_while_paused() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.cutter.pause()
            here.source.write(4)
            here.cutter.want(4)
            here.now[0] += 2 * OPTIONS.segment_age_s
            run = here.begin()
            assert await is_waiting(run)
            here.cutter.resume()
            assert await lsns(run) == [1, 2, 3, 4]

    asyncio.run(scenario())
