"""DemoReport: the results of the demo, to be printed. Frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jetdr_core import RecoveryPoint

__all__ = ["Capture", "DemoReport", "Recovered"]


@dataclass(frozen=True, slots=True)
class Capture:
    """The work up to one mark: writes, bytes captured, bytes stored for them, segments.

    ``capture_s`` is the time of the guest's writes and flushes, or of the initial copy. ``upload_s`` is the wait after
    the mark until the store held it.
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
    """One recovery: what it read and wrote, the time of the checks, and the shown file as it was then."""

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
    """The whole demo. ``folder`` has been removed unless ``kept``."""

    folder: Path
    kept: bool
    image_bytes: int
    build_s: float
    total_s: float
    captured: tuple[Capture, ...]
    recovered: tuple[Recovered, ...]
