"""The host component, as the DRVA sees it: the nbdkit process beside the guests that runs their IO filters.

The process runs C (native/host) and outlives the process that started it. This package starts the host component, finds
it again, and sends it commands over its control socket (docs/formats/host-control.md).
"""

from jetdr_core.host.component import PLUGIN_PATH, HostComponent
from jetdr_core.host.host_client import HostControl, HostedDiskStats, MapRequest
from jetdr_core.host.hosted_filter import HostedFilter
from jetdr_core.host.options import HostOptions, StartDisk

__all__ = [
    "PLUGIN_PATH",
    "HostComponent",
    "HostControl",
    "HostOptions",
    "HostedDiskStats",
    "HostedFilter",
    "MapRequest",
    "StartDisk",
]
