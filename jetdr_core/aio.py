"""Waiting that survives cancellation.

A caller may be cancelled while work of another thread or another event loop is in flight. The work then still holds
what it was given: buffers, descriptors, locks. asyncio leaves three choices to the caller, and each function here is
one of them:

- :func:`shielded` stops waiting at once. The work goes on without its waiter.
- :func:`finish` (and :func:`in_thread`) waits until the work has ended, and raises the cancellation then.
- :func:`settle` waits until the work has ended, and drops the cancellation. It is for cleaning up after an error.

Invariant: an error that nobody is left to receive is not reported as "exception was never retrieved".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["finish", "in_thread", "settle", "shielded", "unreported"]

T = TypeVar("T")


def shielded(work: Awaitable[T] | Future[T]) -> asyncio.Future[T]:
    """Await ``work`` without owning it.

    Cancelling the waiter leaves ``work`` running, and its error is then not reported as unretrieved.
    """
    return asyncio.shield(unreported(_as_future(work)))


async def finish(work: Awaitable[T] | Future[T]) -> T:
    """Return the result of ``work``. If the waiter is cancelled, wait until ``work`` has ended, and raise that then.

    So ``work`` uses nothing of the caller's any more after this call, however the call ends.
    """
    future = _as_future(work)
    try:
        return await shielded(future)
    except asyncio.CancelledError:
        await settle(future)
        raise


async def settle(work: Awaitable[T] | Future[T]) -> T | None:
    """Wait until ``work`` has ended, and return its result, or None if ``work`` failed or was cancelled.

    Cancelling the waiter has no effect, not even afterwards.
    """
    future = unreported(_as_future(work))
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError:
            continue
    return None if future.cancelled() or future.exception() else future.result()


async def in_thread(work: Callable[..., T], *arguments: Any, **settings: Any) -> T:
    """Return the result of blocking ``work``, run in a thread of the loop's pool; see :func:`finish`."""
    return await finish(asyncio.to_thread(work, *arguments, **settings))


def unreported(future: asyncio.Future[T]) -> asyncio.Future[T]:
    """Return ``future``, whose error asyncio no longer reports if nobody retrieves it."""
    future.add_done_callback(_retrieve_error)
    return future


def _as_future(work: Awaitable[T] | Future[T]) -> asyncio.Future[T]:
    return asyncio.wrap_future(work) if isinstance(work, Future) else asyncio.ensure_future(work)


def _retrieve_error(future: asyncio.Future[T]) -> None:
    if not future.cancelled():
        future.exception()
