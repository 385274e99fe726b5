"""Blocking work on places that may hang, done for a limited time.

A file system that hangs must hold up only the domains that use it. So whoever looks at the places of several domains
gives each of them a thread, and waits for all of them together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

__all__ = ["PLACE_LIMIT_S", "each_within"]

T = TypeVar("T")
R = TypeVar("R")

PLACE_LIMIT_S = 5.0
"""A file system that takes longer to say what is at a path is taken to hang."""


def each_within(limit_s: float, work: Callable[[T], R], things: Sequence[T]) -> list[Future[R]]:
    """Do ``work`` on each thing. Returns the results, in order, after ``limit_s`` at the latest.

    A result that is not done then belongs to a thing that hangs.
    """
    results: list[Future[R]] = [Future() for _ in things]
    for thing, result in zip(things, results, strict=True):
        threading.Thread(target=_do, args=(work, thing, result), name="jetdr-place", daemon=True).start()
    wait(results, limit_s)
    return results


def _do(work: Callable[[T], R], thing: T, result: Future[R]) -> None:
    try:
        result.set_result(work(thing))
    except BaseException as error:  # noqa: BLE001 - it is the result
        result.set_exception(error)
