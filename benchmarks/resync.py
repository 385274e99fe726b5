"""resync: what the dirty map costs a guest, and what it saves after a death or a bypass of the log.

The peer is the same engine without a map, as before there was one: it copies whole disks. Both serve a disk of their
own in the same run, and take turns. *Hot*: 4 KiB writes at random places of a small disk. *Cold*: of a huge sparse one,
so that nearly every write is the first one to its region and waits for a flush of the map. *Killed*: host component
and owner are killed after some writes. *Bypass*: the owner is dead for a while, and the guest goes on. At the end of
each the newest recovery point is compared with the primary.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from benchmarks import fio
from benchmarks.command_line import main
from benchmarks.domain_process import Spec
from benchmarks.exports import DISK, Place
from benchmarks.material import incompressible
from benchmarks.measure import AtLeast, AtMost, Row, Scale, interleaved, median
from benchmarks.protected_exports import Protected, log_file
from tests.host.nbd_client import NbdClient

__all__ = ["run"]

MEMORY = Path("/dev/shm")
PEER = "without a map"
PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    io_s: float
    hot_bytes: int
    cold_bytes: int
    log_bytes: int
    disk_bytes: int
    live_bytes: int
    late_bytes: int
    bypass_s: float
    bypass_bytes_per_s: float


SIZES = {
    Scale.FULL: _Size(3, 10, 1 << 30, 1 << 40, 4 << 30, 64 << 30, 2 << 30, 50 << 20, 30, 20e6),
    Scale.QUICK: _Size(1, 3, 64 << 20, 64 << 30, 1 << 30, 4 << 30, 256 << 20, 8 << 20, 5, 10e6),
    Scale.TINY: _Size(1, 0.2, 4 << 20, 1 << 30, 64 << 20, 32 << 20, 8 << 20, 1 << 20, 0.2, 5e6),
}


def run(scale: Scale, work: Path) -> list[Row]:
    size = SIZES[scale]
    rows = _io_rows("hot", size, size.hot_bytes, work, {1: 0.98, 16: 0.98}, is_sparse=False)
    rows += _io_rows("cold", size, size.cold_bytes, work, {1: 0.7, 16: 0.7}, is_sparse=True)
    return rows + _death_rows(size, work)


# -- what it costs -----------------------------------------------------------------------------------------------------


def _io_rows(
    title: str, size: _Size, disk_bytes: int, work: Path, least: dict[int, float], *, is_sparse: bool
) -> list[Row]:
    seeds, rows = count(1), []
    with _pair(size, disk_bytes, 0 if is_sparse else disk_bytes, work) as exports:
        for depth, bound in least.items():
            turns = interleaved(size.rounds, *(partial(_iops, one, disk_bytes, depth, size, seeds) for one in exports))
            ratios = [ours / theirs for ours, theirs in zip(*turns, strict=True)]
            ours, theirs = map(median, turns)
            measure = f"4k random d{depth}, {title}"
            rows.append(
                Row(
                    measure=measure, ours=ours, unit="IOPS", peer=PEER, theirs=theirs, figure=median(ratios),
                    target=AtLeast(bound),
                )
            )  # fmt: skip
        for export in exports:
            export.ask("consistent")
            export.settle()
            export.check()
    return rows


def _iops(export: Protected, disk_bytes: int, depth: int, size: _Size, seeds: Iterator[int]) -> float:
    written = fio.write_randomly(export.uri, disk_bytes, depth, size.io_s, next(seeds), export.primary.parent)
    export.settle()
    return written.iops


# -- what it saves -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cost:
    consistent_s: float
    copied_bytes: int


def _death_rows(size: _Size, work: Path) -> list[Row]:
    with _pair(size, size.disk_bytes, size.live_bytes, work) as exports:
        killed = [_killed(exports, nth, size) for nth in range(len(exports))]
        bypassed = [_bypassed(exports, nth, size) for nth in range(len(exports))]
        for export in exports:
            export.settle()
            export.check()
    written = int(size.bypass_s * size.bypass_bytes_per_s) // PIECE_BYTES * PIECE_BYTES
    return [
        _row("killed, to consistent", "s", [one.consistent_s for one in killed], AtMost(0.05)),
        _row("killed, copied", "MB", [one.copied_bytes / 1e6 for one in killed]),
        _row("bypass, to consistent", "s", [one.consistent_s for one in bypassed]),
        replace(
            _row("bypass, copied to written", "", [one.copied_bytes / max(written, PIECE_BYTES) for one in bypassed]),
            unit="x",
            figure=bypassed[0].copied_bytes / max(written, PIECE_BYTES),
            target=AtMost(1.3),
        ),
    ]


def _row(measure: str, unit: str, figures: Sequence[float], target: AtMost | None = None) -> Row:
    ours, theirs = figures
    return Row(measure=measure, ours=ours, unit=unit, peer=PEER, theirs=theirs, target=target)


def _killed(exports: list[Protected], nth: int, size: _Size) -> _Cost:
    """Kill both processes after some writes since the last clearing, and open the domain again."""
    export = exports[nth]
    export.ask("consistent")
    export.settle()
    if export.spec.mapped:
        for _ in range(3):
            export.ask("tend")
            export.settle()
    _write(export, 0, size.late_bytes, size.late_bytes * 100)
    export.kill(host=True)
    return _reopened(exports, nth)


def _bypassed(exports: list[Protected], nth: int, size: _Size) -> _Cost:
    """Kill the owner, let the guest write for a while, and open the domain again."""
    exports[nth].kill(host=False)
    with _client(exports[nth]) as guest:
        guest.write(0, bytes(4096))
        guest.flush()  # waits for the stall limit, and then logging is off
    _write(exports[nth], 0, int(size.bypass_s * size.bypass_bytes_per_s), size.bypass_bytes_per_s)
    return _reopened(exports, nth)


def _reopened(exports: list[Protected], nth: int) -> _Cost:
    begun = time.monotonic()
    exports[nth] = export = Protected(replace(exports[nth].spec, reopened=True), exports[nth].primary.parent)
    copied_bytes = export.ask("consistent").copied_bytes
    return _Cost(time.monotonic() - begun, copied_bytes)


def _write(export: Protected, offset: int, length: int, bytes_per_s: float) -> None:
    """Let a guest write one piece after the other, each once, at that rate."""
    data, begun = bytes(incompressible(PIECE_BYTES, seed=length)), time.monotonic()
    with _client(export) as guest:
        for at in range(0, length, PIECE_BYTES):
            guest.write(offset + at, data)
            time.sleep(max(0.0, begun + at / bytes_per_s - time.monotonic()))


def _client(export: Protected) -> NbdClient:
    return NbdClient(parse_qs(urlsplit(export.uri).query)["socket"][0], DISK)


# -- the contestants ---------------------------------------------------------------------------------------------------


@contextmanager
def _pair(size: _Size, disk_bytes: int, live_bytes: int, work: Path) -> Iterator[list[Protected]]:
    """Start two domains with a disk each, one with a dirty map. They stop at the end of the context."""
    with ExitStack() as opened:
        runtime = opened.enter_context(tempfile.TemporaryDirectory(prefix="jetdr-resync-", dir=MEMORY))
        exports: list[Protected] = []
        opened.callback(_end, exports)
        for name, mapped in (("mapped", True), ("whole", False)):
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-", dir=work)))
            place = Place(folder, Path(runtime), disk_bytes)
            exports.append(Protected(_spec(name, place, size, live_bytes, mapped=mapped), folder))
            exports[-1].ask("consistent")
        yield exports


def _end(exports: list[Protected]) -> None:
    for export in exports:
        export.end()


def _spec(name: str, place: Place, size: _Size, live_bytes: int, *, mapped: bool) -> Spec:
    primary = place.work / "disk.img"
    with primary.open("wb") as disk:
        for at in range(0, live_bytes, PIECE_BYTES):
            disk.write(incompressible(PIECE_BYTES, seed=at))
        disk.truncate(place.disk_bytes)
        os.fsync(disk.fileno())
    (place.work / "store").mkdir()
    return Spec(
        name=name,
        log=log_file(place, name, size.log_bytes),
        log_bytes=size.log_bytes,
        store=f"file://{place.work}/store",
        primary=str(primary),
        runtime=str(place.runtime),
        state=str(place.work),
        write_back=False,
        options={"ring_bytes": 16 << 20},
        mapped=mapped,
    )


if __name__ == "__main__":
    main({"resync": run})
