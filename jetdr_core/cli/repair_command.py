"""``jetdr repair``: has the owner copy from its disks what the newest data in the store lacks.

Invariants: the store is read here, and only the DRVA, which owns the disks, adds to it. What is printed as whole was
read from the store after the copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from jetdr_core.cli.appliance_commands import await_upload
from jetdr_core.cli.catalog_json import extent_json
from jetdr_core.cli.drva_socket import Domain, Socket
from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.interrupt import run_to_end
from jetdr_core.cli.progress import showing_progress
from jetdr_core.cli.shared_options import Json, KeyPath, read_key
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.words import human_bytes, plural
from jetdr_core.domain_key import DomainKey
from jetdr_core.drva.client import SOCKET_DEFAULT, ControlClient
from jetdr_core.drva.errors import DomainClosed
from jetdr_core.errors import InvalidRequest
from jetdr_core.extent import describe_extents
from jetdr_core.scrub.repair import RepairPlan, plan_repair, still_unread

__all__ = ["repair", "why_refused"]

COPY_BYTES_MAX = 8 << 20
COPY_EXTENTS_MAX = 512
"""The most that one request to the DRVA asks for, so that it is answered in time."""

StoreUrl = Annotated[
    str, typer.Option("--url", metavar="URL", help="The domain's store.", show_default="what the DRVA says")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be copied, and copy nothing.")]
Disks = Annotated[
    list[str] | None, typer.Option("--disk", metavar="NAME", help="Repair this disk only. May be repeated.")
]


def repair(
    ctx: typer.Context,
    domain: Domain,
    url: StoreUrl = "",
    disk: Disks = None,
    dry_run: DryRun = False,
    key_file: KeyPath = None,
    socket: Socket = SOCKET_DEFAULT,
    as_json: Json = False,
) -> Work:
    """Copy from the disks of an open domain what the newest data in its store lacks.

    All of the store is read and checked, and its newest digests are compared. Where the newest data of a disk is
    damaged, gone or not what the disk held, the DRVA reads the disk and logs it once more. Then the store is read there
    again. Points in between stay as they are: they lack it. After a break in the chain nothing that is added can be
    read, so nothing is copied, and the exit code is 4.
    """
    terminal = ctx.ensure_object(Terminal)
    told = "what was copied so far is uploaded; the same command goes on with the rest"
    return Work(
        lambda: _Repair(terminal, socket, domain, read_key(key_file), as_json=as_json).run(url, disk, dry_run=dry_run),
        told,
    )


class _Repair:
    """One run of the command."""

    def __init__(
        self, terminal: Terminal, socket: Path, domain: str, domain_key: DomainKey | None, *, as_json: bool
    ) -> None:
        self.terminal = terminal
        self.socket = socket
        self.domain = domain
        self.domain_key = domain_key
        self.as_json = as_json

    def run(self, url: str, disks: list[str] | None, *, dry_run: bool) -> int:
        store = self._store(url)
        plan = run_to_end(self._plan(store, disks))
        if plan.domain != self.domain:
            raise InvalidRequest(f"{store} is the store of domain {plan.domain!r}", hint="correct --url")
        if plan.why_not:
            return self._refuse(plan)
        if dry_run or not plan.lost:
            return self._say(plan, lsn=0, problems=[])
        with ControlClient(self.socket) as client:
            lsn = max(self._copy(client, name, part) for name, part in _parts(plan))
            await_upload(self.terminal, client, self.domain, lsn)
        return self._say(plan, lsn, run_to_end(still_unread(store, plan.ranges(), domain_key=self.domain_key)))

    def _store(self, url: str) -> str:
        with ControlClient(self.socket) as client:
            answer: Any = client.ask("status", domain=self.domain)
        status = answer["domains"][0]["status"]
        if status is None:
            raise DomainClosed(f"domain {self.domain!r} is not open", hint="'jetdr status' shows how it stands")
        return url or str(status["store"])

    async def _plan(self, store: str, disks: list[str] | None) -> RepairPlan:
        with showing_progress(self.terminal, silent=self.as_json) as advance:
            return await plan_repair(
                store,
                disks=disks or None,
                progress=lambda done, total: advance("read and checked", done, total),
                domain_key=self.domain_key,
            )

    def _copy(self, client: ControlClient, disk: str, extents: list[tuple[int, int]]) -> int:
        answer: Any = client.ask("copy_extents", domain=self.domain, disk=disk, extents=extents)
        return int(answer["lsn"])

    def _refuse(self, plan: RepairPlan) -> int:
        self._say_json(plan, 0, [plan.why_not])
        self.terminal.complain(why_refused(plan))
        return ExitCode.DAMAGED

    def _say(self, plan: RepairPlan, lsn: int, problems: list[str]) -> int:
        self._say_json(plan, lsn, problems)
        if not self.as_json:
            self._show(plan, lsn)
        if problems:
            self.terminal.complain(
                f"{plan.url}: of what was copied, {plural(len(problems), 'extent')} cannot be read: {problems[0]}; "
                f"repair it once more"
            )
        return ExitCode.DAMAGED if problems else ExitCode.OK

    def _show(self, plan: RepairPlan, lsn: int) -> None:
        if not plan.lost:
            self.terminal.say(f"domain {plan.domain}: the newest data in {plan.url} is whole")
            return
        length = sum(end - start for ranges in plan.ranges().values() for start, end in ranges)
        done = f"were copied once more, up to LSN {lsn}, and read back from the store" if lsn else "are to be copied"
        self.terminal.say(f"{human_bytes(length)} of {describe_extents(plan.lost)} {done}")
        first = min(extent.lsn_first for extent in plan.lost)
        until = f"before LSN {lsn}" if lsn else "to the newest"
        self.terminal.say(f"points from LSN {first} {until} may lack some of it, and stay so: 'jetdr verify URL' says")

    def _say_json(self, plan: RepairPlan, lsn: int, problems: list[str]) -> None:
        if self.as_json:
            lost = [extent_json(extent) for extent in plan.lost]
            self.terminal.say_json(
                {"url": plan.url, "domain": plan.domain, "lost": lost, "lsn": lsn or None, "problems": problems}
            )


def why_refused(plan: RepairPlan) -> str:
    """Why a plan is not carried out, and what is of use instead."""
    return (
        f"{plan.url}: {plan.why_not}; nobody reads what comes after that, so a copy would be of no use; bring the "
        f"object back from a copy of the container, or give up what follows it: "
        f"'jetdr drva CONFIG --take-over DOMAIN --give-up-from DOMAIN=NUMBER' copies all disks once more"
    )


def _parts(plan: RepairPlan) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yield the disk and the extents (offset, length) of each request."""
    for name, ranges in plan.ranges().items():
        part: list[tuple[int, int]] = []
        for start, end in ranges:
            for offset in range(start, end, COPY_BYTES_MAX):
                length = min(COPY_BYTES_MAX, end - offset)
                if part and (len(part) == COPY_EXTENTS_MAX or sum(size for _, size in part) + length > COPY_BYTES_MAX):
                    yield name, part
                    part = []
                part.append((offset, length))
        if part:
            yield name, part
