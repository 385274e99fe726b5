"""Guests in a process of their own, so that what they wait for is the host component and not this Python's lock.

Writes stamped data at random places, now and then zeros and a flush, until stdin ends; says on stdout, over and over,
how many requests were answered and how long the longest took. A guest whose connection breaks connects again.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from typing import Any

from tests.host.nbd_client import NbdClient

REPORT_S = 0.01


class Guests:
    """``order``: socket, disk, disk_bytes, guests, pause_s, flushes."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.longest_s = 0.0
        self.answered = 0
        self.failed: list[str] = []
        self._order = order
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(order["guests"])]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def report(self, *, ended: bool) -> str:
        with self._lock:
            return json.dumps([self.answered, self.longest_s, self.failed, ended])

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._stopping.is_set():
            try:
                with NbdClient(self._order["socket"], self._order["disk"]) as client:
                    while not self._stopping.wait(self._order["pause_s"]):
                        self._request(client, chance)
            except (ConnectionError, FileNotFoundError):
                self._stopping.wait(0.02)
            except (OSError, AssertionError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                return

    def _request(self, client: NbdClient, chance: random.Random) -> None:
        length = 512 * chance.choice([1, 8, 8, 8, 32, 128])
        offset = chance.randrange(0, (self._order["disk_bytes"] - length) // 512 + 1) * 512
        kind, data = chance.random(), chance.randbytes(512) * (length // 512)
        begun = time.monotonic()
        if kind < 0.05 and self._order["flushes"]:
            client.flush()
        elif kind < 0.15:
            client.zero(offset, length)
        else:
            client.write(offset, data)
        took = time.monotonic() - begun
        with self._lock:
            self.longest_s = max(self.longest_s, took)
            self.answered += 1


def main() -> None:
    guests = Guests(json.loads(sys.argv[1]))
    ended = threading.Event()

    def await_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=await_end, daemon=True).start()
    guests.start()
    while not ended.wait(REPORT_S):
        print(guests.report(ended=False), flush=True)
    guests.stop()
    print(guests.report(ended=True), flush=True)
