"""Block devices: what a primary and a log volume lie on."""

from jetdr_core.device.absent import AbsentDevice
from jetdr_core.device.file import FileDevice, identity_of
from jetdr_core.device.iscsi import IscsiDevice
from jetdr_core.device.iscsi_url import IscsiLun, IscsiOptions, is_iscsi
from jetdr_core.device.memory import MemoryDevice
from jetdr_core.device.protocol import BlockDevice

__all__ = [
    "AbsentDevice",
    "BlockDevice",
    "FileDevice",
    "IscsiDevice",
    "IscsiLun",
    "IscsiOptions",
    "MemoryDevice",
    "identity_of",
    "is_iscsi",
]
