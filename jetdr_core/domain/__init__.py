"""The protected domain: the face of the engine for those who embed it."""

from jetdr_core.domain.continuity import OnMismatch
from jetdr_core.domain.disk import Disk
from jetdr_core.domain.disk_fault import DiskFault
from jetdr_core.domain.disk_trouble import DiskTrouble
from jetdr_core.domain.hosted_domain import HostedDomain
from jetdr_core.domain.hosting.served_disks import HostedDisk
from jetdr_core.domain.map_failure import MapFailure
from jetdr_core.domain.protected_domain import ProtectedDomain
from jetdr_core.domain.status import DiskStatus, DomainStatus, HostStatus

__all__ = [
    "Disk",
    "DiskFault",
    "DiskStatus",
    "DiskTrouble",
    "DomainStatus",
    "HostStatus",
    "HostedDisk",
    "HostedDomain",
    "MapFailure",
    "OnMismatch",
    "ProtectedDomain",
]
