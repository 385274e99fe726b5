"""``jetdr scrub``: compares what a store gives back with what the owner of the domain read from its disks."""

from __future__ import annotations

from typing import Annotated

import typer

from jetdr_core.catalog import Authenticity, iso_time
from jetdr_core.cli.catalog_json import Json as JsonObject
from jetdr_core.cli.catalog_json import time_json
from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.interrupt import run_to_end
from jetdr_core.cli.progress import showing_progress
from jetdr_core.cli.shared_options import Json, KeyPath, Url, read_key
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.words import human_bytes, plural
from jetdr_core.domain_key import DomainKey
from jetdr_core.scrub import SAMPLE_DEFAULT, Agreement, Comparison, DiskScrub, ScrubReport
from jetdr_core.scrub import scrub as scrub_store

__all__ = ["comparison_json", "scrub"]

Sample = Annotated[int, typer.Option("--sample", metavar="N", min=1, help="Compare at most the newest N extents.")]
Disks = Annotated[
    list[str] | None, typer.Option("--disk", metavar="NAME", help="Compare this disk only. May be repeated.")
]


def scrub(
    ctx: typer.Context,
    url: Url,
    sample: Sample = SAMPLE_DEFAULT,
    disk: Disks = None,
    as_json: Json = False,
    key_file: KeyPath = None,
) -> Work:
    """Compare what a domain's store gives back with what its disks held.

    Every few minutes the owner records digests of some extents, read from the disks themselves. This recovers those
    extents from the store, as they were at the same moments, and compares. 'jetdr verify' finds bytes that were damaged
    in the store. This also finds bytes that were wrong before they got there, under right checksums.

    It changes nothing. It ends with exit code 4 if anything differs or cannot be read. If the domain has a key and it
    is not given, the exit code is 8.
    """
    terminal = ctx.ensure_object(Terminal)
    return Work(
        lambda: run_to_end(_scrub(terminal, url, read_key(key_file), sample=sample, disks=disk, as_json=as_json))
    )


async def _scrub(
    terminal: Terminal, url: str, domain_key: DomainKey | None, *, sample: int, disks: list[str] | None, as_json: bool
) -> int:
    with showing_progress(terminal, silent=as_json) as advance:
        report = await scrub_store(
            url,
            sample=sample,
            disks=disks or None,
            progress=lambda done, total: advance("extents compared", done, total),
            domain_key=domain_key,
        )
    if as_json:
        terminal.say_json(_report_json(report))
    else:
        _show(terminal, report)
    return _check(terminal, report)


def _show(terminal: Terminal, report: ScrubReport) -> None:
    terminal.say(f"domain {report.domain} in {report.url}", style="bold")
    wrong = (Agreement.DIFFERENT, Agreement.UNREADABLE)
    for found in report.comparisons:
        if found.agreement in wrong:
            terminal.say(f"{'DIFFERENT' if found.agreement is Agreement.DIFFERENT else 'DAMAGED'} {found}", style="red")
    for problem in report.unread:
        terminal.say(f"DAMAGED {problem}", style="red")
    disks = report.disks()
    terminal.say_table(
        ("disk", ">compared", ">bytes", ">different", ">unreadable", "last verified point"), list(map(_row, disks))
    )
    if not any(disk.compared for disk in disks):
        why = "it could not be read" if report.digests else "the store holds no digests yet"
        terminal.say(f"nothing was compared, so nothing is verified: {why}")


def _row(disk: DiskScrub) -> tuple[object, ...]:
    return (
        disk.name,
        disk.compared,
        human_bytes(disk.bytes_compared),
        disk.different,
        disk.unreadable,
        _point(disk.verified),
    )


def _point(verified: Comparison | None) -> str:
    return "none" if verified is None else f"LSN {verified.lsn} at {iso_time(verified.time_ns)}"


def _check(terminal: Terminal, report: ScrubReport) -> int:
    different = sum(found.agreement is Agreement.DIFFERENT for found in report.comparisons)
    if different:
        terminal.complain(
            f"{report.url}: {plural(different, 'extent')} of the store differ from what the disks held, though every "
            f"checksum is right: an error of the engine or of a machine's memory; 'jetdr repair {report.domain}' has "
            f"the newest state right again, and points from there until then stay wrong; report it"
        )
        return ExitCode.DAMAGED
    if not report.is_sound:
        terminal.complain(
            f"{report.url}: some of what was to be compared cannot be read; 'jetdr verify URL' names all that is "
            f"damaged, and 'jetdr repair {report.domain}' has the newest state whole again"
        )
        return ExitCode.DAMAGED
    if report.authenticity is Authenticity.NOT_CHECKED:
        terminal.complain(
            f"{report.url}: nothing differs, but nothing was authenticated: whoever could write to the store may have "
            f"forged digests too; give the domain's key with --key-file"
        )
        return ExitCode.NOT_AUTHENTICATED
    return ExitCode.OK


def comparison_json(found: Comparison) -> JsonObject:
    """Return one comparison."""
    return {
        "disk": found.disk,
        "lsn": found.lsn,
        **time_json("time", found.time_ns),
        "offset": found.offset,
        "length": found.length,
        "agreement": str(found.agreement),
        "keys": list(found.keys),
        "problem": found.problem or None,
    }


def _verified_json(found: Comparison | None) -> JsonObject | None:
    return None if found is None else {"lsn": found.lsn, **time_json("time", found.time_ns)}


def _report_json(report: ScrubReport) -> JsonObject:
    return {
        "url": report.url,
        "domain": report.domain,
        "sound": report.is_sound,
        "authenticity": str(report.authenticity),
        "digests": report.digests,
        "verified": _verified_json(report.verified),
        "disks": [
            {
                "name": disk.name,
                "compared": disk.compared,
                "bytes_compared": disk.bytes_compared,
                "different": disk.different,
                "unreadable": disk.unreadable,
                "verified": _verified_json(disk.verified),
            }
            for disk in report.disks()
        ],
        "comparisons": [comparison_json(found) for found in report.comparisons],
        "unread": list(report.unread),
    }
