"""Runs a command's coroutine. The first Ctrl-C cancels it, so that it ends in order. The second ends the process.

Invariant: ending at once loses only time, because every command leaves a state that it can continue from.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from jetdr_core.cli.exits import ExitCode

__all__ = ["run_to_end"]

T = TypeVar("T")


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` and return its result. Raises ``asyncio.CancelledError`` if Ctrl-C ended it."""

    async def interruptible() -> T:
        task = asyncio.current_task()
        assert task is not None
        with _interrupt_cancels(task):
            return await work

    return asyncio.run(interruptible())


@contextmanager
def _interrupt_cancels(task: asyncio.Task[Any]) -> Iterator[None]:
    """Handle Ctrl-C in place of asyncio's own handler, whose second call raises wherever the program happens to be."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _Interruption(task))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Interruption:
    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._loop = task.get_loop()
        self._seen = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        if self._seen:
            os.write(2, b"jetdr: error: interrupted twice, so it ended at once\n")
            os._exit(ExitCode.INTERRUPTED)
        self._seen = True
        self._loop.call_soon_threadsafe(self._task.cancel)
