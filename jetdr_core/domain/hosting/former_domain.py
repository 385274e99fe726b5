"""FormerDomain: what this machine still has of a domain that is to begin anew under its name.

The container of a domain may be lost, or its key. Its disks are then protected by a new domain, from the first object
on. But log section, ring and state folder still speak of the old domain, and each of them refuses the new one.

Invariants: the UUID that was asked for is that of what is given up, so nothing of another domain is touched. In
write-back the disks hold all that guests were told is safe, or somebody has said that they count as they are. What can
be refused is refused before anything is removed. The disks are not touched.
"""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path
from uuid import UUID

from jetdr_core.domain.hosting.bypassed_file import BypassedFile, served_file
from jetdr_core.domain.hosting.generation_file import GenerationFile
from jetdr_core.domain.hosting.pending_ring import PendingRing
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.domain.known_file import KnownFile
from jetdr_core.domain.known_record import KnownRecord
from jetdr_core.errors import InvalidRequest, LogForeign, LogNotALog
from jetdr_core.host import HostComponent, HostOptions
from jetdr_core.identity import host_owner
from jetdr_core.replication_log import GivenUpSection, LogVolume, open_volume

__all__ = ["FormerDomain"]

log_ = logging.getLogger(__name__)


class FormerDomain:
    """Domain ``domain_uuid``, which had the name ``name``. ``log`` is the volume that the new domain is to have."""

    def __init__(self, name: str, domain_uuid: UUID, log: str | PathLike[str], host: HostOptions) -> None:
        self._name = name
        self._uuid = domain_uuid
        self._log = log
        self._component = HostComponent(name, host)
        self._ring = RingPlace(Path(host.runtime) / name, domain_uuid)
        self._pending = PendingRing(name, host)
        self._known = KnownFile(Path(host.state), name)
        self._state = Path(host.state)
        self._write_back = host.write_back

    def give_up(self, *, keep_disks: bool) -> None:
        """End the host component and remove what there is. Durable at return. Idempotent.

        Guests of the host component reconnect once the new domain serves them. :class:`LogForeign` if this machine has
        another domain of that name. :class:`InvalidRequest` if in write-back the disks may lack what guests were told
        is safe, unless ``keep_disks`` says that they count as they are.
        """
        try:
            with open_volume(self._log, owner=host_owner(), salvage_for=self._uuid) as volume:
                self._give_up(volume, keep_disks=keep_disks)
        except (FileNotFoundError, LogNotALog):
            self._give_up(None, keep_disks=keep_disks)

    def _give_up(self, volume: LogVolume | None, *, keep_disks: bool) -> None:
        section = self._section(volume)
        record = self._known.read()
        if record is not None and record.domain_uuid != self._uuid:
            raise self._foreign(record, volume if section is not None else None)
        self._check_ring()
        self._component.stop()
        if not keep_disks and (why := self._why_disks_may_lag(section, record)):
            raise InvalidRequest(
                f"domain {self._name!r} cannot begin anew: {why}",
                hint="bring the store back, and open the domain, so that they are written to the disks. To give them "
                f"up, add --on-mismatch {self._name}=copy",
            )
        self._ring.remove()
        self._remove_state()
        if volume is not None and section is not None:
            volume.remove_section(self._name, self._uuid)
        log_.warning(
            "domain %s: the domain %s is given up here; %s", self._name, self._uuid, section or "it had no log section"
        )

    def _foreign(self, record: KnownRecord, volume: LogVolume | None) -> LogForeign:
        """The error of a state folder of another domain. ``volume`` has a section of the domain that was named."""
        hint = f"give that UUID: --begin-anew {self._name}={record.domain_uuid}"
        if volume is not None:
            hint = (
                f"name the log volume of that domain; if the section on this one is needed no more, give it up "
                f"('jetdr give-up-section {volume.where} {self._name} --uuid {self._uuid}'), and {hint}"
            )
        return LogForeign(
            f"domain {self._name!r}: its state folder knows the domain {record.domain_uuid}, not {self._uuid}",
            hint=hint,
        )

    def _section(self, volume: LogVolume | None) -> GivenUpSection | None:
        """Return what the domain's section holds, None if there is none. :class:`LogForeign` for another domain's."""
        if volume is None or not any(row.name == self._name for row in volume.sections):
            return None
        return GivenUpSection.look(volume, self._name, self._uuid)

    def _check_ring(self) -> None:
        """Refuse a ring of another domain: :class:`RingForeign`."""
        ring = self._ring.open()
        if ring is not None:
            ring.leave()

    def _why_disks_may_lag(self, section: GivenUpSection | None, record: KnownRecord | None) -> str:
        """Why the disks may lack what guests were told is safe. Empty if they have it. No host component runs."""
        if section is not None and not section.problem:
            lag = section.may_lead_disks
        elif record is not None:
            lag = record.write_back and not record.ended
        else:
            lag = section is not None and self._write_back
        known = [] if record is None else [one for one in (record.log, record.next) if one is not None]
        if not lag or self._pending.spares_log(self._uuid, known):
            return ""
        return "its log was in write-back and was not closed, and may have writes that guests were told are safe"

    def _remove_state(self) -> None:
        self._known.remove()
        for file in (BypassedFile(self._state, self._name), served_file(self._state, self._name)):
            file.remove()
        GenerationFile(self._state / self._name).remove()
