"""What a cancelled waiter leaves running, what it waits for first, and that nobody reports an error it left."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future

import pytest

from jetdr_core.aio import finish, in_thread, settle, shielded, unreported

TARGET_AWAY = ConnectionError("the target is away")


def in_a_thread(future: Future[str]) -> Awaitable[str]:
    return in_thread(future.result)


def as_a_task(future: Future[str]) -> Awaitable[str]:
    return finish(asyncio.wrap_future(future))


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> list[dict[str, object]]:
    """What the event loop's exception handler was given in the ``scenario``."""
    reports: list[dict[str, object]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reports.append(context))
        await scenario()
        gc.collect()

    asyncio.run(watched())
    return reports


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def begun(work: Awaitable[str | None]) -> asyncio.Task[str | None]:
    """A task that awaits ``work``, and has got as far as that."""

    async def wait() -> str | None:
        return await work

    task = asyncio.create_task(wait())
    await turns()
    return task


@pytest.mark.parametrize("wait", [shielded, finish, settle, in_a_thread, as_a_task])
def test_the_result_is_returned(wait: Callable[[Future[str]], Awaitable[str | None]]) -> None:
    async def scenario() -> None:
        future: Future[str] = Future()
        waiter = await begun(wait(future))
        future.set_result("done")
        assert await waiter == "done"

    assert run(scenario) == []


@pytest.mark.parametrize("wait", [shielded, finish, in_a_thread, as_a_task])
def test_an_error_is_raised(wait: Callable[[Future[str]], Awaitable[str | None]]) -> None:
    async def scenario() -> None:
        future: Future[str] = Future()
        waiter = await begun(wait(future))
        future.set_exception(TARGET_AWAY)
        with pytest.raises(ConnectionError):
            await waiter

    assert run(scenario) == []


@pytest.mark.parametrize("wait", [shielded, finish, settle, in_a_thread, as_a_task])
def test_an_error_after_a_cancellation_is_not_reported(wait: Callable[[Future[str]], Awaitable[str | None]]) -> None:
    async def scenario() -> None:
        future: Future[str] = Future()
        waiter = await begun(wait(future))
        waiter.cancel()
        await turns()
        assert not future.done()
        future.set_exception(TARGET_AWAY)
        await asyncio.wait({waiter})
        await turns()  # the error arrives

    assert run(scenario) == []


def test_a_shielded_waiter_leaves_at_once_and_the_work_goes_on() -> None:
    async def scenario() -> None:
        may_end = asyncio.Event()

        async def work() -> str:
            await may_end.wait()
            return "done"

        task = asyncio.create_task(work())
        waiter = await begun(shielded(task))
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert not task.done()
        may_end.set()
        assert await task == "done"

    assert run(scenario) == []


@pytest.mark.parametrize("wait", [finish, in_a_thread, as_a_task])
def test_finish_raises_a_cancellation_only_when_the_work_has_ended(
    wait: Callable[[Future[str]], Awaitable[str | None]],
) -> None:
    async def scenario() -> None:
        future: Future[str] = Future()
        waiter = await begun(wait(future))
        for _ in range(3):
            waiter.cancel()
            await turns()
        assert not waiter.done()
        assert not future.done()
        future.set_result("done")
        with pytest.raises(asyncio.CancelledError):
            await waiter

    assert run(scenario) == []


def test_settle_drops_a_cancellation() -> None:
    async def scenario() -> None:
        future: Future[str | None] = Future()
        waiter = asyncio.create_task(settle(future))
        await turns()
        for _ in range(3):
            waiter.cancel()
            await turns()
        assert not waiter.done()
        future.set_result("done")
        assert await waiter == "done"

    assert run(scenario) == []


def test_settle_returns_none_of_work_that_failed_or_was_cancelled() -> None:
    async def scenario() -> None:
        failed: Future[str] = Future()
        failed.set_exception(TARGET_AWAY)
        cancelled: Future[str] = Future()
        cancelled.cancel()
        assert await settle(failed) is None
        assert await settle(cancelled) is None

    assert run(scenario) == []


def test_finish_raises_the_cancellation_of_its_own_work() -> None:
    async def scenario() -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        waiter = asyncio.create_task(finish(task))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    assert run(scenario) == []


def test_in_thread_passes_arguments_and_leaves_the_loop_free() -> None:
    async def scenario() -> None:
        free, here = threading.Event(), threading.current_thread()

        def work(name: str, *, limit_s: float) -> tuple[str, bool]:
            assert threading.current_thread() is not here
            return name, free.wait(limit_s)

        waiter = asyncio.create_task(in_thread(work, "db01", limit_s=10))
        await turns()
        free.set()
        assert await waiter == ("db01", True)

    assert run(scenario) == []


def test_asyncio_reports_an_error_that_is_not_marked_as_unreported() -> None:
    async def fail() -> None:
        raise TARGET_AWAY

    async def scenario() -> None:
        task = asyncio.ensure_future(fail())
        await turns()
        del task

    async def marked() -> None:
        task = unreported(asyncio.ensure_future(fail()))
        await turns()
        del task

    assert len(run(scenario)) == 1
    assert run(marked) == []
