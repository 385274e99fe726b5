"""What is awaited across loops: who stops waiting leaves it running, and hears no complaint of its errors."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import pytest

from jetdr_core.domain.loop_thread import finished, outliving
from jetdr_core.domain.opening import in_thread
from jetdr_core.store.directory import _finished as store_finished


def to_its_end_in_a_thread(future: Future[None]) -> Awaitable[None]:
    return in_thread(future.result)


def to_its_end_in_a_store(future: Future[None]) -> Awaitable[None]:
    return store_finished(asyncio.wrap_future(future))


@pytest.mark.parametrize("wait", [outliving, finished, to_its_end_in_a_thread, to_its_end_in_a_store])
def test_an_error_after_the_waiting_was_cancelled_is_not_complained_of(
    wait: Callable[[Future[None]], Awaitable[None]],
) -> None:
    complaints = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        future: Future[None] = Future()

        async def waiting() -> None:
            await wait(future)

        task = asyncio.ensure_future(waiting())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not future.done()
        future.set_exception(ConnectionError("the target is away"))
        await asyncio.wait({task})
        await asyncio.sleep(0)  # the error arrives
        gc.collect()

    asyncio.run(scenario())
    assert complaints == []
