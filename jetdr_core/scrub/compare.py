"""``scrub``: compares what the store gives back with what the owner read from its disks.

Invariant: it changes nothing, and needs no more than to read the store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import aclosing

import xxhash

from jetdr_core.catalog import Catalog
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import InvalidRequest
from jetdr_core.record import Kind
from jetdr_core.scrub.digests import RecordedDigest, newest_digests
from jetdr_core.scrub.extent_reader import ExtentRead, WantedExtent, read_extents
from jetdr_core.scrub.report import Agreement, Comparison, ScrubReport
from jetdr_core.store import ObjectStore

__all__ = ["SAMPLE_DEFAULT", "ProgressCallback", "scrub"]

SAMPLE_DEFAULT = 256
"""Extents of 128 KiB are 32 MiB."""

ProgressCallback = Callable[[int, int], None]
"""(extents compared, extents in all). Called in the event loop's thread."""


async def scrub(
    url_or_store: str | ObjectStore,
    *,
    sample: int = SAMPLE_DEFAULT,
    disks: Collection[str] | None = None,
    indexes_max: int | None = None,
    progress: ProgressCallback | None = None,
    domain_key: DomainKey | None = None,
) -> ScrubReport:
    """Compare the newest ``sample`` digested extents of the named disks, or of all, with what the store gives back.

    Each extent is recovered as it was at the LSN of its digest, and only the frames that hold it are fetched. With
    ``indexes_max`` no more segments are looked at, and what lies further back is not compared. With ``domain_key`` only
    what an owner of the domain made is believed. Raises what opening the catalog raises.
    """
    if sample < 1:
        raise InvalidRequest(f"a sample of {sample} extents", hint="use 1 or more")
    async with await Catalog.open(url_or_store, domain_key=domain_key) as catalog:
        _check_names(catalog, disks)
        found, unread = await _choose(catalog, sample, disks)
        compared = await _compare(catalog, found, indexes_max, progress)
        digests = sum(record.kind == Kind.DIGESTS for record in catalog.chain.control)
        return ScrubReport(catalog.url, catalog.name, digests, tuple(compared), tuple(unread), catalog.authenticity)


def _check_names(catalog: Catalog, disks: Collection[str] | None) -> None:
    names = set(catalog.history.disk_names.values())
    for unknown in sorted(set(disks or ()) - names):
        raise InvalidRequest(
            f"domain {catalog.name!r} has no disk {unknown!r}",
            hint=f"choose from: {', '.join(sorted(names)) or 'none'}",
        )


async def _choose(
    catalog: Catalog, sample: int, disks: Collection[str] | None
) -> tuple[list[RecordedDigest], list[str]]:
    found: list[RecordedDigest] = []
    unread: list[str] = []
    async with aclosing(newest_digests(catalog, disks)) as digests:
        async for digest in digests:
            if isinstance(digest, RecordedDigest):
                found.append(digest)
            else:
                unread.append(f"the digests of LSN {digest.lsn} cannot be read: {digest.problem}")
            if len(found) + len(unread) >= sample:
                break
    return found, unread


async def _compare(
    catalog: Catalog,
    digests: list[RecordedDigest],
    indexes_max: int | None,
    progress: ProgressCallback | None,
) -> list[Comparison]:
    wanted = {_wanted(digest): digest for digest in digests}
    compared: list[Comparison] = []
    async with aclosing(read_extents(catalog, list(wanted), indexes_max=indexes_max)) as reads:
        async for read in reads:
            compared.append(_comparison(wanted[read.wanted], read))
            if progress is not None:
                progress(len(compared), len(wanted))
    return sorted(compared, key=lambda found: found.lsn, reverse=True)


def _wanted(found: RecordedDigest) -> WantedExtent:
    return WantedExtent(found.digest.lsn, found.disk, found.size_bytes, found.digest.offset, found.digest.length)


def _comparison(recorded: RecordedDigest, read: ExtentRead) -> Comparison:
    lsn, offset, length, digest = recorded.digest
    if read.data is None:
        agreement = Agreement.TOO_FAR if read.is_too_far else Agreement.UNREADABLE
    else:
        agreement = Agreement.EQUAL if xxhash.xxh3_128_digest(read.data) == digest else Agreement.DIFFERENT
    return Comparison(recorded.disk_name, lsn, recorded.time_ns, offset, length, agreement, read.keys, read.problem)
