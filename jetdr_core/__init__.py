"""jetdr_core: continuous data protection for virtual disks.

Every write of a protected disk is captured in order, kept durably in a replication log, shipped compressed to an object
store, and can be recovered from there as it was after any single write. Start with :class:`ProtectedDomain`,
:class:`Catalog` and :func:`rehydrate`. docs/architecture.md shows how the parts fit.
"""

from importlib import metadata

from jetdr_core import errors
from jetdr_core.catalog import Catalog, Interval, RecoveryPoint
from jetdr_core.domain import Disk, DiskStatus, DomainStatus, HostedDisk, HostedDomain, OnMismatch, ProtectedDomain
from jetdr_core.domain_key import DomainKey, KeyFile
from jetdr_core.errors import JetdrError
from jetdr_core.host import HostOptions
from jetdr_core.options import DomainOptions
from jetdr_core.rehydrate import DiskReport, Report, rehydrate
from jetdr_core.store import open_store
from jetdr_core.verify import VerifyReport, verify

__all__ = [
    "Catalog",
    "Disk",
    "DiskReport",
    "DiskStatus",
    "DomainKey",
    "DomainOptions",
    "DomainStatus",
    "HostOptions",
    "HostedDisk",
    "HostedDomain",
    "Interval",
    "JetdrError",
    "KeyFile",
    "OnMismatch",
    "ProtectedDomain",
    "RecoveryPoint",
    "Report",
    "VerifyReport",
    "__version__",
    "errors",
    "open_store",
    "rehydrate",
    "verify",
]

try:
    __version__ = metadata.version("jetdr_core")
except metadata.PackageNotFoundError:  # a source tree that was never installed
    __version__ = "unknown"
