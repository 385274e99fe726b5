"""Makes a new superblock for a volume that has lost it, from the superblocks of its sections.

The volume's superblock only says where the sections lie, and each section says so itself. But a device without a
volume superblock may as well be a disk or a file that was named by mistake. So the proof is asked for: a section of the
domain that is to be taken over.

Invariant: nothing is written without that proof.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from uuid import UUID, uuid4

from jetdr_core.device.protocol import BlockDevice
from jetdr_core.errors import LogError, UnsupportedVersion
from jetdr_core.limits import SECTION_SUPERBLOCK_AREA_BYTES, VOLUME_SUPERBLOCK_AREA_BYTES
from jetdr_core.replication_log import superblock
from jetdr_core.replication_log.superblock import SECTION_LAYOUT, VOLUME_LAYOUT, SectionRow, VolumeBody
from jetdr_core.replication_log.superblock_copies import SuperblockCopies

__all__ = ["salvage_volume"]

log = logging.getLogger(__name__)


def salvage_volume(device: BlockDevice, *, owner: UUID, domain_uuid: UUID, where: str) -> bool:
    """Make ``device`` a volume of ``owner`` with the sections that are found on it. Durable at return.

    Returns False, with nothing written, if no section of ``domain_uuid`` is among them. Sections are found as long as
    they follow one another without a hole. A section that was replaced or given up stays on the volume beside the newer
    one of its name, which counts. One of ``domain_uuid`` counts before those of other domains that had its name.
    """
    rows = tuple(_rows(device, where, domain_uuid))
    if not any(row.domain_uuid == domain_uuid for row in rows):
        return False
    device.zero(0, VOLUME_SUPERBLOCK_AREA_BYTES)
    device.sync()
    body = VolumeBody(uuid4(), owner, device.size_bytes, rows)
    SuperblockCopies(device, VOLUME_LAYOUT, 0, where=where).write(superblock.encode_volume(body))
    log.warning(
        "%s: its superblock was lost, and was made from its sections: %s", where, ", ".join(r.name for r in rows)
    )
    return True


def _rows(device: BlockDevice, where: str, domain_uuid: UUID) -> list[SectionRow]:
    """Return the newest section of each name, and that of ``domain_uuid`` if it has one."""
    newest: dict[str, tuple[bool, int, SectionRow]] = {}
    for epoch, row in _found(device, where):
        rank = (row.domain_uuid == domain_uuid, epoch)
        if row.name not in newest or rank > newest[row.name][:2]:
            newest[row.name] = (*rank, row)
    return [row for *_, row in newest.values()]


def _found(device: BlockDevice, where: str) -> Iterator[tuple[int, SectionRow]]:
    """Yield what is found, each with its epoch."""
    at = VOLUME_SUPERBLOCK_AREA_BYTES
    while at + SECTION_SUPERBLOCK_AREA_BYTES <= device.size_bytes:
        found = _at(device, at, where)
        if found is None or found[1].end > device.size_bytes:
            return
        yield found
        at = found[1].end


def _at(device: BlockDevice, offset: int, where: str) -> tuple[int, SectionRow] | None:
    copies = SuperblockCopies(device, SECTION_LAYOUT, offset, where=where)
    try:
        body = superblock.decode_section(copies.load(repair=False), where=where)
    except (LogError, UnsupportedVersion):
        return None
    row = SectionRow(body.name, body.domain_uuid, offset, body.data_bytes + SECTION_SUPERBLOCK_AREA_BYTES)
    return (body.epoch, row) if body.data_offset == offset + SECTION_SUPERBLOCK_AREA_BYTES else None
