"""``newest_digests``: the digests that a domain's owner has recorded, newest first.

Invariants: a digest is given only if the domain was consistent at its LSN, its disk was part of the point, and the
extent lies on it. Any other digest says nothing, and is left out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import NamedTuple

import numpy as np

from jetdr_core.catalog import Catalog
from jetdr_core.control_bodies import Digest, Digests, body_of
from jetdr_core.errors import ChainBroken, DamagedObject
from jetdr_core.record import ControlRecord, Kind

__all__ = ["RecordedDigest", "UnreadDigests", "newest_digests"]


class RecordedDigest(NamedTuple):
    """A digest of an extent of a disk. ``time_ns`` is when it was recorded."""

    disk: int
    disk_name: str
    size_bytes: int
    time_ns: int
    digest: Digest


class UnreadDigests(NamedTuple):
    """A record of digests that cannot be read, and why."""

    lsn: int
    problem: str


async def newest_digests(
    catalog: Catalog, disks: Collection[str] | None = None
) -> AsyncGenerator[RecordedDigest | UnreadDigests]:
    """Yield digests of the named disks, or of all. A segment is read when its digests are asked for."""
    names = catalog.history.disk_names
    rows = [record for record in catalog.chain.control if record.kind == Kind.DIGESTS]
    bodies: dict[int, Digests] = {}
    for row in reversed(rows):
        if disks is not None and names.get(row.disk) not in disks:
            continue
        try:
            if row.lsn not in bodies:
                bodies = await _bodies(catalog, row.lsn)
        except (ChainBroken, DamagedObject) as error:
            yield UnreadDigests(row.lsn, str(error))
            continue
        for digest in bodies[row.lsn].extents if row.lsn in bodies else ():
            if (found := _recorded(catalog, row, digest)) is not None:
                yield found


async def _bodies(catalog: Catalog, lsn: int) -> dict[int, Digests]:
    """The bodies of the DIGESTS records in the segment that holds ``lsn``, by LSN."""
    links = catalog.segments
    link = links[int(np.searchsorted(links["first_lsn"], lsn, "right")) - 1]
    control = (await catalog.index(int(link["number"]))).control
    bodies = ((record.lsn, body_of(record)) for record in control if record.kind == Kind.DIGESTS)
    return {at: body for at, body in bodies if isinstance(body, Digests)}


def _recorded(catalog: Catalog, row: ControlRecord, digest: Digest) -> RecordedDigest | None:
    history = catalog.history
    if digest.lsn >= row.lsn or not history.consistent_at(digest.lsn):
        return None
    for disk in history.disks_at(digest.lsn):
        if disk.disk == row.disk and digest.offset + digest.length <= disk.size_bytes:
            ahead_ns = max((turn.ahead_ns for turn in history.clock_turns if turn.lsn <= row.lsn), default=0)
            return RecordedDigest(disk.disk, disk.name, disk.size_bytes, row.time_ns - ahead_ns, digest)
    return None
