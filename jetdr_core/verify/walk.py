"""``verify``: reads every byte of every object in a domain's container, and reports what is damaged and what survives.

A few objects are fetched ahead and checked in threads. They are taken in the order of the chain, because a loss is
followed forward through history.

Invariant: an error is only what keeps the container from being read at all, for example missing access. Every other
problem is in the report.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from itertools import chain, islice

import numpy as np

from jetdr_core.catalog import SETTLE_S, Catalog, chain_key, chain_number, chained
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import ObjectUnavailable
from jetdr_core.extent import DamagedExtent, damaged_extents
from jetdr_core.segment import ObjectKind
from jetdr_core.store import ObjectInfo, ObjectStore
from jetdr_core.verify.check import Checked, check_object, object_bytes_max
from jetdr_core.verify.loss import Loss, Losses
from jetdr_core.verify.report import LOST_NAMED_MAX, Damage, PointCheck, VerifyReport

__all__ = ["ProgressCallback", "verify"]

_AHEAD_MAX = 4
_AHEAD_BYTES_MAX = 64 << 20

ProgressCallback = Callable[[int, int], None]
"""(bytes read, bytes in all). Called in the event loop's thread."""


async def verify(
    url_or_store: str | ObjectStore,
    *,
    progress: ProgressCallback | None = None,
    settle_s: float = SETTLE_S,
    domain_key: DomainKey | None = None,
) -> VerifyReport:
    """Read and check everything in the container of a domain. Changes nothing.

    The report names every damaged part, with the disk extents and LSNs that only that part holds. It says of the first
    and the newest recovery point, and of every mark, whether the point can still be recovered whole. A missing object
    that may be on its way has ``settle_s`` to appear. With ``domain_key`` everything must have been made by an owner of
    the domain. Without it nothing is authenticated, which the report says. Raises the errors of opening the catalog and
    of a store that cannot be read.
    """
    async with await Catalog.open(url_or_store, settle_s=settle_s, domain_key=domain_key) as catalog:
        verification = _Verification(catalog, progress)
        await verification.run()
        return verification.report()


class _Verification:
    """One call of :func:`verify`."""

    def __init__(self, catalog: Catalog, progress: ProgressCallback | None) -> None:
        self.catalog = catalog
        self.progress = progress
        self.points = catalog.points()
        self.lsns = [point.lsn for point in self.points]
        self.names = catalog.history.disk_names
        self.chained = chained(catalog.chain.links)
        self.numbers = np.ascontiguousarray(self.chained["number"])
        self.losses = Losses()
        self.damage: list[Damage] = []
        self.orphans: list[str] = []
        self.strangers: list[str] = []
        self.objects = self.segments = self.frames = self.bytes_read = 0

    async def run(self) -> None:
        wanted = await self._objects()
        bytes_total = sum(info.size_bytes for info in wanted if info.size_bytes <= object_bytes_max(info.key))
        async with aclosing(_fetched(self.catalog, wanted)) as objects:
            async for info, checked in objects:
                self._take(info, checked)
                self.objects += 1
                self.bytes_read += checked.bytes_read
                if self.progress is not None:
                    self.progress(self.bytes_read, bytes_total)

    async def _objects(self) -> list[ObjectInfo]:
        """What the container lists and what the chain names, which may have vanished since, in chain order.

        Objects after the end of a chain without a break were put since it was read.
        """
        links, is_broken = self.catalog.chain.links, self.catalog.chain_break is not None
        named = zip(links["number"].tolist(), links["object_bytes"].tolist(), strict=True)
        objects = {key: ObjectInfo(key, size) for number, size in named for key in [chain_key(number)]}
        last = self.catalog.chain.tail.number
        async for info in self.catalog.store.list_prefix(""):
            if is_broken or (chain_number(info.key) or 0) <= last:
                objects[info.key] = info
        return sorted(objects.values(), key=lambda info: chain_number(info.key) or 0)

    def _take(self, info: ObjectInfo, checked: Checked) -> None:
        number = chain_number(info.key)
        link = None if number is None else self._link(number)
        if number is None:
            self._take_other(checked)
        elif link is None:
            self._take_unchained(number, checked)
        else:
            self._take_chained(link, checked)

    def _link(self, number: int) -> np.void | None:
        """The row of the object with that number. None: it does not chain."""
        row = int(np.searchsorted(self.numbers, number))
        known = row < len(self.numbers) and self.numbers[row] == number
        link: np.void | None = self.chained[row] if known else None
        return link

    def _take_other(self, checked: Checked) -> None:
        if checked.is_stranger:
            self.strangers.append(checked.key)
        self._note(checked, 0, 0)

    def _take_unchained(self, number: int, checked: Checked) -> None:
        """Take an object of a fenced owner, or an object at or after a break in the chain."""
        if self.catalog.chain.is_final_at(number):
            self.orphans.append(checked.key)
        trailer = checked.trailer
        self._note(checked, trailer.first_lsn if trailer else 0, trailer.last_lsn if trailer else 0)

    def _take_chained(self, link: np.void, checked: Checked) -> None:
        lsn_first, lsn_last = int(link["first_lsn"]), int(link["last_lsn"])
        if checked.checksum != link["checksum"].tobytes() and not checked.problems:
            checked.problems.append(("trailer", "is not the one that the chain names"))
            checked.index = None
        self._note(checked, lsn_first, lsn_last)
        if link["kind"] != ObjectKind.SEGMENT:
            return
        self.segments += 1
        if checked.index is not None:
            self.frames += len(checked.index.frames)
            self.losses.feed(checked.index.entries, checked.frames_damaged, checked.key)
        elif int(link["entry_count"]):
            sizes = self.catalog.history.sizes_from(lsn_first, self.lsns)
            self.losses.lose_disks(sizes, lsn_first, checked.key, checked.problems[0][1])

    def _note(self, checked: Checked, lsn_first: int, lsn_last: int) -> None:
        for part, problem in checked.problems:
            self.damage.append(Damage(checked.key, part, problem, lsn_first, lsn_last, ()))
        for frame, problem in checked.frames_damaged.items():
            self.damage.append(self._frame_damage(checked, frame, problem))

    def _frame_damage(self, checked: Checked, frame: int, problem: str) -> Damage:
        assert checked.index is not None
        held = checked.index.entries[checked.index.entries["frame"] == frame]
        extents: list[DamagedExtent] = []
        for disk in np.unique(held["disk"]).tolist():
            rows = held[held["disk"] == disk][["offset", "length", "lsn"]].tolist()
            extents += damaged_extents(self._name(disk), rows, checked.key, problem)
        lsns = held["lsn"].tolist() or [0]
        return Damage(checked.key, f"frame {frame}", problem, min(lsns), max(lsns), tuple(extents))

    def _name(self, disk: int) -> str:
        return self.names.get(disk, f"number {disk}")

    # -- what survives -------------------------------------------------------------------------------------------------

    def report(self) -> VerifyReport:
        return VerifyReport(
            url=self.catalog.url,
            domain=self.catalog.name,
            objects=self.objects,
            segments=self.segments,
            frames=self.frames,
            bytes_read=self.bytes_read,
            damage=tuple(self.damage),
            orphans=tuple(self.orphans),
            strangers=tuple(self.strangers),
            chain_problem=self._end_problem(self.catalog.chain_break),
            tail_problem=self._end_problem(self.catalog.tail_loss),
            points=tuple(self._point_checks()),
            authenticity=self.catalog.authenticity,
            newest_lost=tuple(self._newest_lost()),
        )

    def _end_problem(self, end: object) -> str:
        return "" if end is None else f"the chain ends at LSN {self.catalog.lsn_last}: {end}"

    def _point_checks(self) -> Iterator[PointCheck]:
        needed = self.losses.needed_at(self.lsns, self.catalog.history.holds)
        for point, lost in zip(self.points, needed, strict=True):
            named = islice(chain.from_iterable(lost), LOST_NAMED_MAX)
            yield PointCheck(point, sum(map(len, lost)), tuple(map(self._extent, named)))

    def _newest_lost(self) -> Iterator[DamagedExtent]:
        """Of the disks that are protected now, what no object has any more, and no later record has written."""
        sizes = {disk.disk: disk.size_bytes for disk in self.catalog.history.disks}
        for loss, start, end in self.losses.left():
            length = min(end, sizes.get(loss.disk, 0)) - start
            if length > 0:
                yield DamagedExtent(self._name(loss.disk), start, length, loss.lsn, loss.lsn, loss.key, loss.problem)

    def _extent(self, loss: Loss) -> DamagedExtent:
        name = self._name(loss.disk)
        return DamagedExtent(name, loss.offset, loss.length, loss.lsn, loss.lsn, loss.key, loss.problem)


async def _fetched(catalog: Catalog, wanted: Iterable[ObjectInfo]) -> AsyncGenerator[tuple[ObjectInfo, Checked]]:
    """The objects, checked, in the order given. A few objects, and a bounded number of bytes, are fetched ahead."""
    ahead: deque[tuple[ObjectInfo, asyncio.Task[Checked]]] = deque()
    ahead_bytes = 0
    try:
        for info in wanted:
            while ahead and (len(ahead) >= _AHEAD_MAX or ahead_bytes + info.size_bytes > _AHEAD_BYTES_MAX):
                first, task = ahead.popleft()
                ahead_bytes -= first.size_bytes
                yield first, await task
            ahead.append((info, asyncio.create_task(_checked(catalog, info))))
            ahead_bytes += info.size_bytes
        while ahead:
            first, task = ahead.popleft()
            yield first, await task
    finally:
        for _, task in ahead:
            task.cancel()
        await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)


async def _checked(catalog: Catalog, info: ObjectInfo) -> Checked:
    key, bytes_max = info.key, object_bytes_max(info.key)
    if bytes_max == 0:
        return Checked(key, 0, is_stranger=True)
    if not 0 < info.size_bytes <= bytes_max:
        return Checked(key, 0, problems=[("object", f"{info.size_bytes} bytes cannot be; at most {bytes_max} can")])
    try:
        data = await catalog.store.get_range(key, 0, info.size_bytes)
    except ObjectUnavailable as error:
        return Checked(key, 0, problems=[("object", error.problem)])
    return await asyncio.to_thread(check_object, data, key, catalog.chain.domain_key)
