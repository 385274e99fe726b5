"""``jetdr demo``: shows the steps of the demo, then its results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.interrupt import run_to_end
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.words import human_bytes, human_seconds
from jetdr_core.demo import Capture, DemoReport, Recovered, run_demo

__all__ = ["demo"]

Keep = Annotated[bool, typer.Option("--keep", help="Keep store, log and disks, and print where they are.")]
Parent = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="Work in a new folder below this directory.", show_default="$TMPDIR or /tmp"
    ),
]

_SHOWN_BYTES = 16


def demo(ctx: typer.Context, keep: Keep = False, parent: Parent = None) -> Work:
    """Protect a real ext4 file system, change it, and recover it at two marks and at one write in between.

    qemu-img, e2fsck and debugfs check each recovered VMDK, the last of them file by file. The demo takes seconds, needs
    no root and about 200 MiB of space, and leaves nothing. It needs the Debian packages e2fsprogs and qemu-utils.
    """
    terminal = ctx.ensure_object(Terminal)
    return Work(lambda: _demo(terminal, keep=keep, parent=parent))


def _demo(terminal: Terminal, *, keep: bool, parent: Path | None) -> int:
    report = run_demo(parent=parent, keep=keep, tell=terminal.say, run=run_to_end)
    _show(terminal, report)
    return ExitCode.OK


def _show(terminal: Terminal, report: DemoReport) -> None:
    terminal.say()
    terminal.say_table(
        ("up to mark", ">LSN", ">writes", ">captured", ">stored", ">ratio", ">segments", ">capture", ">upload"),
        [_captured_row(row) for row in report.captured],
    )
    terminal.say("capture: time of writes and flushes; upload: wait after the mark, as most was uploaded meanwhile")
    terminal.say()
    terminal.say_table(
        ("recovered", "VMDK", ">live data", ">fetched", ">rehydrate", ">checks", ">files equal"),
        [_recovered_row(row) for row in report.recovered],
    )
    terminal.say()
    terminal.say("ledger/summary.txt, read from the recovered disks:", style="bold")
    for row in report.recovered:
        terminal.say(f"  {row.label}: {_content(row.shown)}")
    terminal.say()
    terminal.say(
        f"every disk equals the guest's byte for byte, e2fsck found nothing, qemu-img agrees; "
        f"{human_seconds(report.total_s)} in all, {report.build_s:.2f} s of it to make the file system"
    )
    if report.kept:
        terminal.say(f"kept in {report.folder}; try: jetdr points {(report.folder / 'store').as_uri()}")


def _captured_row(row: Capture) -> tuple[object, ...]:
    ratio = row.payload_bytes / row.stored_bytes if row.stored_bytes else 1.0
    return (
        row.point.name,
        row.point.lsn,
        row.writes or "copied",
        human_bytes(row.payload_bytes),
        human_bytes(row.stored_bytes),
        f"{ratio:.1f}",
        row.segments,
        f"{row.capture_s:.2f} s",
        f"{row.upload_s:.2f} s",
    )


def _recovered_row(row: Recovered) -> tuple[object, ...]:
    return (
        row.label,
        row.format,
        human_bytes(row.bytes_written),
        human_bytes(row.bytes_fetched),
        f"{row.rehydrate_s:.2f} s",
        f"{row.check_s:.2f} s",
        f"{row.files} of {row.files}",
    )


def _content(data: bytes) -> str:
    """Return text on one line, or the first bytes of noise."""
    try:
        return " | ".join(data.decode("ascii").splitlines())
    except UnicodeDecodeError:
        return f"{data[:_SHOWN_BYTES].hex(' ')} ... (noise)"
