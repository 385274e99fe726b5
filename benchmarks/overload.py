"""overload: what it costs a guest that the store takes less than it writes, with backpressure and without.

Two loads, each on a new domain with a small log. *slow*: a guest writes as quickly as it can, and the store takes a
small part of it. *cut off*: a guest writes at a moderate rate, and meanwhile nothing is uploaded. The guest's writes
are timed one by one, and logging is looked at all the while. After the load the guest writes little, until the domain
is consistent by itself. At the end the newest recovery point is compared with the primary.

A guest waits if a write takes longer than :data:`WAIT_S`.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from benchmarks.command_line import main
from benchmarks.domain_process import Spec
from benchmarks.exports import DISK, Place
from benchmarks.material import incompressible
from benchmarks.measure import AtMost, Row, Scale, percentile
from benchmarks.protected_exports import Protected, log_file
from jetdr_core.limits import STALL_LIMIT_S_DEFAULT
from tests.host.nbd_client import NbdClient

__all__ = ["run"]

MEMORY = Path("/dev/shm")
PIECE_BYTES = 64 << 10
LOOK_S = 0.05
WAIT_S = 0.01
CALM_S = 0.2
"""Between two writes after the load."""
HICCUP_S = 1.0
"""What a busy machine may add to the stall limit."""


@dataclass(frozen=True, slots=True)
class _Size:
    disk_bytes: int
    log_bytes: int
    load_s: float
    cut_s: float


SIZES = {
    Scale.FULL: _Size(disk_bytes=64 << 20, log_bytes=128 << 20, load_s=90, cut_s=60),
    Scale.QUICK: _Size(disk_bytes=16 << 20, log_bytes=48 << 20, load_s=15, cut_s=10),
    Scale.TINY: _Size(disk_bytes=4 << 20, log_bytes=16 << 20, load_s=0.8, cut_s=0.5),
}


@dataclass(frozen=True, slots=True)
class _Load:
    """``writes_per_s`` None: as quickly as possible. ``cut_off``: for a while nothing is uploaded."""

    title: str
    writes_per_s: float | None
    shipped_per_s: float | None
    cut_off: bool


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a load cost the guest."""

    longest_s: float
    p99_s: float
    waited_part: float
    off_part: float
    consistent_s: float
    writes: int


def run(scale: Scale, work: Path) -> list[Row]:
    size = SIZES[scale]
    rate = size.log_bytes / size.cut_s
    loads = (
        _Load("slow store", None, 2e6 if scale is not Scale.TINY else 8e6, cut_off=False),
        _Load("store cut off", 2 * rate / PIECE_BYTES, None, cut_off=True),
    )
    return [row for load in loads for row in _rows(load, size, work)]


def _rows(load: _Load, size: _Size, work: Path) -> Iterator[Row]:
    ours, theirs = (_cost(load, size, work, name, fill) for name, fill in (("with", 0.7), ("without", 1.0)))

    def row(measure: str, unit: str, mine: float, other: float, target: AtMost | None = None, note: str = "") -> Row:
        title = f"{measure}, {load.title}"
        figure = mine if target else None
        peer = "without backpressure"
        return Row(
            measure=title, ours=mine, unit=unit, peer=peer, theirs=other, figure=figure, target=target, note=note
        )

    limit = AtMost(STALL_LIMIT_S_DEFAULT + HICCUP_S)
    yield row("longest write", "s", ours.longest_s, theirs.longest_s, limit, f"stall limit {STALL_LIMIT_S_DEFAULT:g} s")
    yield row("p99 of the writes", "ms", ours.p99_s * 1e3, theirs.p99_s * 1e3)
    yield row("time waited", "%", ours.waited_part * 100, theirs.waited_part * 100, None, f"{ours.writes:,} writes")
    yield row("logging off", "%", ours.off_part * 100, theirs.off_part * 100)
    yield row("load's end to consistent", "s", ours.consistent_s, theirs.consistent_s)


def _cost(load: _Load, size: _Size, work: Path, name: str, throttle_fill: float) -> _Cost:
    options = {
        "throttle_fill": throttle_fill,
        "segment_bytes": 1 << 20,
        "ring_bytes": 16 << 20,
        "return_delay_max_s": 5,
    }
    if load.shipped_per_s is not None:
        options["bandwidth_bytes_per_s"] = load.shipped_per_s
    with (
        tempfile.TemporaryDirectory(prefix="jetdr-overload-", dir=MEMORY) as runtime,
        tempfile.TemporaryDirectory(prefix=f"{name}-", dir=work) as folder,
    ):
        place = Place(Path(folder), Path(runtime), size.disk_bytes)
        (place.work / "store").mkdir()
        spec = Spec(
            name=name,
            log=log_file(place, name, size.log_bytes),
            log_bytes=size.log_bytes,
            store=f"file://{place.work}/store",
            primary=str(place.primary(name)),
            runtime=runtime,
            state=folder,
            write_back=False,
            options=options,
        )
        export = Protected(spec, place.work)
        try:
            cost = _observe(export, load, size)
            export.settle()
            export.check()
        finally:
            export.end()
        return cost


def _observe(export: Protected, load: _Load, size: _Size) -> _Cost:
    export.ask("consistent")
    guest = _Guest(export.uri, size.disk_bytes, load.writes_per_s)
    begun = time.monotonic()
    cut_at_s, resumed_at_s = (size.load_s - size.cut_s) / 2, (size.load_s + size.cut_s) / 2
    due = [(cut_at_s, "pause"), (resumed_at_s, "resume")] if load.cut_off else []
    looks: list[bool] = []
    while (now_s := time.monotonic() - begun) < size.load_s:
        request = due.pop(0)[1] if due and due[0][0] <= now_s else "status"
        looks.append(export.ask(request).logging)
        time.sleep(LOOK_S)
    calls = guest.calm_down()
    ended = time.monotonic()
    for _, request in due:
        export.ask(request)
    export.ask("consistent")
    consistent_s = time.monotonic() - ended
    guest.end()
    waits = [call for call in calls if call > WAIT_S]
    return _Cost(
        longest_s=max(calls),
        p99_s=percentile(calls, 99),
        waited_part=sum(waits) / size.load_s,
        off_part=looks.count(False) / len(looks),
        consistent_s=consistent_s,
        writes=len(calls),
    )


class _Guest:
    """Writes from a thread of its own, one write after the other, at random places."""

    def __init__(self, uri: str, disk_bytes: int, writes_per_s: float | None) -> None:
        parts = urlsplit(uri)
        self._client = NbdClient(parse_qs(parts.query)["socket"][0], DISK)
        self._disk_bytes = disk_bytes
        self._pause_s = 0.0 if writes_per_s is None else 1 / writes_per_s
        self._data = incompressible(16 << 20)
        self._calls: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def calm_down(self) -> list[float]:
        """Write little from now on. Return how long each write took until now."""
        calls, self._calls, self._pause_s = self._calls, [], CALM_S
        return list(calls)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        self._client.__exit__(None, None, None)

    def _write(self) -> None:
        chance, due_s = random.Random(1), time.monotonic()
        while not self._ended.is_set():
            at, offset = (chance.randrange(size // 4096 - 16) * 4096 for size in (len(self._data), self._disk_bytes))
            begun = time.monotonic()
            self._client.write(offset, bytes(self._data[at : at + PIECE_BYTES]))
            now_s = time.monotonic()
            self._calls.append(now_s - begun)
            due_s = max(due_s + self._pause_s, now_s - 1)  # what it missed for longer than a second is not made up for
            self._ended.wait(max(0.0, due_s - now_s))


if __name__ == "__main__":
    main({"overload": run})
