"""``jetdr points``: lists what can be recovered."""

from __future__ import annotations

import time

import typer

from jetdr_core.catalog import SETTLE_S, Catalog, Gap, iso_time
from jetdr_core.cli.cache import cache_file
from jetdr_core.cli.catalog_json import domain_json, point_json
from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.interrupt import run_to_end
from jetdr_core.cli.shared_options import Json, KeyPath, NoCache, Url, read_key
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.words import human_age
from jetdr_core.domain_key import DomainKey

__all__ = ["check_chain", "describe_gap", "describe_reach", "points", "warn_of_gap"]


def points(
    ctx: typer.Context, url: Url, as_json: Json = False, no_cache: NoCache = False, key_file: KeyPath = None
) -> Work:
    """List a domain's recovery points: the first, the marks, the newest, and the ranges in which every write is one."""
    terminal = ctx.ensure_object(Terminal)
    return Work(lambda: run_to_end(_points(terminal, url, read_key(key_file), as_json=as_json, no_cache=no_cache)))


async def _points(terminal: Terminal, url: str, domain_key: DomainKey | None, *, as_json: bool, no_cache: bool) -> int:
    cache = cache_file(terminal, no_cache=no_cache)
    async with await Catalog.open(url, cache=cache, settle_s=SETTLE_S, domain_key=domain_key) as catalog:
        if as_json:
            terminal.say_json(domain_json(catalog) | {"points": [point_json(point) for point in catalog.points()]})
        else:
            _show(terminal, catalog)
        warn_of_gap(terminal, catalog)
        return check_chain(terminal, catalog)


def _show(terminal: Terminal, catalog: Catalog) -> None:
    found = catalog.points()
    terminal.say(f"domain {catalog.name} in {catalog.url}", style="bold")
    terminal.say_table(
        (">LSN", "time", "mark"), [(point.lsn, iso_time(point.time_ns), point.name or "") for point in found]
    )
    if not found:
        terminal.say(f"no recovery point yet: {catalog.history.why_inconsistent or 'nothing was captured'}")
    for interval in catalog.intervals():
        terminal.say(f"every LSN and instant is a recovery point from {interval}")
    for gap in catalog.gaps:
        terminal.say(describe_gap(gap))
    terminal.say(f"the store says how the domain was at {describe_reach(catalog)}, and nothing of later")


def describe_reach(catalog: Catalog) -> str:
    """Return the last instant of which the store says anything, with its age: that of a record or a heartbeat."""
    if not catalog.time_last_ns:
        return "no moment, because nothing was captured"
    return f"{iso_time(catalog.time_last_ns)} ({human_age((time.time_ns() - catalog.time_last_ns) / 1e9)})"


def describe_gap(gap: Gap) -> str:
    """Return a gap as one line."""
    until = f"before LSN {gap.lsn_close}" if gap.lsn_close is not None else "now"
    return (
        f"none from LSN {gap.lsn_open} ({iso_time(gap.time_open_ns)}) until {until}: {gap.reason or 'no reason given'}"
    )


def warn_of_gap(terminal: Terminal, catalog: Catalog) -> None:
    """Say that guests wrote on after the latest point, if they did."""
    if catalog.why_latest_is_old:
        terminal.warn(catalog.why_latest_is_old)


def check_chain(terminal: Terminal, catalog: Catalog) -> int:
    """The exit code for the chain as it is. Complains of a break, and of an end that is lost."""
    problem = catalog.chain_break or catalog.tail_loss
    if problem is None:
        return ExitCode.OK
    uploading = "if the domain is uploading at this moment, look again; " if _may_be_in_flight(catalog) else ""
    terminal.complain(
        f"the chain ends at LSN {catalog.lsn_last}: {problem}; what is listed can be recovered; {uploading}"
        f"restore what is missing from a copy of the container to get the rest"
    )
    return ExitCode.DAMAGED


def _may_be_in_flight(catalog: Catalog) -> bool:
    return catalog.chain_break is not None and catalog.chain_break.may_be_in_flight
