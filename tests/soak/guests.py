"""Guests: connections that load a disk over NBD, check what they read, and measure how long they wait.

A guest reconnects if its host component was killed. Any other error is a failure of the soak.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable

from tests.host.nbd_client import FUA, NO_HOLE, NbdClient
from tests.soak.model import BLOCK_BYTES, Model

__all__ = ["Guests"]

BLOCKS_MAX = 32
RECONNECT_S = 0.02


class Guests:
    """``connections`` threads on each disk of ``models``. ``kills`` returns how often connections were broken."""

    def __init__(
        self, path: str, models: dict[str, Model], kills: Callable[[], int], *, connections: int, seed: int
    ) -> None:
        self.pace_s = 0.001
        self.failed: list[str] = []
        self.answered: Counter[str] = Counter()
        self.longest_s: dict[str, float] = {}
        self._path = path
        self._models = models
        self._kills = kills
        self._ending = threading.Event()
        self._changed = threading.Condition()
        self._paused = False
        self._busy = 0
        self._threads = [
            threading.Thread(target=self._run, args=(disk, f"{seed}/{disk}/{index}"), daemon=True)
            for disk in models
            for index in range(connections)
        ]
        for thread in self._threads:
            thread.start()

    def pause(self) -> None:
        """Wait until no request is in flight. None begins before :meth:`resume`."""
        with self._changed:
            self._paused = True
            assert self._changed.wait_for(lambda: self._busy == 0, 60), "a guest hangs"

    def resume(self) -> None:
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def end(self) -> None:
        self._ending.set()
        self.resume()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a guest hangs"

    def _run(self, disk: str, seed: str) -> None:
        chance, model = random.Random(seed), self._models[disk]
        while not self._ending.is_set():
            kills = self._kills()
            try:
                with NbdClient(self._path, disk) as client:
                    while not self._ending.wait(self.pace_s * chance.random() * 2):
                        self._one(client, model, chance)
            except (ConnectionError, FileNotFoundError, _Broken) as error:
                if isinstance(error, _Broken) and self._kills() == kills:
                    self._fail(f"{error}, and nobody killed the host component")
                self._ending.wait(RECONNECT_S)
            except Exception as error:  # noqa: BLE001 - the soak reports it
                self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, problem: str) -> None:
        self.failed.append(problem)
        self._ending.set()

    def _one(self, client: NbdClient, model: Model, chance: random.Random) -> None:
        """Make one request as soon as requests are allowed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._paused or self._ending.is_set())
            self._busy += 1
        try:
            kind, begun = "?", time.monotonic()
            kind = _request(client, model, chance)
            took_s = time.monotonic() - begun
        except ConnectionError as error:
            raise _Broken(f"a connection to disk {model.disk} broke: {error}") from error
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()
        with self._changed:
            self.answered[kind] += 1
            self.longest_s[kind] = max(took_s, self.longest_s.get(kind, 0.0))


class _Broken(Exception):
    """A connection ended in the middle of a request."""


def _request(client: NbdClient, model: Model, chance: random.Random) -> str:
    kind = chance.choices(["write", "read", "zero", "trim", "flush"], [60, 25, 5, 4, 6])[0]
    count = chance.choice([1, 1, 1, 2, 4, 8, BLOCKS_MAX])
    first = chance.randrange(model.blocks - count + 1)
    if kind == "flush":
        client.flush()
    elif kind == "read":
        before = model.reading(first, count)
        model.read(first, before, client.read(first * BLOCK_BYTES, count * BLOCK_BYTES))
    else:
        _change(client, model, kind, first, count, chance)
    return kind


def _change(client: NbdClient, model: Model, kind: str, first: int, count: int, chance: random.Random) -> None:
    offset, length = first * BLOCK_BYTES, count * BLOCK_BYTES
    fua = FUA if chance.random() < 0.05 else 0
    write = model.begin(first, count, zeros=kind != "write")
    try:
        if kind == "write":
            client.write(offset, model.data(write), fua)
        elif kind == "zero":
            client.zero(offset, length, fua | chance.choice([0, NO_HOLE]))
        else:
            client.trim(offset, length)
    except ConnectionError:
        model.broken(write)
        raise
    model.acknowledged(write)
