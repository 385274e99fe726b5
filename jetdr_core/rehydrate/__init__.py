"""Rehydrate: recovers disks as they were at a recovery point.

Pure: ``plan``, ``journal``, ``report``. With I/O: ``transfer`` reads the store, ``apply`` and ``target`` write the
disks, ``recovery`` puts the steps in order. docs/architecture.md shows the flow.
"""

from __future__ import annotations

from jetdr_core.extent import DamagedExtent
from jetdr_core.rehydrate.recovery import rehydrate
from jetdr_core.rehydrate.recovery_disk import ProgressCallback
from jetdr_core.rehydrate.report import DiskReport, Report
from jetdr_core.rehydrate.target_device import TargetDevice

__all__ = ["DamagedExtent", "DiskReport", "ProgressCallback", "Report", "TargetDevice", "rehydrate"]
