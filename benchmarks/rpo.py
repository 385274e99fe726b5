"""rpo: the write rate at which the recovery point stays younger than 2 s, from the guest's write to the store.

fio offers a rate over NBD. Meanwhile the age of the oldest acknowledged write that the store lacks is sampled from
outside: it follows from the LSNs given out and stored, not from the RPO that the engine reports. A rate is held if fio
got it and 99 of 100 samples are within the limit. Bisection finds the highest such rate. The peer puts the same amount
of such data into the same store, uncompressed, without a log, in objects as large as a segment.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

from azure.storage.blob.aio import BlobServiceClient

from benchmarks import fio
from benchmarks.command_line import main
from benchmarks.domain_process import Spec
from benchmarks.exports import Place
from benchmarks.file_state import sync_files
from benchmarks.material import compressible
from benchmarks.measure import AtMost, PeerMissing, Row, Scale, median, percentile
from benchmarks.protected_exports import Protected, log_file
from jetdr_core.limits import SEGMENT_BYTES_DEFAULT
from tests.peers import azurite

__all__ = ["run"]

MEMORY = Path("/dev/shm")
RPO_LIMIT_S = 2.0
SAMPLE_S = 0.05
RATE_MIN = 8e6
RATE_GOT = 0.95
"""A rate is held only if fio got this part of it."""
PUTS = 4


@dataclass(frozen=True, slots=True)
class _Size:
    disk_bytes: int
    log_bytes: int
    peer_bytes: int
    steps: int
    step_s: float


SIZES = {
    Scale.FULL: _Size(disk_bytes=256 << 20, log_bytes=3 << 29, peer_bytes=256 << 20, steps=6, step_s=10),
    Scale.QUICK: _Size(disk_bytes=64 << 20, log_bytes=1 << 29, peer_bytes=64 << 20, steps=2, step_s=2.5),
    Scale.TINY: _Size(disk_bytes=16 << 20, log_bytes=128 << 20, peer_bytes=4 << 20, steps=1, step_s=1),
}


class _Fresh(NamedTuple):
    """An empty store, and what a process needs in its environment to open it."""

    url: str
    environment: Mapping[str, str]


class _Kind(Protocol):
    """A kind of store."""

    title: str
    peer: str

    @contextmanager
    def fresh(self) -> Iterator[_Fresh]:
        """Make an empty store. It is removed at the end of the context."""

    def put_bare(self, objects: list[memoryview]) -> float:
        """Put ``objects``, :data:`PUTS` at once, without our engine. Return the seconds."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One rate offered for a while."""

    rate: float
    got: float
    p50_s: float
    p99_s: float

    @property
    def held(self) -> bool:
        return self.p99_s < RPO_LIMIT_S and self.got >= RATE_GOT * self.rate

    @property
    def why_not(self) -> str:
        """Why the rate was not held."""
        missed = f"RPO {self.p99_s:.1f} s" if self.p99_s >= RPO_LIMIT_S else f"fio got {self.got / 1e6:,.0f}"
        return f"{self.rate / 1e6:,.0f} MB/s not: {missed}"


def run(scale: Scale, work: Path) -> list[Row]:
    size = SIZES[scale]
    return [row for kind in (_Directory(work), _Azurite()) for row in _rows(kind, size, work)]


def _rows(kind: _Kind, size: _Size, work: Path) -> list[Row]:
    bare, steps = [_bare(kind, size)], []
    low, high = RATE_MIN, max(bare[0], 2 * RATE_MIN)
    for _ in range(size.steps):
        rate = math.sqrt(low * high)
        steps.append(_offer(kind, size, rate, work))
        low, high = (rate, high) if steps[-1].held else (low, rate)
    bare.append(_bare(kind, size))
    best = max((step for step in steps if step.held), key=lambda step: step.rate, default=None)
    shown = best or min(steps, key=lambda step: step.rate)
    return [
        Row(
            measure=f"sustained writes, {kind.title}",
            ours=best.got / 1e6 if best else 0.0,
            unit="MB/s",
            peer=kind.peer,
            theirs=median(bare) / 1e6,
            note="; ".join([step.why_not for step in steps if step.rate == high] + [f"{size.step_s:g} s a step"]),
        ),
        Row(
            measure=f"RPO at that rate, p99, {kind.title}",
            ours=shown.p99_s,
            unit="s",
            peer="limit",
            theirs=RPO_LIMIT_S,
            target=AtMost(1.0),
            note=f"p50 {shown.p50_s:.2f} s"
            + ("" if best else f"; no rate was held, this is {shown.rate / 1e6:.0f} MB/s"),
        ),
    ]


# -- one step ----------------------------------------------------------------------------------------------------------


def _offer(kind: _Kind, size: _Size, rate: float, work: Path) -> _Step:
    """Write to a new domain with an empty store at ``rate``. If the rate was held, compare what was stored."""
    with kind.fresh() as store, tempfile.TemporaryDirectory(prefix="jetdr-rpo-", dir=MEMORY) as runtime:
        place = Place(work, Path(runtime), size.disk_bytes)
        spec = Spec(
            name="rpo",
            log=log_file(place, "rpo", size.log_bytes),
            log_bytes=size.log_bytes,
            store=store.url,
            primary=str(place.primary("rpo")),
            runtime=runtime,
            state=str(work),
            write_back=False,
        )
        export = Protected(spec, work, store.environment)
        try:
            sync_files(work)
            step = _observe(export, size, rate, work)
            if step.held:
                export.settle()
                export.check()
        finally:
            export.end()
    return step


def _observe(export: Protected, size: _Size, rate: float, work: Path) -> _Step:
    """Sample the RPO while fio writes. End early once the rate can no longer be held."""
    export.settle()
    age, ages, late_max = _Age(time.monotonic()), [], size.step_s / SAMPLE_S / 100
    offered = fio.Offered(export.uri, size.disk_bytes, rate, size.step_s, work)
    try:
        while offered.running(SAMPLE_S):
            answer = export.ask("status")
            ages.append(age.at(time.monotonic(), answer.lsn_reserved, answer.lsn_uploaded))
            if sum(each >= RPO_LIMIT_S for each in ages) > late_max:
                return _Step(rate, 0.0, percentile(ages, 50), max(ages))
        written = offered.written()
    finally:
        offered.end()
    return _Step(rate, written.bytes / written.seconds, percentile(ages, 50), percentile(ages, 99))


class _Age:
    """The age of the oldest write that the store lacks, at most one sample too high."""

    def __init__(self, now: float) -> None:
        self._given: deque[tuple[float, int]] = deque()
        self._stored_s = now  # everything was stored then

    def at(self, now: float, lsn_given: int, lsn_stored: int) -> float:
        self._given.append((now, lsn_given))
        while self._given and self._given[0][1] <= lsn_stored:
            self._stored_s = self._given.popleft()[0]
        return now - self._stored_s if self._given else 0.0


# -- kinds of store ----------------------------------------------------------------------------------------------------


def _bare(kind: _Kind, size: _Size) -> float:
    """Return the bytes per second of the peer."""
    data = memoryview(_peer_data(size.peer_bytes))
    step = SEGMENT_BYTES_DEFAULT
    return len(data) / kind.put_bare([data[start : start + step] for start in range(0, len(data), step)])


@cache
def _peer_data(length: int) -> bytes:
    return bytes(compressible(length))


class _Directory:
    title = "directory store"
    peer = f"files of 16 MiB and fsync, {PUTS} at once"

    def __init__(self, work: Path) -> None:
        self._work = work

    @contextmanager
    def fresh(self) -> Iterator[_Fresh]:
        folder = self._work / "store"
        try:
            yield _Fresh(folder.as_uri(), {})
        finally:
            shutil.rmtree(folder)

    def put_bare(self, objects: list[memoryview]) -> float:
        folder = self._work / "bare"
        folder.mkdir()
        begun = time.perf_counter()
        with ThreadPoolExecutor(PUTS) as pool:
            list(pool.map(_put_file, (folder / f"{nth:06d}" for nth in range(len(objects))), objects))
        took = time.perf_counter() - begun
        shutil.rmtree(folder)
        return took


def _put_file(path: Path, data: memoryview) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


class _Azurite:
    """Azurite, a new server for each store: it keeps objects in memory, and slows down with all it ever held."""

    title = "Azurite"
    peer = f"bare SDK, blobs of 16 MiB, {PUTS} at once"

    @contextmanager
    def fresh(self) -> Iterator[_Fresh]:
        with _server() as server:
            yield _Fresh("az://rpo", server.environment())

    def put_bare(self, objects: list[memoryview]) -> float:
        with _server() as server:
            return asyncio.run(_put_blobs(server, objects))


@contextmanager
def _server() -> Iterator[azurite.Azurite]:
    try:
        with azurite.running_azurite() as server:
            yield server
    except azurite.PeerMissing as error:
        raise PeerMissing(str(error)) from error


async def _put_blobs(server: azurite.Azurite, objects: list[memoryview]) -> float:
    async with (
        BlobServiceClient.from_connection_string(server.connection_string, max_single_put_size=64 << 20) as service,
        service.get_container_client("bare") as client,
    ):
        await client.create_container()
        rest = iter(enumerate(objects))

        async def worker() -> None:
            for nth, data in rest:
                await client.upload_blob(f"{nth:06d}", bytes(data))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # aiohttp warns of bodies as large as these
            begun = time.perf_counter()
            await asyncio.gather(*(worker() for _ in range(PUTS)))
            return time.perf_counter() - begun


if __name__ == "__main__":
    main({"rpo": run})
