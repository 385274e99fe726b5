"""``jetdr status``: the state of a domain, as its DRVA reports it, or as its store and its log show it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from jetdr_core.catalog import SETTLE_S, Catalog
from jetdr_core.cli.cache import cache_file
from jetdr_core.cli.catalog_json import Json as JsonObject
from jetdr_core.cli.catalog_json import domain_json, point_json, time_json
from jetdr_core.cli.drva_socket import Socket, ask
from jetdr_core.cli.drva_status import show_drva
from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.interrupt import run_to_end
from jetdr_core.cli.points_command import check_chain, describe_gap, describe_reach, warn_of_gap
from jetdr_core.cli.shared_options import Json, KeyPath, NoCache, read_key
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.volume_view import VolumeView
from jetdr_core.cli.words import human_age, human_bytes, plural
from jetdr_core.domain_key import DomainKey
from jetdr_core.drva.client import SOCKET_DEFAULT
from jetdr_core.errors import LogForeign
from jetdr_core.identity import is_name
from jetdr_core.replication_log import SectionDescription, VolumeDescription, describe_volume

__all__ = ["status"]

Log = Annotated[
    str | None,
    typer.Option("--log", metavar="PATH_OR_URL", help="Compare the store with this log volume of the domain."),
]


Target = Annotated[
    str,
    typer.Argument(
        metavar="[DOMAIN|URL]",
        help="A domain of the DRVA, or the URL of a domain's store. By default all domains of the DRVA.",
        show_default=False,
    ),
]


def status(
    ctx: typer.Context,
    target: Target = "",
    log: Log = None,
    socket: Socket = SOCKET_DEFAULT,
    as_json: Json = False,
    no_cache: NoCache = False,
    key_file: KeyPath = None,
) -> Work:
    """Show the state of a domain: what its DRVA does now, or what can be recovered from its store.

    From a store it shows owner, last LSN, age of the newest proven recovery point, bytes and gaps. With --log it adds
    what the log volume holds and how far the store lags. It changes nothing and may run while the domain runs.
    """
    terminal = ctx.ensure_object(Terminal)
    if not target or is_name(target):
        if log is not None:
            raise typer.BadParameter("--log needs a store to compare with: give the store's URL.")
        return Work(lambda: _ask_drva(terminal, socket, target or None, as_json=as_json))
    cache = cache_file(terminal, no_cache=no_cache)
    return Work(lambda: run_to_end(_status(terminal, target, log, cache, read_key(key_file), as_json=as_json)))


def _ask_drva(terminal: Terminal, socket: Path, domain: str | None, *, as_json: bool) -> int:
    answer = ask(socket, "status", domain=domain)
    if as_json:
        terminal.say_json(answer)
    else:
        show_drva(terminal, answer)
    return ExitCode.OK


async def _status(
    terminal: Terminal, url: str, log: str | None, cache: Path | None, domain_key: DomainKey | None, *, as_json: bool
) -> int:
    async with AsyncExitStack() as opened:
        opening = partial(Catalog.open, url, cache=cache, settle_s=SETTLE_S, domain_key=domain_key)
        catalog = await opened.enter_async_context(await opening())
        volume = None if log is None else await asyncio.to_thread(describe_volume, log)
        section = None if volume is None else _section_of(volume, catalog)
        if section is not None and _begins_after(section, catalog):  # what was uploaded meanwhile was trimmed meanwhile
            catalog = await opened.enter_async_context(await opening())
        if as_json:
            document = _domain(catalog)
            if volume is not None and section is not None:
                document |= {"log": VolumeView(volume).as_json(), "log_ahead": _ahead(section, catalog)}
            terminal.say_json(document)
        else:
            _show(terminal, catalog)
            if volume is not None and section is not None:
                _show_log(terminal, volume, section, catalog)
        warn_of_gap(terminal, catalog)
        return check_chain(terminal, catalog) or _check_log(terminal, section, catalog)


def _age_s(catalog: Catalog) -> float | None:
    """Return the age of the newest instant that can be recovered. Negative: it is ahead of this machine's clock."""
    intervals = catalog.intervals()
    return (time.time_ns() - intervals[-1].time_last_ns) / 1e9 if intervals else None


def _section_of(volume: VolumeDescription, catalog: Catalog) -> SectionDescription:
    for section in volume.sections:
        if section.domain_uuid == catalog.chain.domain_uuid:
            return section
    held = ", ".join(section.name for section in volume.sections) or "none"
    raise LogForeign(
        f"{volume.path} holds no section of domain {catalog.name!r} ({catalog.chain.domain_uuid}); "
        f"its sections: {held}",
        hint="name the log volume of that domain",
    )


def _ahead(section: SectionDescription, catalog: Catalog) -> JsonObject:
    """Return how many LSNs the store lacks, and whether log and store meet. Null stands for what damage hides.

    The number is negative if the store has grown beyond what the log was seen to hold.
    """
    if section.lsn_last is None or section.lsn_first is None:
        return {"lsns": None, "meet": None}
    return {"lsns": section.lsn_last - catalog.lsn_last, "meet": not _apart(section, catalog)}


def _apart(section: SectionDescription, catalog: Catalog) -> str:
    """Return why this log cannot continue the store, or an empty text if it can.

    The store may be read before the log or after it, so the log may have been written or the store have grown since.
    """
    if _begins_after(section, catalog):
        return f"the log begins at LSN {section.lsn_first}, the store ends at LSN {catalog.lsn_last}"
    if section.lsn_last is not None and section.lsn_last < catalog.lsn_last and not section.moving:
        return f"the log ends at LSN {section.lsn_last}, the store at LSN {catalog.lsn_last}"
    return ""


def _begins_after(section: SectionDescription, catalog: Catalog) -> bool:
    return section.lsn_first is not None and section.lsn_first > catalog.lsn_last + 1


def _check_log(terminal: Terminal, section: SectionDescription | None, catalog: Catalog) -> int:
    problem = "" if section is None else section.damage or _apart(section, catalog)
    if not problem:
        return ExitCode.OK
    terminal.complain(
        f"the log of domain {catalog.name!r}: {problem}; what the store holds can be recovered; "
        f"to protect the domain again, take it over with a new log ('jetdr drva CONFIG --take-over DOMAIN')"
    )
    return ExitCode.DAMAGED


# -- JSON --------------------------------------------------------------------------------------------------------------


def _domain(catalog: Catalog) -> JsonObject:
    found = catalog.points()
    return domain_json(catalog) | {
        "owner": catalog.chain.owner.owner,
        "host": catalog.chain.owner.host,
        "why_inconsistent": catalog.history.why_inconsistent or None,
        "marks": len(catalog.marks),
        "newest_point": point_json(found[-1]) if found else None,
        **time_json("time_first", catalog.time_first_ns),
        **time_json("time_last", catalog.time_last_ns),
        "age_s": _age_s(catalog),
        "segments": len(catalog.segments),
        "payload_bytes": catalog.payload_bytes,
        "stored_bytes": catalog.stored_bytes,
    }


# -- text --------------------------------------------------------------------------------------------------------------


def _show(terminal: Terminal, catalog: Catalog) -> None:
    terminal.say(f"domain {catalog.name} in {catalog.url}", style="bold")
    for name, value in _facts(catalog):
        terminal.say(f"  {name:<14}{value}")
    for gap in catalog.gaps:
        terminal.say(f"  {'gap':<14}{describe_gap(gap)}")


def _facts(catalog: Catalog) -> list[tuple[str, str]]:
    age_s, chain = _age_s(catalog), catalog.chain
    disks = ", ".join(f"{disk.name} ({human_bytes(disk.size_bytes)})" for disk in catalog.history.disks)
    saved = f"{plural(len(catalog.segments), 'segment')}, {human_bytes(catalog.stored_bytes)}"
    consistent = "yes" if catalog.history.consistent else f"no: {catalog.history.why_inconsistent}"
    last_known = describe_reach(catalog)
    return [
        ("uuid", str(chain.domain_uuid)),
        ("owner", f"{chain.owner.host or 'unknown'}, epoch {chain.tail.epoch}, timeline {chain.timeline}"),
        ("disks", disks or "none"),
        ("consistent", f"{consistent}, as of {last_known}"),
        ("history", f"LSN {catalog.lsn_first} to {catalog.lsn_last}, {plural(len(catalog.marks), 'mark')}"),
        ("last known", last_known),
        ("newest point", "none" if age_s is None else human_age(age_s)),
        ("captured", f"{human_bytes(catalog.payload_bytes)}; stored as {saved}"),
    ]


def _show_log(terminal: Terminal, volume: VolumeDescription, section: SectionDescription, catalog: Catalog) -> None:
    VolumeView(volume).show(terminal)
    if section.lsn_last is not None:
        ahead = section.lsn_last - catalog.lsn_last
        lacking = f"{plural(ahead, 'LSN')} not yet in the store"
        grown = f"the store has {plural(-ahead, 'LSN')} more than the log was seen to hold"
        terminal.say(f"log and store: {'even' if not ahead else lacking if ahead > 0 else grown}")
