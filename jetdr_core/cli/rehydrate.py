"""``jetdr rehydrate``: disks as they were at a recovery point."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from jetdr_core.cli.cache import cache_file
from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.interrupt import run_to_end
from jetdr_core.cli.options import Json, NoCache, Url
from jetdr_core.cli.progress import showing_progress
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.views import Json as JsonObject
from jetdr_core.cli.views import extent_json, point_json, time_json
from jetdr_core.cli.words import human_bytes, human_seconds
from jetdr_core.extent import describe_extents
from jetdr_core.rehydrate import DiskReport, Report
from jetdr_core.rehydrate import rehydrate as recover

__all__ = ["rehydrate"]


class Format(enum.StrEnum):
    """What is written for each disk."""

    FLAT = "flat"
    STREAM = "stream"
    RAW = "raw"


At = Annotated[
    str,
    typer.Option(
        "--at",
        metavar="POINT",
        help="The recovery point: an LSN, a time with zone (2026-01-31T12:00:00Z), a mark's name, or latest.",
        show_default=False,
    ),
]
To = Annotated[
    Path,
    typer.Option("--to", metavar="DIR", help="Directory for the disks; made if it is missing.", show_default=False),
]
Disks = Annotated[
    list[str] | None,
    typer.Option("--disk", metavar="NAME", help="Only this disk; may be repeated.", show_default="all disks"),
]
FormatOption = Annotated[
    Format,
    typer.Option(
        "--format", help="flat: monolithicFlat VMDK; stream: streamOptimized VMDK; raw: the disk's bytes as they are."
    ),
]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Rebuild what can be rebuilt, and list what is damaged (exit code 4).")
]

_INTERRUPTED = "run the same command again and it continues where it stopped"


@dataclass(frozen=True, slots=True)
class _Request:
    url: str
    at: str
    target: Path
    form: str
    disks: list[str] | None
    keep_going: bool
    as_json: bool
    no_cache: bool


def rehydrate(
    ctx: typer.Context,
    url: Url,
    at: At,
    target: To,
    disks: Disks = None,
    form: FormatOption = Format.FLAT,
    keep_going: KeepGoing = False,
    as_json: Json = False,
    no_cache: NoCache = False,
) -> Work:
    """Rebuild a domain's disks as they were at a recovery point.

    Nothing that exists is overwritten. A disk has its final name when it is whole; after an interruption the same
    command continues where it stopped.
    """
    terminal = ctx.ensure_object(Terminal)
    request = _Request(url, at, target, form.value, disks or None, keep_going, as_json, no_cache)
    return Work(lambda: run_to_end(_rehydrate(terminal, request)), _INTERRUPTED)


async def _rehydrate(terminal: Terminal, request: _Request) -> int:
    started = time.perf_counter()
    with showing_progress(terminal, silent=request.as_json) as advance:
        report = await recover(
            request.url,
            at=request.at,
            target=request.target,
            format=request.form,
            disks=request.disks,
            cache=cache_file(terminal, no_cache=request.no_cache),
            progress=advance,
            keep_going=request.keep_going,
        )
    seconds = time.perf_counter() - started
    if request.as_json:
        terminal.say_json(_report_json(report, request, seconds))
    else:
        _show(terminal, report, seconds)
    return _check_damage(terminal, report)


def _show(terminal: Terminal, report: Report, seconds: float) -> None:
    terminal.say(f"rebuilt {report.point} in {human_seconds(seconds)}", style="bold")
    rows = [
        (disk.name, *map(human_bytes, (disk.size_bytes, _live_bytes(disk), disk.bytes_fetched)), disk.path)
        for disk in report.disks
    ]
    terminal.say_table(("disk", ">size", ">live data", ">fetched", "file"), rows)
    for path in report.configs:
        terminal.say(f"configuration: {path}")


def _live_bytes(disk: DiskReport) -> int:
    return disk.bytes_written + disk.bytes_resumed


def _check_damage(terminal: Terminal, report: Report) -> int:
    if not report.damaged:
        return ExitCode.OK
    terminal.complain(
        f"the disks are not whole: {describe_extents(report.damaged)} could not be read and may hold zeros or older "
        f"data; recover a point that does not need them ('jetdr verify' tells which)"
    )
    return ExitCode.DAMAGED


def _report_json(report: Report, request: _Request, seconds: float) -> JsonObject:
    return {
        "point": point_json(report.point),
        "target": str(request.target),
        "format": request.form,
        "seconds": round(seconds, 6),
        "disks": [_disk_json(disk) for disk in report.disks],
        "configs": [str(path) for path in report.configs],
    }


def _disk_json(disk: DiskReport) -> JsonObject:
    return {
        "name": disk.name,
        "path": str(disk.path),
        "size_bytes": disk.size_bytes,
        "bytes_written": disk.bytes_written,
        "bytes_resumed": disk.bytes_resumed,
        "bytes_fetched": disk.bytes_fetched,
        "lsn": disk.lsn,
        **time_json("time", disk.time_ns),
        "damaged": [extent_json(extent) for extent in disk.damaged],
    }
