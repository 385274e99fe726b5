"""Rehydrate: rebuild disks as they were at a recovery point.

Pure: ``plan``, ``journal``, ``report``. I/O: ``fetch`` (store), ``apply`` and ``target`` (file system);
``recovery`` puts them in order. docs/architecture.md shows the flow.
"""

from __future__ import annotations

from jetdr_core.extent import DamagedExtent
from jetdr_core.rehydrate.fetch import ProgressCallback
from jetdr_core.rehydrate.recovery import rehydrate
from jetdr_core.rehydrate.report import DiskReport, Report

__all__ = ["DamagedExtent", "DiskReport", "ProgressCallback", "Report", "rehydrate"]
