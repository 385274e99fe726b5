"""LogVolume: an open log volume, with its owner and its table of sections.

Invariants: nothing is written to a volume before its owner was checked. The section table in memory is the one that is
durable. A section is in the table only after its own superblock is durable. Sections do not overlap, and lie within the
volume. A section is open at most once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID, uuid4

from jetdr_core.device.protocol import BlockDevice, GrowableDevice, ReopenableDevice
from jetdr_core.errors import InvalidRequest, LogBusy, LogDamaged, LogForeign, LogTooSmall
from jetdr_core.identity import check_name
from jetdr_core.limits import (
    SECTION_ALIGN_BYTES,
    SECTION_BYTES_MIN,
    SECTIONS_MAX,
    VOLUME_SUPERBLOCK_AREA_BYTES,
)
from jetdr_core.remedies import NEW_LOG
from jetdr_core.replication_log import superblock
from jetdr_core.replication_log.section import Section, create_superblock, matches_domain
from jetdr_core.replication_log.superblock import VOLUME_LAYOUT, SectionRow, VolumeBody
from jetdr_core.replication_log.superblock_copies import SuperblockCopies


class LogVolume:
    """A log volume on ``device``, opened by its owner. Thread-safe.

    With ``owner=None`` it is read only: no owner is checked, nothing is repaired, and nothing can be changed. The
    device is the caller's to close, after the volume.

    Raises :class:`LogNotALog`, :class:`LogForeign`, :class:`UnsupportedVersion`, and :class:`LogDamaged` if the quorum
    is lost, if the volume is shorter than it was, or if a section lies outside of it. The volume is then unchanged.
    """

    def __init__(self, device: BlockDevice, *, owner: UUID | None, where: str) -> None:
        self._device = device
        self._where = where
        self._writable = owner is not None
        self._copies = SuperblockCopies(device, VOLUME_LAYOUT, 0, where=where)
        self._lock = threading.Lock()
        self._open: dict[str, Section] = {}
        _check_size(device, where)
        self._body = superblock.decode_volume(self._copies.load(repair=False), where=where)
        self._check(owner)
        if owner is not None:
            self._copies.load(repair=True)

    @property
    def where(self) -> str:
        """The volume's name in messages."""
        return self._where

    @property
    def device(self) -> BlockDevice:
        return self._device

    @property
    def uuid(self) -> UUID:
        return self._body.volume_uuid

    @property
    def owner(self) -> UUID:
        return self._body.owner

    @property
    def size_bytes(self) -> int:
        """The size that the superblock knows. The device may be larger."""
        return self._body.size_bytes

    @property
    def sequence(self) -> int:
        """How often the volume superblock has been written."""
        return self._copies.sequence

    @property
    def sections(self) -> tuple[SectionRow, ...]:
        return self._body.sections

    def create_section(
        self,
        name: str,
        domain_uuid: UUID,
        section_bytes: int,
        *,
        timeline: int = 1,
        initial_lsn: int = 1,
        time_ns: int = 0,
        clean: bool = True,
    ) -> SectionRow:
        """Make a section for a domain's log. Durable at return.

        ``section_bytes`` counts superblock area and data, and is rounded up to 1 MiB. A file grows. A device of fixed
        size without room is :class:`LogTooSmall`. ``initial_lsn`` and ``time_ns`` continue a history that began
        elsewhere, and ``clean`` says whether the disks hold nothing beyond it.
        """
        check_name("section", name)
        section_bytes = _aligned(section_bytes)
        with self._lock:
            self._check_writable()
            self._check_new(name, section_bytes)
            row = SectionRow(name, domain_uuid, self._free_place(section_bytes), section_bytes)
            self._make_room(row)
            create_superblock(
                self._device,
                row,
                timeline=timeline,
                initial_lsn=initial_lsn,
                time_ns=time_ns,
                clean=clean,
                where=self._where,
            )
            self._write(self._body._replace(size_bytes=self._device.size_bytes, sections=(*self.sections, row)))
        return row

    def open_section(self, name: str, domain_uuid: UUID | None = None) -> Section:
        """Open a domain's section. A ``domain_uuid`` is checked.

        Raises :class:`LogForeign` if there is no such section or if it belongs to another domain, and :class:`LogBusy`
        if it is in use.
        """
        with self._lock:
            row = self._find(name, domain_uuid)
            self._check_closed(name)
            self._open[name] = section = self._opened(row)
        return section

    def replace_section(
        self, name: str, domain_uuid: UUID, section_bytes: int, *, timeline: int, initial_lsn: int, time_ns: int
    ) -> Section:
        """Make and open a section that takes the place of the one that ``name`` has, once an epoch begins in it.

        Until then the table has the old one, which stays as it is. Only where the volume has no room for both, the new
        one is made over the old one. What the old one holds is given up.
        """
        section_bytes = _aligned(section_bytes)
        with self._lock:
            self._check_writable()
            _check_bytes(name, section_bytes)
            old = self._find(name, None)
            self._check_closed(name)
            row = self._place_beside(old, SectionRow(name, domain_uuid, 0, section_bytes))
            create_superblock(
                self._device,
                row,
                timeline=timeline,
                initial_lsn=initial_lsn,
                time_ns=time_ns,
                clean=False,
                where=self._where,
            )
            self._open[name] = section = self._opened(row, on_begin=lambda: self._swap(old, row))
        return section

    def remove_section(self, name: str, domain_uuid: UUID) -> None:
        """Remove a domain's section, whatever it holds. Durable at return. Its place is then free for others.

        :class:`LogForeign` if the section belongs to another domain, :class:`LogBusy` if it is in use.
        """
        with self._lock:
            row = self._find(name, domain_uuid)
            self._check_closed(name)
            rows = tuple(other for other in self.sections if other != row)
            self._write(self._body._replace(sections=rows))

    def take_over(self, owner: UUID) -> None:
        """Make ``owner`` the volume's owner. Durable at return."""
        with self._lock:
            self._write(self._body._replace(owner=owner))

    # -- checks ----------------------------------------------------------------------------------------------------

    def _check(self, owner: UUID | None) -> None:
        if self._device.size_bytes < self._body.size_bytes:
            raise LogDamaged(
                f"{self._where} has {self._device.size_bytes} bytes, its superblock says {self._body.size_bytes}",
                hint="it was cut short or copied in part; restore its full size with its content",
                expected=self._body.size_bytes,
                found=self._device.size_bytes,
            )
        if owner is not None and owner != self._body.owner:
            raise LogForeign(
                f"{self._where} belongs to owner {self._body.owner}, not to {owner}",
                hint="use another log volume; if that owner is gone for good, take this one over: 'jetdr "
                f"take-over-volume {self._where} --from {self._body.owner}'",
                owner=self._body.owner,
            )

    def _check_writable(self) -> None:
        if not self._writable:
            raise InvalidRequest(f"{self._where} was opened for reading only", hint="open it as its owner")

    def _check_new(self, name: str, section_bytes: int) -> None:
        _check_bytes(name, section_bytes)
        held = next((row for row in self.sections if row.name == name), None)
        if held is not None:
            raise LogForeign(
                f"{self._where} holds a section {name!r} already, of domain {held.domain_uuid}",
                hint=f"open that domain, or use another name or volume; to give the section up: "
                f"{give_up_command(self._where, held)}",
            )
        if len(self.sections) >= SECTIONS_MAX:
            raise LogTooSmall(f"{self._where} holds {SECTIONS_MAX} sections already", hint="use another log volume")

    def _check_closed(self, name: str) -> None:
        if name in self._open:
            raise LogBusy(f"{self._where}: section {name!r} is open already", hint="close the domain that uses it")

    def _find(self, name: str, domain_uuid: UUID | None) -> SectionRow:
        row = next((row for row in self.sections if row.name == name), None)
        if row is None:
            held = ", ".join(repr(row.name) for row in self.sections) or "none"
            raise LogForeign(
                f"{self._where} holds no section {name!r} (sections: {held})", hint="name the log volume of that domain"
            )
        if not matches_domain(row, domain_uuid):
            raise LogForeign(
                f"{self._where}: section {name!r} belongs to domain {row.domain_uuid}, not to {domain_uuid}",
                hint="a domain of the same name was created twice; name the log volume of this one; if the section is "
                f"no longer needed, give it up ({give_up_command(self._where, row)}), and {NEW_LOG}",
            )
        return row

    # -- changes ---------------------------------------------------------------------------------------------------

    def _write(self, body: VolumeBody) -> None:
        self._check_writable()
        self._copies.write(superblock.encode_volume(body))
        self._body = body

    def _swap(self, old: SectionRow, new: SectionRow) -> None:
        """Let the table have ``new`` instead of ``old``. Durable at return."""
        with self._lock:
            rows = tuple(new if row == old else row for row in self.sections)
            if rows != self.sections:
                self._write(self._body._replace(size_bytes=self._device.size_bytes, sections=rows))

    @property
    def _taken(self) -> set[SectionRow]:
        """The sections of the table, and those that will be in the table once an epoch begins in them."""
        return {*self.sections, *(section.row for section in self._open.values())}

    def _free_place(self, section_bytes: int) -> int:
        """Return where a new section may begin: in the first hole that takes it, or after all others."""
        at = VOLUME_SUPERBLOCK_AREA_BYTES
        for row in sorted(self._taken, key=lambda row: row.offset):
            if row.offset - at >= section_bytes:
                return at
            at = max(at, row.end)
        return at

    def _place_beside(self, old: SectionRow, new: SectionRow) -> SectionRow:
        """Return ``new`` with its place: beside ``old``, or over it if there is no room for both."""
        beside = new._replace(offset=self._free_place(new.section_bytes))
        try:
            self._make_room(beside)
        except (LogTooSmall, OSError):
            others = (row.offset for row in self._taken if row.offset > old.offset)
            if old.offset + new.section_bytes > min(others, default=self._device.size_bytes):
                raise
            return new._replace(offset=old.offset)
        return beside

    def _make_room(self, row: SectionRow) -> None:
        device, section_bytes = self._device, row.section_bytes
        if row.end <= device.size_bytes:
            return
        if not isinstance(device, GrowableDevice) or not device.can_grow:
            raise LogTooSmall(
                f"{self._where} has {device.size_bytes - row.offset} bytes left, {row.name!r} needs {section_bytes}",
                hint="use a smaller section or a larger device",
                available=device.size_bytes - row.offset,
                wanted=row.section_bytes,
            )
        device.grow(row.end)

    def _opened(self, row: SectionRow, on_begin: Callable[[], None] = lambda: None) -> Section:
        """Open the section on a handle of its own, so that no other section's flush consumes its errors."""
        own = self._device.reopen() if isinstance(self._device, ReopenableDevice) else None

        def release() -> None:
            with self._lock:
                self._open.pop(row.name, None)
            if own is not None:
                own.close()

        try:
            return Section(
                own or self._device,
                row,
                where=self._where,
                repair=self._writable,
                on_begin=on_begin,
                on_close=release,
            )
        except BaseException:
            if own is not None:
                own.close()
            raise


def format_volume(device: BlockDevice, *, owner: UUID, where: str, overwrite: bool = False) -> None:
    """Make ``device`` an empty log volume. Durable at return.

    Without ``overwrite``, :class:`InvalidRequest` if the first MiB of the device holds anything but what an interrupted
    format left.
    """
    _check_size(device, where)
    copies = SuperblockCopies(device, VOLUME_LAYOUT, 0, where=where)
    if not overwrite and not is_blank(device):
        raise InvalidRequest(f"{where} is not empty", hint="name an empty device, or pass overwrite=True")
    if overwrite:
        device.zero(0, VOLUME_SUPERBLOCK_AREA_BYTES)
        device.sync()
    body = VolumeBody(uuid4(), owner, device.size_bytes, ())
    copies.write(superblock.encode_volume(body))


def is_blank(device: BlockDevice) -> bool:
    """Whether the first MiB holds nothing, or only what an interrupted format left."""
    if device.size_bytes < VOLUME_SUPERBLOCK_AREA_BYTES:
        return False
    area = bytearray(VOLUME_SUPERBLOCK_AREA_BYTES)
    device.read_into(0, area)
    copies = []
    for offset in VOLUME_LAYOUT.offsets():
        copies.append(bytes(area[offset : offset + VOLUME_LAYOUT.copy_bytes]))
        area[offset : offset + VOLUME_LAYOUT.copy_bytes] = bytes(VOLUME_LAYOUT.copy_bytes)
    return area.count(0) == len(area) and superblock.is_unfinished_format(copies)


def give_up_command(where: str, row: SectionRow) -> str:
    """Return the command that gives a section up, for a hint."""
    return f"'jetdr give-up-section {where} {row.name} --uuid {row.domain_uuid}'"


def _check_size(device: BlockDevice, where: str) -> None:
    if device.size_bytes < VOLUME_SUPERBLOCK_AREA_BYTES:
        raise LogTooSmall(
            f"{where} has {device.size_bytes} bytes, a log volume at least {VOLUME_SUPERBLOCK_AREA_BYTES}",
            hint="name a log volume, or create one there",
        )


def _check_bytes(name: str, section_bytes: int) -> None:
    if section_bytes < SECTION_BYTES_MIN:
        raise LogTooSmall(
            f"section {name!r} of {section_bytes} bytes is too small",
            hint=f"use at least {SECTION_BYTES_MIN} bytes",
        )


def _aligned(section_bytes: int) -> int:
    return -(-section_bytes // SECTION_ALIGN_BYTES) * SECTION_ALIGN_BYTES
