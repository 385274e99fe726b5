"""The table and the JSON of a run, and the machine it ran on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import lz4
import numpy as np
import xxhash
from rich.console import Console
from rich.table import Table

import jetdr_core
from benchmarks.measure import Row

__all__ = ["machine", "show_rows", "write_json"]

_PLAIN_WIDTH = 180


def machine(directory: Path) -> dict[str, str]:
    """What a reader must know to read the figures."""
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


def show_rows(name: str, rows: Sequence[Row]) -> None:
    """Print one benchmark's table."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_WIDTH)
    table = Table(title=name, title_justify="left")
    for column in ("measure", "ours", "peer", "peer's", "ratio or figure", "to reach", "reached", "note"):
        table.add_column(column, justify="right" if column in {"ours", "peer's", "ratio or figure"} else "left")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)


def write_json(path: Path, where: Mapping[str, str], results: Mapping[str, Sequence[Row]]) -> None:
    """All rows of a run in one file."""
    benchmarks = {name: [_as_json(row) for row in rows] for name, rows in results.items()}
    path.write_text(json.dumps({"machine": where, "benchmarks": benchmarks}, indent=2) + "\n")


def _cells(row: Row) -> list[str]:
    judged, reached = row.judged, {None: "", True: "yes", False: "NO"}[row.reached]
    return [
        row.measure,
        f"{_number(row.ours)} {row.unit}",
        row.peer,
        "" if row.theirs is None else f"{_number(row.theirs)} {row.unit}",
        "" if judged is None else _number(judged),
        "" if row.target is None else str(row.target),
        reached,
        row.note,
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _as_json(row: Row) -> dict[str, object]:
    return {
        "measure": row.measure,
        "unit": row.unit,
        "ours": row.ours,
        "peer": row.peer,
        "theirs": row.theirs,
        "judged": row.judged,
        "target": None if row.target is None else str(row.target),
        "reached": row.reached,
        "note": row.note,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """Type of the file system that holds ``directory``: the longest mount point above it."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [(len(point), kind) for point, kind in mounts if directory.resolve().is_relative_to(point)]
    return max(above)[1] if above else "unknown"
