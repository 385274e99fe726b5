"""What the newest state of a domain lacks in its store, and whether it lacks it no more. The owner copies in between.

Invariants: nothing is changed here. What is asked to be copied is all of what is damaged, missing or known to differ in
the newest state, and nothing is called whole that was not read after the copy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from jetdr_core.catalog import SETTLE_S, Catalog
from jetdr_core.domain_key import DomainKey
from jetdr_core.extent import DamagedExtent
from jetdr_core.scrub.compare import SAMPLE_DEFAULT, scrub
from jetdr_core.scrub.extent_reader import WantedExtent, merged, read_extents
from jetdr_core.scrub.report import Agreement, Comparison
from jetdr_core.store import ObjectStore
from jetdr_core.verify import ProgressCallback, verify

__all__ = ["READ_BYTES", "RepairPlan", "plan_repair", "still_unread"]

READ_BYTES = 1 << 20
"""The most that is read of one extent at once."""

Ranges = Mapping[str, list[tuple[int, int]]]
"""Ranges (start, end) of disks, by name. They ascend and do not touch."""


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What is to be copied from the disks once more. ``lost`` is all of it, with the LSN from which points lack it.

    ``why_not`` says why copying is no help, and is empty if it is: what comes after a break in the chain is read by
    nobody.
    """

    url: str
    domain: str
    lost: tuple[DamagedExtent, ...]
    why_not: str

    def ranges(self) -> Ranges:
        names = sorted({extent.disk for extent in self.lost})
        return {
            name: merged((extent.offset, extent.offset + extent.length) for extent in self.lost if extent.disk == name)
            for name in names
        }


async def plan_repair(
    url_or_store: str | ObjectStore,
    *,
    disks: Collection[str] | None = None,
    progress: ProgressCallback | None = None,
    settle_s: float = SETTLE_S,
    domain_key: DomainKey | None = None,
) -> RepairPlan:
    """Read and check the whole store, and compare its newest digests. Raises what :func:`verify` raises.

    A missing object that may be on its way has ``settle_s`` to appear.
    """
    report = await verify(url_or_store, progress=progress, settle_s=settle_s, domain_key=domain_key)
    compared = await scrub(url_or_store, sample=SAMPLE_DEFAULT, domain_key=domain_key)
    lost = [*report.newest_lost, *_differing(compared.comparisons)]
    chosen = tuple(extent for extent in lost if disks is None or extent.disk in disks)
    return RepairPlan(report.url, report.domain, chosen, report.chain_problem or report.tail_problem)


def _differing(comparisons: Collection[Comparison]) -> Iterator[DamagedExtent]:
    """Extents that differ, unless a later digest of the same place is equal: they were copied since."""
    equal = [found for found in comparisons if found.agreement is Agreement.EQUAL]
    for found in comparisons:
        if found.agreement is Agreement.DIFFERENT and not any(found.is_settled_by(later) for later in equal):
            problem = "differs from what the disk held"
            key = ", ".join(found.keys)
            yield DamagedExtent(found.disk, found.offset, found.length, found.lsn, found.lsn, key, problem)


async def still_unread(
    url_or_store: str | ObjectStore, ranges: Ranges, *, domain_key: DomainKey | None = None
) -> list[str]:
    """Read the ranges at the end of the history. Returns what is wrong with those that the store does not give."""
    async with await Catalog.open(url_or_store, domain_key=domain_key) as catalog:
        wanted = list(_wanted(catalog, ranges))
        async with aclosing(read_extents(catalog, wanted)) as reads:
            return [read.problem async for read in reads if read.data is None]


def _wanted(catalog: Catalog, ranges: Ranges) -> Iterator[WantedExtent]:
    for disk in catalog.history.disks:
        for start, end in ranges.get(disk.name, ()):
            for offset in range(start, min(end, disk.size_bytes), READ_BYTES):
                length = min(READ_BYTES, end - offset, disk.size_bytes - offset)
                yield WantedExtent(catalog.lsn_last, disk.disk, disk.size_bytes, offset, length)
