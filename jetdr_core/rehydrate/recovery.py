"""``rehydrate``: from a store's URL and an instant to finished disks in a directory.

Order: resolve the point, choose the disks, look at the target, plan, check the space. Nothing has been created so far.
Then open the files, check what an earlier run left, write, finish and announce each disk, write the configuration
files, and remove the journals.

Invariant: an error or a kill at any step leaves a target with which the same call continues.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from jetdr_core.catalog import Catalog, DiskState, RecoveryPoint, SegmentRead, chain_key
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import DamagedObject, Forged, InvalidRequest, JetdrError
from jetdr_core.extent import damaged_extents
from jetdr_core.file_making import trying
from jetdr_core.rehydrate.apply import damage_of, raise_damage
from jetdr_core.rehydrate.asked_point import resolve_asked, words_of
from jetdr_core.rehydrate.config_files import ConfigFiles
from jetdr_core.rehydrate.disk_files import FORMATS, DiskFiles, check_names
from jetdr_core.rehydrate.journal import RecoveryIdentity
from jetdr_core.rehydrate.plan import Planner, SegmentPlace, SegmentPlan
from jetdr_core.rehydrate.recovery_disk import ProgressCallback, RecoveryDisk
from jetdr_core.rehydrate.report import Report
from jetdr_core.rehydrate.standing import check_free
from jetdr_core.rehydrate.target import TargetDisk, check_space
from jetdr_core.rehydrate.target_device import TargetDevice
from jetdr_core.rehydrate.target_folder import TargetFolder
from jetdr_core.rehydrate.transfer import WORKERS_DEFAULT, WORKERS_MAX, Transfer
from jetdr_core.remedies import KEEP_GOING
from jetdr_core.store import ObjectStore

__all__ = ["rehydrate"]

log = logging.getLogger(__name__)


async def rehydrate(
    url_or_store: str | ObjectStore,
    *,
    at: int | datetime | str,
    target: str | os.PathLike[str],
    format: str = "flat",  # noqa: A002
    disks: Sequence[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    workers: int = WORKERS_DEFAULT,
    keep_going: bool = False,
    work: str | os.PathLike[str] | None = None,
    confirm: str | None = None,
    domain_key: DomainKey | None = None,
) -> Report:
    """Recover the domain's disks, or those named in ``disks``, as they were at ``at``, in the directory ``target``.

    ``at`` is an LSN, a time with zone (also as ISO 8601 text), a time before now (``"-1h"``), a mark's name, or
    ``"latest"``. Text may begin with ``lsn:``, ``time:`` or ``mark:``. ``format`` is ``flat`` (monolithicFlat VMDK),
    ``vmfs``, ``stream`` (streamOptimized VMDK) or ``raw``. A missing directory is created, and nothing in it is
    overwritten. At return the disks are durable under their final names, mode 0600, with the domain's configuration
    files beside them. The same call continues an interrupted one, at the point that ``at`` named when it began.
    ``progress`` gets (disk name, bytes done, bytes in all). ``workers`` fetches of 4 MiB are in memory at once.

    ``target`` may be a block device, for one disk as ``raw`` and no configuration files. ``confirm`` repeats its
    serial, or its size in bytes if it has none. The journal lies in the directory ``work`` (default: the working
    directory). At the end the disk is read back.

    Damage ends it with :class:`DamagedObject` before any disk is announced. With ``keep_going`` everything else is
    recovered, and the report lists what was lost. With ``domain_key`` an object that no owner of the domain made is
    damage too, :class:`Forged`, and another key than the domain's is :class:`WrongKey`. A store given as a URL is
    retried on transient errors. Before anything is written come :class:`NoSuchPoint`, :class:`InstantInGap`,
    :class:`TargetExists`, :class:`TargetFull` and :class:`InvalidRequest`.
    """
    folder, device = _place(Path(target), format, work, confirm)
    options = _Options(folder, format, workers, keep_going, progress, words_of(at), device)
    opening = Catalog.open(url_or_store, cache=None if cache is None else Path(cache), domain_key=domain_key)
    async with await opening as catalog:
        point = await resolve_asked(catalog, at, options.target, disks)
        return await _Recovery(catalog, point, _chosen(catalog, disks, point), options).run()


@dataclass(frozen=True, slots=True)
class _Options:
    target: Path
    format: str
    workers: int
    keep_going: bool
    progress: ProgressCallback | None
    asked: str
    device: TargetDevice | None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InvalidRequest(f"format {self.format!r} is not known", hint=f"use {', '.join(FORMATS)}")
        if not 1 <= self.workers <= WORKERS_MAX:
            raise InvalidRequest(f"{self.workers} workers", hint=f"use 1 to {WORKERS_MAX}")
        with trying(self.target, "looking at it"):
            is_folder = not os.path.lexists(self.target) or self.target.is_dir()
        if not is_folder:
            raise InvalidRequest(f"target {os.fspath(self.target)!r} is not a directory", hint="name a directory")


def _place(
    target: Path,
    form: str,
    work: str | os.PathLike[str] | None,
    confirm: str | None,
) -> tuple[Path, TargetDevice | None]:
    """The directory of the recovery, and the device that the target is, if it is one and may be overwritten."""
    device = TargetDevice.look(target)
    if device is None:
        if work is not None or confirm is not None:
            raise InvalidRequest(
                f"target {os.fspath(target)!r} is no block device: it takes neither work folder nor confirmation",
                hint="name a block device, or leave both away",
            )
        return target, None
    if form != "raw":
        raise InvalidRequest(f"a disk cannot be written to {device} in the format {form!r}", hint="use the format raw")
    device.check_confirmed(confirm)
    return Path(work or "."), device


def _chosen(catalog: Catalog, names: Sequence[str] | None, point: RecoveryPoint) -> list[DiskState]:
    present = catalog.history.disks_at(point.lsn)
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


def _files(state: DiskState, options: _Options) -> DiskFiles:
    if options.device is None:
        return DiskFiles(options.target, state.name, options.format)
    return DiskFiles.on_device(options.target, state.name, options.device)


def _check_device(device: TargetDevice, chosen: Sequence[DiskState]) -> None:
    """Raise unless the one chosen disk fits onto the device."""
    if len(chosen) != 1:
        names = ", ".join(disk.name for disk in chosen) or "none"
        raise InvalidRequest(f"{device} takes one disk; chosen are {names}", hint="choose one disk")
    device.check_size(chosen[0].name, chosen[0].size_bytes)


def _without_index(place: SegmentPlace, problem: JetdrError) -> JetdrError:
    if not isinstance(problem, DamagedObject):
        return problem
    kind = Forged if isinstance(problem, Forged) else DamagedObject
    return kind(
        place.key,
        f"{problem.part} of LSN {place.lsn_first} to {place.lsn_last}",
        str(problem).removeprefix(f"{place.key}: {problem.part}: "),
        hint=f"recover a point before LSN {place.lsn_first}, or {KEEP_GOING}",
    )


class _Recovery:
    """One call of :func:`rehydrate`, after its point and disks are chosen. ``disks`` are in the order of the plan."""

    def __init__(self, catalog: Catalog, point: RecoveryPoint, chosen: Sequence[DiskState], options: _Options) -> None:
        if options.device is not None:
            _check_device(options.device, chosen)
        self.catalog = catalog
        self.point = point
        self.options = options
        self.disks = [RecoveryDisk(state, _files(state, options), options.progress) for state in chosen]
        self.planner = Planner([disk.planned for disk in self.disks], point.lsn)
        texts = {} if options.device else catalog.history.configs_at(point.lsn)
        self.configs = ConfigFiles(options.target, texts)
        self.without: list[int] = []
        self.numbers = np.ascontiguousarray(catalog.segments["number"])
        latest = catalog.latest
        self.is_old = catalog.why_latest_is_old if latest and point.lsn == latest.lsn else ""

    async def run(self) -> Report:
        if self.is_old:  # before hours are spent on it
            log.warning("%s", self.is_old)
        check_names([disk.files for disk in self.disks], self.configs.names)
        with ExitStack() as opened:
            await self._prepare(opened)
            target = opened.enter_context(TargetFolder.make(self.options.target))
            self._open(target, opened)
            await self._write(await self._left())
            for row, disk in enumerate(self.disks):
                await disk.verify(self.planner.segments, row)
            await self._finish(target)
        disks = tuple(disk.report(self.point) for disk in self.disks)
        return Report(self.point, disks, self.configs.paths, self.is_old)

    async def _prepare(self, opened: ExitStack) -> None:
        """Everything that can refuse this recovery before anything is created."""
        target = TargetFolder.look(self.options.target)
        if target is not None:
            opened.enter_context(target)
        self.configs.check(target)
        for disk in self.disks:
            check_free(target, disk.files)
        await self._plan()
        for disk in self.disks:
            disk.examine(target, self._identity(disk.state), self.options.asked)
        check_space(self.options.target, sum(disk.needed_bytes() for disk in self.disks))

    def _open(self, target: TargetFolder, opened: ExitStack) -> None:
        """Open all disks. If one of them fails, those that this run began are withdrawn."""
        begun: list[TargetDisk] = []
        try:
            for disk in self.disks:
                begun.append(disk.open(target))
                opened.callback(begun[-1].close)
        except BaseException:
            for disk, files in zip(self.disks, begun, strict=False):
                if not disk.standing.is_resumed:
                    files.withdraw()
            raise

    def _identity(self, state: DiskState) -> RecoveryIdentity:
        links = self.catalog.segments
        newest = links[links["first_lsn"] <= self.point.lsn][-1]
        return RecoveryIdentity(
            domain_uuid=str(self.catalog.chain.domain_uuid),
            timeline=self.point.timeline,
            lsn=self.point.lsn,
            disk=state.disk,
            disk_name=state.name,
            size_bytes=state.size_bytes,
            format=_files(state, self.options).format,
            chain_checksum=newest["checksum"].tobytes().hex() + self._authenticated_by(),
            without=",".join(map(str, self.without)),
        )

    def _authenticated_by(self) -> str:
        """What keeps a recovery with a key from going on with what one without a key has written."""
        key = self.catalog.chain.domain_key
        return "" if key is None else f" {key.key_id.hex()}"

    # -- plan ----------------------------------------------------------------------------------------------------------

    async def _plan(self) -> None:
        found = self.catalog.indexes_newest_first(self.point.lsn, on_damage=self._leave_out)
        async with aclosing(found) as batches:
            async for batch in batches:
                await asyncio.to_thread(self._plan_batch, batch)
                if self.planner.complete:
                    break
        self.planner.release()

    def _plan_batch(self, batch: Sequence[SegmentRead]) -> None:
        for segment in batch:
            if not self.planner.complete:
                self.planner.add(self._place(segment.number), segment.index)

    def _place(self, number: int) -> SegmentPlace:
        link = self.catalog.segments[int(np.searchsorted(self.numbers, number))]
        return SegmentPlace(number, chain_key(number), int(link["first_lsn"]), int(link["last_lsn"]))

    def _leave_out(self, number: int, problem: JetdrError) -> None:
        """Continue with older data. Every byte that is not covered yet may then be older than the point."""
        place = self._place(number)
        if not self.options.keep_going:
            raise _without_index(place, problem) from problem
        self.without.append(number)
        for disk in self.disks:
            rows = [(offset, length, place.lsn_first) for offset, length in disk.planned.uncovered()]
            disk.damaged += damaged_extents(disk.name, rows, place.key, str(problem))

    async def _left(self) -> list[SegmentPlan]:
        """The plan less what is found as an earlier run wrote it."""
        plans = self.planner.segments
        good = [await disk.recheck(plans, row) for row, disk in enumerate(self.disks)]
        left = []
        for plan in plans:
            masks = {row: found[plan.place.number] for row, found in enumerate(good) if plan.place.number in found}
            rest = plan.without(masks)
            rest = rest and self._unless_finished(rest)
            if rest is not None:
                left.append(rest)
        return left

    def _unless_finished(self, plan: SegmentPlan) -> SegmentPlan | None:
        """The plan less the pieces of finished disks. Those were damaged when their disk was written."""
        finished = {row: plan.pieces_of(row) for row, disk in enumerate(self.disks) if disk.standing.is_written}
        for row, pieces in finished.items():
            damage = damage_of(pieces, self.disks, plan.place.key, "was damaged when the disk was recovered")
            if not self.options.keep_going:
                raise_damage(damage)
            self.disks[row].damaged += damage
        return plan.without({row: np.ones(len(pieces), np.bool_) for row, pieces in finished.items()})

    # -- write ---------------------------------------------------------------------------------------------------------

    async def _write(self, segments: Sequence[SegmentPlan]) -> None:
        options = self.options
        transfer = Transfer(
            self.catalog.store, segments, self.disks, workers=options.workers, keep_going=options.keep_going
        )
        await transfer.run()

    async def _finish(self, target: TargetFolder) -> None:
        for disk in self.disks:
            await disk.finish()
        if self.disks:
            await asyncio.to_thread(self.configs.write, target, self.disks[0].target.work)
        for disk in self.disks:
            disk.target.forget()
        await asyncio.to_thread(target.sync)
