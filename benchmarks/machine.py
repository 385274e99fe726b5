"""The machine that a run was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import lz4
import numpy as np
import xxhash

import jetdr_core

__all__ = ["machine"]


def machine(directory: Path) -> dict[str, str]:
    """Return what a reader must know to judge the figures. The benchmarks work in ``directory``."""
    return {
        "processor": _processor(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory_gib": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f}",
        "kernel": platform.release(),
        "file_system": _file_system(directory),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "lz4": f"{lz4.__version__} ({lz4.library_version_string()})",
        "xxhash": xxhash.VERSION,
        "jetdr_core": str(Path(jetdr_core.__file__).parent),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """Return the type of the file system that holds ``directory``: that of the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [(len(point), kind) for point, kind in mounts if directory.resolve().is_relative_to(point)]
    return max(above)[1] if above else "unknown"
