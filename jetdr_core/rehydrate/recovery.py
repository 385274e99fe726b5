"""``rehydrate``: from a store's URL and an instant to finished disks in a directory. Puts the parts in order.

Order: resolve the point, choose the disks, look at the target, plan, check the space (nothing was created so far);
rebuild, finish and announce each disk, write the configuration files, forget the journals. Invariant: an error or a
kill at any step leaves a target that the same call continues.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from jetdr_core.catalog import Catalog, DiskState, RecoveryPoint, chain_key
from jetdr_core.durable import make_folders, sync_folder
from jetdr_core.errors import DamagedObject, InvalidRequest, JetdrError
from jetdr_core.extent import damaged_extents
from jetdr_core.rehydrate.fetch import WORKERS_DEFAULT, WORKERS_MAX, ProgressCallback, Rebuild, Tally
from jetdr_core.rehydrate.journal import RecoveryIdentity
from jetdr_core.rehydrate.plan import PlannedDisk, Planner, SegmentPlace, SegmentPlan
from jetdr_core.rehydrate.report import DiskReport, Report
from jetdr_core.rehydrate.target import (
    FORMATS,
    DiskFiles,
    Progress,
    Standing,
    TargetDisk,
    check_config,
    check_free,
    check_names,
    check_space,
    examine,
    write_config,
)
from jetdr_core.store import ObjectStore

__all__ = ["rehydrate"]

_EVERY_FRAME = (0, 0xFFFF_FFFF)


async def rehydrate(
    url_or_store: str | ObjectStore,
    *,
    at: int | datetime | str,
    target: str | os.PathLike[str],
    format: str = "flat",  # noqa: A002
    disks: Sequence[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    workers: int | None = None,
    keep_going: bool = False,
) -> Report:
    """Rebuild the domain's disks (or those named in ``disks``) as they were at ``at``, in the directory ``target``.

    ``at`` is an LSN, a time with zone (also as ISO 8601 text), a mark's name, or ``"latest"``. ``format`` is ``flat``
    (monolithicFlat VMDK), ``stream`` (streamOptimized VMDK) or ``raw``. The directory is made if it is missing;
    nothing in it is overwritten. At return the disks are durable under their final names, mode 0600, and the domain's
    configuration files lie beside them. An interrupted call is continued by the same call. ``progress`` hears
    (disk name, bytes done, bytes in all). ``workers`` ranges of up to 4 MiB are in memory at once.

    A damaged frame ends the recovery with DamagedObject before anything is announced, unless ``keep_going``: then all
    else is rebuilt, and the report lists what was lost. A store given as an object stays open and is used as it is; one
    given as a URL is retried on transient errors.

    Raises NoSuchPoint, InstantInGap, TargetExists, TargetFull, InvalidRequest before anything was written.
    """
    options = _Options(Path(target), format, WORKERS_DEFAULT if workers is None else workers, keep_going, progress)
    async with await Catalog.open(url_or_store, cache=None if cache is None else Path(cache)) as catalog:
        point = await catalog.resolve(at)
        chosen = _chosen(catalog.history.disks_at(point.lsn), disks, point)
        return await _Recovery(catalog, point, chosen, options).run()


@dataclass(frozen=True, slots=True)
class _Options:
    target: Path
    format: str
    workers: int
    keep_going: bool
    progress: ProgressCallback | None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InvalidRequest(f"format {self.format!r} is not known", hint=f"use {', '.join(FORMATS)}")
        if not 1 <= self.workers <= WORKERS_MAX:
            raise InvalidRequest(f"{self.workers} workers", hint=f"use 1 to {WORKERS_MAX}")
        if os.path.lexists(self.target) and not self.target.is_dir():
            raise InvalidRequest(f"target {os.fspath(self.target)!r} is not a directory", hint="name a directory")


def _chosen(present: Sequence[DiskState], names: Sequence[str] | None, point: RecoveryPoint) -> list[DiskState]:
    by_name = {disk.name: disk for disk in present}
    if names is None:
        return list(present)
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        there = ", ".join(sorted(by_name)) or "none"
        raise InvalidRequest(
            f"disk {unknown[0]!r} is not part of {point}" if unknown else "no disk was chosen",
            hint=f"choose from: {there}",
        )
    return [by_name[name] for name in dict.fromkeys(names)]


def _without_index(place: SegmentPlace, problem: JetdrError) -> JetdrError:
    if not isinstance(problem, DamagedObject):
        return problem
    return DamagedObject(
        place.key,
        f"{problem.part} of LSN {place.lsn_first} to {place.lsn_last}",
        str(problem).removeprefix(f"{place.key}: {problem.part}: "),
        hint=f"recover a point before LSN {place.lsn_first}, or keep going without what is damaged",
    )


class _Recovery:
    """One call of :func:`rehydrate`, its point and disks settled. Row n of every list is disk n of the plan."""

    def __init__(
        self,
        catalog: Catalog,
        point: RecoveryPoint,
        disks: Sequence[DiskState],
        options: _Options,
    ) -> None:
        self.catalog = catalog
        self.point = point
        self.options = options
        self.disks = disks
        self.files = [DiskFiles(options.target, disk.name, options.format) for disk in disks]
        self.identities: list[RecoveryIdentity] = []
        self.without: list[int] = []
        self.numbers = np.ascontiguousarray(catalog.segments["number"])
        self.planner = Planner([PlannedDisk(disk.disk, disk.name, disk.size_bytes) for disk in disks], point.lsn)
        self.tallies = [Tally(disk.name, 0) for disk in disks]
        configs = catalog.history.configs_at(point.lsn)
        self.configs = {options.target / name: text.encode() for name, text in configs.items()}

    async def run(self) -> Report:
        check_names(self.files, [path.name for path in self.configs])
        for path, text in self.configs.items():
            check_config(path, text)
        for files in self.files:
            check_free(files)
        await self._plan()
        self.identities = [self._identity(disk) for disk in self.disks]
        standings = [examine(files, identity) for files, identity in zip(self.files, self.identities, strict=True)]
        segments = self._left(standings)
        check_space(self.options.target, self._needed_bytes(standings))
        make_folders(self.options.target)
        with ExitStack() as opened:
            targets = self._open(standings, opened)
            await self._rebuild(segments, targets)
            await self._finish(targets)
        return self._report()

    def _identity(self, disk: DiskState) -> RecoveryIdentity:
        links = self.catalog.segments
        newest = links[links["first_lsn"] <= self.point.lsn][-1]
        return RecoveryIdentity(
            domain_uuid=str(self.catalog.chain.domain_uuid),
            timeline=self.point.timeline,
            lsn=self.point.lsn,
            disk=disk.disk,
            disk_name=disk.name,
            size_bytes=disk.size_bytes,
            format=self.options.format,
            chain_checksum=newest["checksum"].tobytes().hex(),
            without=",".join(map(str, self.without)),
        )

    # -- plan ----------------------------------------------------------------------------------------------------------

    async def _plan(self) -> None:
        found = self.catalog.indexes_newest_first(self.point.lsn, on_damage=self._without_index)
        async with aclosing(found) as segments:
            async for segment in segments:
                await asyncio.to_thread(self.planner.add, self._place(segment.number), segment.index)
                if self.planner.complete:
                    break
        self.planner.release()

    def _place(self, number: int) -> SegmentPlace:
        link = self.catalog.segments[int(np.searchsorted(self.numbers, number))]
        return SegmentPlace(number, chain_key(number), int(link["first_lsn"]), int(link["last_lsn"]))

    def _without_index(self, number: int, problem: JetdrError) -> None:
        """Go on with older data, saying of every byte not yet covered that it may be older than the point."""
        place = self._place(number)
        if not self.options.keep_going:
            raise _without_index(place, problem) from problem
        self.without.append(number)
        for row, tally in enumerate(self.tallies):
            rows = [(offset, length, place.lsn_first) for offset, length in self.planner.uncovered(row)]
            tally.damaged += damaged_extents(tally.name, rows, place.key, str(problem))

    def _left(self, standings: Sequence[Standing]) -> list[SegmentPlan]:
        """The plan less what earlier runs did; settles the tallies' totals."""
        applied: defaultdict[int, dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        finished: dict[int, list[tuple[int, int]]] = {}
        for row, standing in enumerate(standings):
            if standing.progress in (Progress.EXTENT, Progress.FINISHED):
                finished[row] = [_EVERY_FRAME]
            for done in standing.applied:
                applied[done.segment][row].append((done.frame_first, done.frame_last))
        left = [segment.without(applied[segment.place.number] | finished) for segment in self.planner.segments]
        segments = [segment for segment in left if segment is not None]
        for row, tally in enumerate(self.tallies):
            live_bytes = self.planner.bytes_live[row]
            left_bytes = sum(segment.bytes_of(row) for segment in segments)
            tally.bytes_total = live_bytes * (2 if self.options.format == "stream" else 1)
            tally.bytes_resumed = live_bytes - left_bytes
        return segments

    def _needed_bytes(self, standings: Sequence[Standing]) -> int:
        """Space still to be allocated: the live bytes, and once more as much where a stream is encoded from them."""
        needed = 0
        for row, standing in enumerate(standings):
            live_bytes = self.planner.bytes_live[row]
            if standing.progress in (Progress.NONE, Progress.PARTIAL):
                needed += max(0, live_bytes - self.files[row].allocated_bytes())
                needed += live_bytes if self.options.format == "stream" else 0
        return needed

    # -- rebuild -------------------------------------------------------------------------------------------------------

    def _open(self, standings: Sequence[Standing], opened: ExitStack) -> list[TargetDisk]:
        targets = []
        for files, identity, standing in zip(self.files, self.identities, standings, strict=True):
            targets.append(TargetDisk(files, identity, standing))
            opened.callback(targets[-1].close)
        return targets

    async def _rebuild(self, segments: Sequence[SegmentPlan], targets: Sequence[TargetDisk]) -> None:
        rebuild = Rebuild(
            self.catalog.store,
            segments,
            targets,
            self.tallies,
            workers=self.options.workers,
            keep_going=self.options.keep_going,
            progress=self.options.progress,
        )
        await rebuild.run()

    async def _finish(self, targets: Sequence[TargetDisk]) -> None:
        for row, target in enumerate(targets):
            await asyncio.to_thread(target.finish, self._encoding(row))
            self._tell(row, self.tallies[row].bytes_total)
        for path, text in self.configs.items():
            await asyncio.to_thread(write_config, path, text)
        for target in targets:
            target.forget()
        await asyncio.to_thread(sync_folder, self.options.target)

    # -- report --------------------------------------------------------------------------------------------------------

    def _encoding(self, row: int) -> Callable[[int], None]:
        """Passes the encoder's place, heard in its thread, on to the caller's progress."""
        loop = asyncio.get_running_loop()
        live_bytes, size_bytes = self.planner.bytes_live[row], self.planner.disks[row].size_bytes

        def encoded(place: int) -> None:
            loop.call_soon_threadsafe(self._tell, row, live_bytes + live_bytes * place // size_bytes)

        return encoded

    def _tell(self, row: int, bytes_done: int) -> None:
        if self.options.progress is not None:
            self.options.progress(self.tallies[row].name, bytes_done, self.tallies[row].bytes_total)

    def _report(self) -> Report:
        disks = tuple(
            DiskReport(
                name=tally.name,
                path=files.outputs[-1],
                size_bytes=disk.size_bytes,
                bytes_written=tally.bytes_written,
                bytes_resumed=tally.bytes_resumed,
                bytes_fetched=tally.bytes_fetched,
                lsn=self.point.lsn,
                time_ns=self.point.time_ns,
                damaged=tuple(tally.damaged),
            )
            for tally, files, disk in zip(self.tallies, self.files, self.planner.disks, strict=True)
        )
        return Report(self.point, disks, tuple(self.configs))
