"""Threads that prepare uploads give way to those that guests wait for."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from jetdr_core.uploader.priority import yield_to_guests


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_only_the_thread_that_yields_gets_a_lower_priority() -> None:
    usual = nice()
    with ThreadPoolExecutor(1, initializer=yield_to_guests) as pool:
        assert pool.submit(nice).result() == min(19, usual + 10)
    assert nice() == usual


def test_priority_has_an_end() -> None:
    def often() -> int:
        for _ in range(3):
            yield_to_guests()
        return nice()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(often).result() == 19
