"""nbd: what a guest gets over NBD: operations a second, latency, and the servers' CPU time for it.

The contestants are nbdkit's file plugin, our plugin unprotected, our plugin protected (write-through and write-back,
the log on a file and on a LUN), and QEMU's blklogwrites. One fio job file serves all. The last round of each cell is
read back and compared. At the end every protected disk is rehydrated from its store and compared too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks import fio
from benchmarks.command_line import main
from benchmarks.exports import Export, Place, blklogwrites, nbdkit_file, plugin
from benchmarks.file_state import sync_files, uncache
from benchmarks.measure import AtLeast, AtMost, Row, Scale, interleaved, median
from benchmarks.process import cpu_seconds
from benchmarks.protected_exports import protected_exports

__all__ = ["run"]

MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class _Cell:
    """One section of the job file. ``iops_min`` is the share of unprotected IOPS for write-through to reach."""

    section: str
    title: str
    size_bytes: int
    iops_min: float


@dataclass(frozen=True, slots=True)
class _Turn:
    """One contestant, one cell, one round."""

    written: fio.Written
    cpu_s_per_gb: float


def _cells(random_mib: int, deep_mib: int, flushed_mib: int, sequential_mib: int) -> tuple[_Cell, ...]:
    return (
        _Cell("random-1", "4k random d1", random_mib << 20, 0.9),
        _Cell("random-1-flush", "4k random d1 flush", flushed_mib << 20, 0.8),
        _Cell("random-16", "4k random d16", deep_mib << 20, 0.9),
        _Cell("random-16-flush", "4k random d16 flush", flushed_mib << 20, 0.8),
        _Cell("sequential-8", "64k sequential d8", sequential_mib << 20, 0.9),
    )


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    warm_up: bool
    cells: tuple[_Cell, ...]


SIZES = {
    Scale.FULL: _Size(5, warm_up=True, cells=_cells(32, 128, 16, 256)),
    Scale.QUICK: _Size(1, warm_up=False, cells=_cells(4, 16, 4, 32)),
    Scale.TINY: _Size(1, warm_up=False, cells=_cells(1, 1, 1, 2)),
}


def run(scale: Scale, work: Path) -> list[Row]:
    size = SIZES[scale]
    with _exports(work, max(cell.size_bytes for cell in size.cells)) as exports:
        contest = _Contest(exports, work)
        if size.warm_up:
            contest.rounds(size.cells[2], 1)
        turns = {cell: contest.rounds(cell, size.rounds) for cell in size.cells}
        for export in exports:
            export.check()
    return [row for cell, each in turns.items() for row in _Rows(cell, each).all()]


@contextmanager
def _exports(work: Path, disk_bytes: int) -> Iterator[list[Export]]:
    """Start all contestants. They stop at the end of the context."""
    with ExitStack() as opened:
        runtime = opened.enter_context(tempfile.TemporaryDirectory(prefix="jetdr-nbd-", dir=MEMORY))
        place = Place(work, Path(runtime), disk_bytes)
        exports: list[Export] = []
        for start in (nbdkit_file, plugin, blklogwrites):
            exports.append(start(place))
            opened.callback(exports[-1].end)
        exports += opened.enter_context(protected_exports(place))
        yield exports


class _Contest:
    """Exports taking turns. No two turns write the same bytes."""

    def __init__(self, exports: Sequence[Export], work: Path) -> None:
        self._exports, self._work = exports, work
        self._seeds = count(1)
        self._seed_last: dict[str, int] = {}

    def rounds(self, cell: _Cell, rounds: int) -> dict[str, list[_Turn]]:
        """Return the turns of each export by its name. What the last turns wrote is read back and compared."""
        turns = interleaved(rounds, *(partial(self._turn, export, cell) for export in self._exports))
        with ThreadPoolExecutor(len(self._exports)) as pool:
            list(pool.map(partial(self._verify, cell), self._exports))
        return dict(zip([export.name for export in self._exports], turns, strict=True))

    def _turn(self, export: Export, cell: _Cell) -> _Turn:
        """Give ``export`` its turn. Before it, earlier turns are made durable and the primary is uncached.

        The CPU time includes all work that the turn's writes cause.
        """
        seed = self._seed_last[export.name] = next(self._seeds)
        export.begin()
        sync_files(self._work)
        uncache(export.primary)
        before = cpu_seconds(export.pids)
        written = fio.write_section(cell.section, export.uri, cell.size_bytes, seed, self._work)
        export.settle()
        return _Turn(written, (cpu_seconds(export.pids) - before) / written.bytes * 1e9)

    def _verify(self, cell: _Cell, export: Export) -> None:
        fio.verify_section(cell.section, export.uri, cell.size_bytes, self._seed_last[export.name], self._work)


# -- rows --------------------------------------------------------------------------------------------------------------


def _iops(turn: _Turn) -> float:
    return turn.written.iops


def _p99(turn: _Turn) -> float:
    return turn.written.p99_us


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one cell."""

    cell: _Cell
    turns: Mapping[str, Sequence[_Turn]]

    def all(self) -> list[Row]:
        rows = [self._alone(name) for name in self.turns]
        rows.append(self._beside("unprotected", "nbdkit file", _iops, AtLeast(1.0)))
        for name in self.turns:
            through = "write-through" in name
            if through or "write-back" in name:
                least, most = (AtLeast(self.cell.iops_min), AtMost(1.25)) if through else (None, None)
                rows.append(self._beside(name, "unprotected", _iops, least))
                rows.append(self._beside(name, "unprotected", _p99, most))
                rows.append(self._beside(name, "blklogwrites", _iops, AtLeast(1.0)))
        return rows

    def _alone(self, name: str) -> Row:
        flushes = self._median(name, lambda turn: turn.written.flushes)
        note = f"p50 {self._median(name, lambda turn: turn.written.p50_us):,.0f} us"
        note += f", p99 {self._median(name, _p99):,.0f} us"
        note += f", {self._median(name, lambda turn: turn.cpu_s_per_gb):.1f} CPU s/GB"
        note += f", {flushes:.0f} flushes" if flushes else ""
        return Row(measure=self._measure(name), ours=self._median(name, _iops), unit="IOPS", note=note)

    def _beside(self, name: str, peer: str, of: Callable[[_Turn], float], target: AtLeast | AtMost | None) -> Row:
        """Return a row whose figure is the median of the rounds' ratios: a disturbance meets both sides of a round."""
        ratios = [of(ours) / of(theirs) for ours, theirs in zip(self.turns[name], self.turns[peer], strict=True)]
        return Row(
            measure=self._measure(name) + (", p99" if of is _p99 else ""),
            ours=self._median(name, of),
            unit="us" if of is _p99 else "IOPS",
            peer=peer,
            theirs=self._median(peer, of),
            figure=median(ratios),
            target=target,
        )

    def _measure(self, name: str) -> str:
        return f"{self.cell.title}: {name}"

    def _median(self, name: str, of: Callable[[_Turn], float]) -> float:
        return median([of(turn) for turn in self.turns[name]])


if __name__ == "__main__":
    main({"nbd": run})
