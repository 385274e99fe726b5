"""The replication log: the ordered, durable ring of records on the log volume (docs/formats/log-volume.md)."""

from jetdr_core.replication_log.batch import Cursor
from jetdr_core.replication_log.given_up import GivenUpSection, give_up_section
from jetdr_core.replication_log.inspect import SectionDescription, VolumeDescription, describe_section, describe_volume
from jetdr_core.replication_log.log import LogState, ReplicationLog
from jetdr_core.replication_log.reader import LogBatch
from jetdr_core.replication_log.recovery_scan import RecoveryOutcome
from jetdr_core.replication_log.registry import VolumeLease, look_at_volume, open_volume, take_over_volume, volume_on
from jetdr_core.replication_log.section import Section
from jetdr_core.replication_log.superblock import DISK_IDENTITY_BYTES, SectionBody
from jetdr_core.replication_log.volume import LogVolume, format_volume, is_blank

__all__ = [
    "DISK_IDENTITY_BYTES",
    "Cursor",
    "GivenUpSection",
    "LogBatch",
    "LogState",
    "LogVolume",
    "RecoveryOutcome",
    "ReplicationLog",
    "Section",
    "SectionBody",
    "SectionDescription",
    "VolumeDescription",
    "VolumeLease",
    "describe_section",
    "describe_volume",
    "format_volume",
    "give_up_section",
    "is_blank",
    "look_at_volume",
    "open_volume",
    "take_over_volume",
    "volume_on",
]
