"""Writes log-v1.img.gz and log-v1.json: a log volume as the first released version of the format has it.

Run it for a new version of the format only, under a new name; a released golden file never changes.
``python -m tests.golden.make_log`` from the repository's root.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from uuid import UUID

from jetdr_core.device import MemoryDevice
from jetdr_core.limits import SECTION_SUPERBLOCK_AREA_BYTES
from jetdr_core.replication_log import superblock
from jetdr_core.replication_log.batch import Cursor
from jetdr_core.replication_log.superblock import (
    SECTION_LAYOUT,
    VOLUME_LAYOUT,
    Layout,
    SectionBody,
    SectionRow,
    Superblock,
    VolumeBody,
)
from tests.log.tools import Forge

HERE = Path(__file__).parent
NAME = "log-v1"
VOLUME = UUID("6a656474-7264-4c6f-8001-000000000001")
OWNER = UUID("6a656474-7264-4c6f-8001-000000000002")
PAYROLL = SectionRow("payroll", UUID("6a656474-7264-4c6f-8001-000000000003"), 1 << 20, 1 << 20)
CRM = SectionRow("crm", UUID("6a656474-7264-4c6f-8001-000000000004"), 2 << 20, 1 << 20)
START_NS = 1_700_000_000_000_000_000


def payload(lsn: int) -> bytes:
    """512 to 2048 bytes that a record of that LSN holds."""
    return hashlib.sha256(lsn.to_bytes(8, "little")).digest() * (16 * (1 + lsn % 4))


def put(device: MemoryDevice, layout: Layout, offset: int, bodies: list[bytes]) -> None:
    """Write successive superblocks; the last one stays."""
    parent: Superblock | None = None
    for body in bodies:
        raw = superblock.seal(layout, body, parent=parent)
        parent = superblock.unseal(layout, raw)
        for at in layout.offsets():
            device.write(offset + at, raw)


def fresh(row: SectionRow, section_id: int) -> SectionBody:
    start = Cursor(0, 0, 0, 0, START_NS)
    return SectionBody(
        name=row.name,
        domain_uuid=row.domain_uuid,
        section_id=section_id,
        data_offset=row.offset + SECTION_SUPERBLOCK_AREA_BYTES,
        data_bytes=row.section_bytes - SECTION_SUPERBLOCK_AREA_BYTES,
        epoch=0,
        timeline=1,
        clean=True,
        lsn_uploaded=0,
        initial_lsn=1,
        tail=start,
        head=start,
    )


def fill(device: MemoryDevice, body: SectionBody, *, laps: float) -> list[Cursor]:
    """Batches of one to five records, and the cursor behind each."""
    forge = Forge(device, body.area, body.tail, epoch=2)
    cursors = [body.tail]
    while forge.cursor.position < laps * body.data_bytes:
        first = forge.cursor.lsn + 1
        cursors.append(forge.batch([payload(first + n) for n in range(1 + first % 5)], offset=512 * first))
        if first % 3 == 0:
            forge.flushed()
    return cursors


def build() -> tuple[bytes, dict[str, object]]:
    """The volume's bytes, and what a reader must find."""
    device = MemoryDevice(3 << 20)
    volume = VolumeBody(VOLUME, OWNER, device.size_bytes, ())
    rows = [volume, volume._replace(sections=(PAYROLL,)), volume._replace(sections=(PAYROLL, CRM))]
    put(device, VOLUME_LAYOUT, 0, [superblock.encode_volume(body) for body in rows])

    wrapped = fresh(PAYROLL, 0x1122334455667788)
    cursors = fill(device, wrapped, laps=1.2)
    tail = cursors[-60]
    in_use = wrapped._replace(epoch=2, timeline=3, clean=False, lsn_uploaded=tail.lsn, tail=tail, head=cursors[-20])
    put(device, SECTION_LAYOUT, PAYROLL.offset, [superblock.encode_section(body) for body in (wrapped, in_use)])

    empty = fresh(CRM, 0x99AABBCCDDEEFF01)
    ends = fill(device, empty, laps=0.05)
    closed = empty._replace(epoch=2, clean=True, head=ends[-1])
    put(device, SECTION_LAYOUT, CRM.offset, [superblock.encode_section(body) for body in (empty, closed)])

    image = bytearray(device.size_bytes)
    device.read_into(0, image)
    return bytes(image), {
        "payroll": expected(tail, cursors[-1], clean=False),
        "crm": expected(ends[0], ends[-1], clean=True),
    }


def expected(tail: Cursor, head: Cursor, *, clean: bool) -> dict[str, object]:
    return {"tail": list(tail), "head": list(head), "clean": clean}


def main() -> None:
    image, contents = build()
    with (HERE / f"{NAME}.img.gz").open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as target:
        target.write(image)
    (HERE / f"{NAME}.json").write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
