"""What the demo found, for whoever prints it. Frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jetdr_core import RecoveryPoint

__all__ = ["Captured", "DemoReport", "Recovered"]


@dataclass(frozen=True, slots=True)
class Captured:
    """What led to one mark: writes, bytes captured, bytes stored for them, segments.

    ``capture_s`` is the time of the guest's writes and flushes (or of the first copy), ``upload_s`` what was waited for
    behind the mark until the store held it.
    """

    point: RecoveryPoint
    writes: int
    payload_bytes: int
    stored_bytes: int
    segments: int
    capture_s: float
    upload_s: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """One recovery: what it read and wrote, what the checks took, and the shown file as it was then."""

    label: str
    point: RecoveryPoint
    path: Path
    format: str
    bytes_written: int
    bytes_fetched: int
    rehydrate_s: float
    check_s: float
    files: int
    shown: bytes


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The whole demo. ``folder`` is gone by now unless it was to be kept."""

    folder: Path
    kept: bool
    image_bytes: int
    build_s: float
    total_s: float
    captured: tuple[Captured, ...]
    recovered: tuple[Recovered, ...]
