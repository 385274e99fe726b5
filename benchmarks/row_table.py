"""The rows of a run as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row

__all__ = ["show_rows", "write_json"]

_PLAIN_WIDTH = 180


def show_rows(name: str, rows: Sequence[Row]) -> None:
    """Print the table of one benchmark."""
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
    """Write all rows of a run to one file."""
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
