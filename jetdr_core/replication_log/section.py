"""Section: one domain's part of a log volume, with its superblock and the device handle for its log.

Invariants: the superblock in memory is the one that is durable. It changes only in :meth:`Section.update`, one change
at a time. After a failed write of the superblock, every further change is refused.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from uuid import UUID

from jetdr_core.device.protocol import BlockDevice
from jetdr_core.limits import SECTION_SUPERBLOCK_AREA_BYTES
from jetdr_core.replication_log import superblock
from jetdr_core.replication_log.batch import Cursor
from jetdr_core.replication_log.superblock import SECTION_LAYOUT, SectionBody, SectionRow
from jetdr_core.replication_log.superblock_copies import SuperblockCopies


class Section:
    """An open section. Thread-safe.

    ``on_begin`` is called before an epoch begins. ``on_close`` is called once, when the section is closed.
    """

    def __init__(
        self,
        device: BlockDevice,
        row: SectionRow,
        *,
        where: str,
        repair: bool = True,
        on_begin: Callable[[], None] = lambda: None,
        on_close: Callable[[], None],
    ) -> None:
        self.device = device
        self.row = row
        self.where = f"{where} section {row.name!r}"
        self._copies = SuperblockCopies(device, SECTION_LAYOUT, row.offset, where=self.where)
        self._body = superblock.decode_section(self._copies.load(repair=repair), where=self.where)
        superblock.check_place(self._body, row, where=self.where)
        self._lock = threading.Lock()
        self.on_begin = on_begin
        self._on_close = on_close
        self._closed = False

    @property
    def body(self) -> SectionBody:
        """What the durable superblock says."""
        return self._body

    @property
    def sequence(self) -> int:
        """How often the superblock has been written."""
        return self._copies.sequence

    @property
    def failed(self) -> bool:
        return self._copies.failed

    def update(self, change: Callable[[SectionBody], SectionBody]) -> SectionBody:
        """Replace the superblock by what ``change`` makes of it. Durable at return. :class:`LogFailed` is final."""
        with self._lock:
            body = change(self._body)
            self._copies.write(superblock.encode_section(body))
            self._body = body
            return body

    def begin_at(self, initial_lsn: int, time_ns: int, *, clean: bool) -> None:
        """Move the beginning of a section in which no epoch has begun. Durable at return.

        ``clean``: whether the disks hold nothing beyond that LSN.
        """
        start = _start(initial_lsn, time_ns)

        def change(body: SectionBody) -> SectionBody:
            assert body.epoch == 0, "nothing was ever written here"
            return body._replace(
                initial_lsn=initial_lsn, lsn_uploaded=initial_lsn - 1, tail=start, head=start, clean=clean
            )

        self.update(change)

    def close(self) -> None:
        """Release the section. Idempotent."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._on_close()


def _start(initial_lsn: int, time_ns: int) -> Cursor:
    return Cursor(position=0, batch_number=0, lsn=initial_lsn - 1, checksum=0, time_ns=time_ns)


def create_superblock(
    device: BlockDevice, row: SectionRow, *, timeline: int, initial_lsn: int, time_ns: int, clean: bool, where: str
) -> None:
    """Write the first superblock of a new section. Durable at return."""
    empty = _start(initial_lsn, time_ns)
    body = SectionBody(
        name=row.name,
        domain_uuid=row.domain_uuid,
        section_id=secrets.randbits(64) | 1,
        data_offset=row.offset + SECTION_SUPERBLOCK_AREA_BYTES,
        data_bytes=row.section_bytes - SECTION_SUPERBLOCK_AREA_BYTES,
        epoch=0,
        timeline=timeline,
        clean=clean,
        lsn_uploaded=initial_lsn - 1,
        initial_lsn=initial_lsn,
        tail=empty,
        head=empty,
    )
    copies = SuperblockCopies(device, SECTION_LAYOUT, row.offset, where=f"{where} section {row.name!r}")
    copies.write(superblock.encode_section(body))


def matches_domain(row: SectionRow, domain_uuid: UUID | None) -> bool:
    """Whether the section belongs to that domain. None stands for any domain."""
    return domain_uuid is None or row.domain_uuid == domain_uuid
