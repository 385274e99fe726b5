"""``jetdr rehydrate``: writes disks as they were at a recovery point."""

from __future__ import annotations

import enum
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from jetdr_core.cli.cache import cache_file
from jetdr_core.cli.catalog_json import Json as JsonObject
from jetdr_core.cli.catalog_json import extent_json, point_json, time_json
from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.interrupt import run_to_end
from jetdr_core.cli.progress import showing_progress
from jetdr_core.cli.shared_options import Json, KeyPath, NoCache, Url, read_key
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.words import human_bytes, human_seconds
from jetdr_core.extent import describe_extents
from jetdr_core.rehydrate import DiskReport, Report, TargetDevice
from jetdr_core.rehydrate import rehydrate as recover

__all__ = ["rehydrate"]


class Format(enum.StrEnum):
    """The format of the recovered disks."""

    FLAT = "flat"
    VMFS = "vmfs"
    STREAM = "stream"
    RAW = "raw"


At = Annotated[
    str,
    typer.Option(
        "--at",
        metavar="POINT",
        help="The recovery point: an LSN, a time with its zone (2026-01-31T12:00:00Z), a time before now (-1h), the "
        "name of a mark, or latest. lsn:, time: or mark: in front say which is meant.",
        show_default=False,
    ),
]
To = Annotated[
    Path,
    typer.Option(
        "--to",
        metavar="DIR|DEVICE",
        help="The directory for the disks. A missing one is made. Or a block device, for one disk as raw.",
        show_default=False,
    ),
]
Disks = Annotated[
    list[str] | None,
    typer.Option("--disk", metavar="NAME", help="Only this disk. May be repeated.", show_default="all disks"),
]
FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        help="flat: monolithicFlat VMDK; vmfs: VMDK for a VMFS datastore; stream: streamOptimized VMDK; raw: the "
        "disk's bytes as they are.",
    ),
]
KeepGoing = Annotated[
    bool,
    typer.Option("--keep-going", help="Recover everything that is readable, and list what is damaged (exit code 4)."),
]

Confirm = Annotated[
    str | None,
    typer.Option(
        "--confirm",
        metavar="SERIAL|BYTES",
        help="The serial of the block device that is overwritten, or its size in bytes if it has none.",
        show_default="asked for on a terminal",
    ),
]
WorkFolder = Annotated[
    Path | None,
    typer.Option(
        "--work",
        metavar="DIR",
        help="Where a recovery to a block device keeps its working files, with which it is continued.",
        show_default="the working directory",
    ),
]

_INTERRUPTED = "run the same command again, and it continues where it stopped"


@dataclass(frozen=True, slots=True)
class _Recovery:
    url: str
    at: str
    target: Path
    form: str
    disks: list[str] | None
    keep_going: bool
    as_json: bool
    no_cache: bool
    confirm: str | None
    work: Path | None
    key_file: Path | None


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
    confirm: Confirm = None,
    work: WorkFolder = None,
    key_file: KeyPath = None,
) -> Work:
    """Write a domain's disks as they were at a recovery point.

    No existing file is overwritten. A disk gets its final name once it is whole. After an interruption, the same
    command continues where it stopped.
    """
    terminal = ctx.ensure_object(Terminal)
    confirm = _confirmed(terminal, target, form) if confirm is None else confirm
    recovery = _Recovery(
        url, at, target, form.value, disks or None, keep_going, as_json, no_cache, confirm, work, key_file
    )
    return Work(lambda: run_to_end(_rehydrate(terminal, recovery)), _INTERRUPTED)


def _confirmed(terminal: Terminal, target: Path, form: Format) -> str | None:
    """What is typed on a terminal to confirm that the block device ``target`` may be overwritten. None for others."""
    device = TargetDevice.look(target) if form is Format.RAW else None
    if device is None or not sys.stdin.isatty():
        return None
    terminal.tell(f"everything on {device} will be overwritten")
    return str(typer.prompt(f"type its {'serial' if device.serial else 'size in bytes'} to go on", err=True))


async def _rehydrate(terminal: Terminal, recovery: _Recovery) -> int:
    started, domain_key = time.perf_counter(), read_key(recovery.key_file)
    with showing_progress(terminal, silent=recovery.as_json) as advance:
        report = await recover(
            recovery.url,
            at=recovery.at,
            target=recovery.target,
            format=recovery.form,
            disks=recovery.disks,
            cache=cache_file(terminal, no_cache=recovery.no_cache),
            progress=advance,
            keep_going=recovery.keep_going,
            confirm=recovery.confirm,
            work=recovery.work,
            domain_key=domain_key,
        )
    seconds = time.perf_counter() - started
    if recovery.as_json:
        terminal.say_json(_report_json(report, recovery, seconds))
    else:
        _show(terminal, report, seconds)
    return _check_damage(terminal, report)


def _show(terminal: Terminal, report: Report, seconds: float) -> None:
    terminal.say(f"rehydrated {report.point} in {human_seconds(seconds)}", style="bold")
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
        f"data; recover a point that does not need them ('jetdr verify' shows which)"
    )
    return ExitCode.DAMAGED


def _report_json(report: Report, recovery: _Recovery, seconds: float) -> JsonObject:
    return {
        "point": point_json(report.point),
        "latest_is_old": report.is_old or None,
        "target": str(recovery.target),
        "format": recovery.form,
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
