"""Scrub: compares what a store gives back with what the owner of the domain read from its disks.

Pure: ``report``. With I/O: ``digests`` finds what was recorded, ``extent_reader`` reads extents from the store,
``compare`` does the rest.
"""

from __future__ import annotations

from jetdr_core.scrub.compare import SAMPLE_DEFAULT, ProgressCallback, scrub
from jetdr_core.scrub.report import Agreement, Comparison, DiskScrub, ScrubReport

__all__ = ["SAMPLE_DEFAULT", "Agreement", "Comparison", "DiskScrub", "ProgressCallback", "ScrubReport", "scrub"]
