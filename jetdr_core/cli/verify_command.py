"""``jetdr verify``: reads everything that a store holds, and reports what is damaged and what survives."""

from __future__ import annotations

from typing import Annotated

import typer

from jetdr_core.catalog import Authenticity, iso_time
from jetdr_core.cli.catalog_json import Json as JsonObject
from jetdr_core.cli.catalog_json import extent_json, point_json
from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.interrupt import run_to_end
from jetdr_core.cli.progress import showing_progress
from jetdr_core.cli.shared_options import Json, KeyPath, Url, read_key
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.words import human_bytes, plural
from jetdr_core.domain_key import DomainKey
from jetdr_core.extent import describe_extents
from jetdr_core.verify import PointCheck, VerifyReport
from jetdr_core.verify import verify as verify_store

__all__ = ["verify"]


WithoutKey = Annotated[
    bool,
    typer.Option("--without-key", help="Accept that nothing is authenticated, although the domain has a key."),
]


def verify(
    ctx: typer.Context, url: Url, as_json: Json = False, key_file: KeyPath = None, without_key: WithoutKey = False
) -> Work:
    """Read and check every byte of a domain's store. List what is damaged, and which recovery points survive.

    It changes nothing. It ends with exit code 4 if anything is damaged, forged or missing. If the domain has a key and
    it is not given, what is whole may still be forged, and the exit code is 8.
    """
    terminal = ctx.ensure_object(Terminal)
    return Work(
        lambda: run_to_end(_verify(terminal, url, read_key(key_file), as_json=as_json, without_key=without_key))
    )


async def _verify(
    terminal: Terminal, url: str, domain_key: DomainKey | None, *, as_json: bool, without_key: bool
) -> int:
    with showing_progress(terminal, silent=as_json) as advance:
        report = await verify_store(
            url, progress=lambda done, total: advance("read and checked", done, total), domain_key=domain_key
        )
    if as_json:
        terminal.say_json(_report_json(report))
    else:
        _show(terminal, report)
    return _check(terminal, report) or _check_authenticity(terminal, report, without_key=without_key)


def _show(terminal: Terminal, report: VerifyReport) -> None:
    terminal.say(f"domain {report.domain} in {report.url}", style="bold")
    terminal.say(
        f"read {human_bytes(report.bytes_read)}: {plural(report.objects, 'object')}, "
        f"{plural(report.segments, 'segment')}, {plural(report.frames, 'frame')}"
    )
    for damage in report.damage:
        terminal.say(f"DAMAGED {damage}", style="red")
    if report.chain_problem:
        terminal.say(f"DAMAGED {report.chain_problem}", style="red")
    if report.tail_problem:
        terminal.say(f"DAMAGED {report.tail_problem}", style="red")
    for key in report.orphans:
        terminal.say(f"not in the chain, harmless: {key}")
    for key in report.strangers:
        terminal.say(f"not made by this engine: {key}")
    rows = [
        (check.point.lsn, iso_time(check.point.time_ns), check.point.name or "", _verdict(check))
        for check in report.points
    ]
    terminal.say_table((">LSN", "time", "mark", "recoverable"), rows)


def _verdict(check: PointCheck) -> str:
    if check.survives:
        return "yes"
    return f"no, {plural(check.lost_extents, 'extent')} lost: {describe_extents(check.lost)}"


def _check(terminal: Terminal, report: VerifyReport) -> int:
    if report.is_sound:
        return ExitCode.OK
    survivors = sum(check.survives for check in report.points)
    parts = len(report.damage) + bool(report.chain_problem) + bool(report.tail_problem)
    terminal.complain(
        f"{report.url}: {plural(parts, 'part')} damaged or missing, {survivors} of "
        f"{plural(len(report.points), 'recovery point')} can be recovered whole; recover one of these, or restore the "
        f"damaged objects from a copy of the container"
    )
    return ExitCode.DAMAGED


def _check_authenticity(terminal: Terminal, report: VerifyReport, *, without_key: bool) -> int:
    if without_key or report.authenticity is not Authenticity.NOT_CHECKED:
        return ExitCode.OK
    terminal.complain(
        f"{report.url}: nothing is damaged, but nothing was authenticated: whoever could write to the store may have "
        f"forged it; give the domain's key with --key-file, or say --without-key"
    )
    return ExitCode.NOT_AUTHENTICATED


def _report_json(report: VerifyReport) -> JsonObject:
    return {
        "url": report.url,
        "domain": report.domain,
        "sound": report.is_sound,
        "authenticity": str(report.authenticity),
        "objects": report.objects,
        "segments": report.segments,
        "frames": report.frames,
        "bytes_read": report.bytes_read,
        "damage": [
            {
                "key": damage.key,
                "part": damage.part,
                "problem": damage.problem,
                "lsn_first": damage.lsn_first,
                "lsn_last": damage.lsn_last,
                "extents": [extent_json(extent) for extent in damage.extents],
            }
            for damage in report.damage
        ],
        "chain_problem": report.chain_problem or None,
        "tail_problem": report.tail_problem or None,
        "orphans": list(report.orphans),
        "strangers": list(report.strangers),
        "points": [
            point_json(check.point)
            | {
                "survives": check.survives,
                "lost_extents": check.lost_extents,
                "lost": [extent_json(extent) for extent in check.lost],
            }
            for check in report.points
        ],
    }
