"""GivenUpSection: a section that is given up, with all that it holds, because nobody needs it any more.

The section may be that of a domain that is no longer protected here, or of one that begins anew. It may be damaged.

Invariant: a section that may have what the disks of its domain lack is given up only if that was asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from uuid import UUID

from jetdr_core.errors import InvalidRequest, LogDamaged, LogFailed, LogNotALog, UnsupportedVersion
from jetdr_core.replication_log.log import ReplicationLog
from jetdr_core.replication_log.registry import open_volume
from jetdr_core.replication_log.volume import LogVolume

__all__ = ["GivenUpSection", "give_up_section"]


@dataclass(frozen=True, slots=True)
class GivenUpSection:
    """What a section holds. ``problem`` says why that cannot be told, and is empty if it can.

    ``lsn_last`` is its last LSN, and ``lsn_uploaded`` the last one that the section knows to be in the store. If
    ``may_lead_disks``, guests were perhaps told of writes that the disks do not have yet.
    """

    lsn_last: int = 0
    lsn_uploaded: int = 0
    may_lead_disks: bool = False
    problem: str = ""

    @classmethod
    def look(cls, volume: LogVolume, name: str, domain_uuid: UUID) -> GivenUpSection:
        """Return what the section of domain ``domain_uuid`` holds. :class:`LogForeign` if it is another domain's."""
        try:
            section = volume.open_section(name, domain_uuid)
        except (LogDamaged, LogFailed, LogNotALog, UnsupportedVersion) as error:
            return cls(may_lead_disks=True, problem=str(error))
        try:
            log = ReplicationLog(section)
            lags = log.body.write_back and log.body.epoch > 0 and not log.outcome.clean
            return cls(log.outcome.head.lsn, log.body.lsn_uploaded, lags)
        except (LogDamaged, LogFailed, UnsupportedVersion) as error:
            return cls(may_lead_disks=section.body.write_back, problem=str(error))
        finally:
            section.close()

    def __str__(self) -> str:
        if self.problem:
            return f"what it held cannot be told: {self.problem}"
        if self.lsn_last <= self.lsn_uploaded:
            return "all that it held was uploaded"
        return f"of what it held, LSN {self.lsn_uploaded + 1} to {self.lsn_last} may not have been uploaded"


def give_up_section(
    path: str | os.PathLike[str], name: str, domain_uuid: UUID, *, owner: UUID, discard: bool = False
) -> GivenUpSection:
    """Remove the section ``name`` of domain ``domain_uuid`` from the volume at ``path``, which nobody may have open.

    Durable at return. :class:`InvalidRequest` if only the section has, or may have, writes that guests were told are
    safe. ``discard`` accepts their loss.
    """
    with open_volume(path, owner=owner) as volume:
        held = GivenUpSection.look(volume, name, domain_uuid)
        if held.may_lead_disks and not discard:
            raise InvalidRequest(
                f"{volume.where}: section {name!r} may alone have writes that guests were told are safe: "
                f"{held.problem or 'it was in write-back, and was not closed with its host component'}",
                hint="open its domain first, so that they are written to the disks; to give them up, add --discard "
                "(discard=True)",
            )
        volume.remove_section(name, domain_uuid)
        return held
