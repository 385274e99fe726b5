"""LoopThread: an event loop in a thread of its own, so that a caller's blocking write does not hold up the uploader."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from jetdr_core.aio import shielded

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for callers in other threads and loops, until :meth:`submit_last` or :meth:`stop`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``work`` in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work`` in this loop from another one. Cancelling the caller cancels it."""
        return await asyncio.wrap_future(self.submit(work))

    def start(self, work: Coroutine[Any, Any, T]) -> tuple[Future[T], Callable[[], Future[None]]]:
        """Run ``work``. The second result cancels ``work`` when it is called, and is done when ``work`` has ended."""
        tasks: list[asyncio.Task[Any]] = []

        async def run() -> T:
            tasks.append(asyncio.ensure_future(work))
            return await shielded(tasks[0])

        async def end() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        return self.submit(run()), lambda: self.submit(end())

    def call(self, work: Callable[[], object]) -> None:
        """Call ``work`` in the loop's thread, soon. If the loop has ended, do nothing."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work)

    def submit_last(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``work``, then end the loop and its thread."""

        async def last() -> T:
            try:
                return await work
            finally:
                self._loop.call_soon(self._loop.stop)

        return self.submit(last())

    def stop(self) -> None:
        """End the loop. Its thread cancels and awaits what still runs in it. Idempotent."""
        self.call(self._loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(_end_tasks())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
