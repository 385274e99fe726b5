"""``jetdr watch``: shows the domains of a DRVA again and again, live on a terminal, line by line elsewhere.

Invariant: a table on a terminal says how old it is, also while the DRVA does not answer.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jetdr_core.cli.drva_socket import Socket
from jetdr_core.cli.drva_status import COLUMNS, domain_row, summary_line
from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.words import human_seconds, shown
from jetdr_core.drva.client import SOCKET_DEFAULT, ControlClient

__all__ = ["watch"]

Only = Annotated[str, typer.Argument(metavar="[DOMAIN]", help="Only this domain.", show_default=False)]
Every = Annotated[
    float, typer.Option("--every", metavar="SECONDS", help="The time between two looks.", min=0.1, max=3600)
]
Once = Annotated[bool, typer.Option("--once", help="Look once, then end.")]

OLD_S = 5.0


def watch(
    ctx: typer.Context, domain: Only = "", every: Every = 1.0, once: Once = False, socket: Socket = SOCKET_DEFAULT
) -> Work:
    """Show the domains of a DRVA until Ctrl-C: as a live table on a terminal, elsewhere one line per domain."""
    terminal = ctx.ensure_object(Terminal)
    return Work(lambda: _watch(terminal, socket, domain or None, every, once=once), "the DRVA goes on")


def _watch(terminal: Terminal, socket: Path, domain: str | None, every_s: float, *, once: bool) -> int:
    with ControlClient(socket) as client:
        if terminal.out.is_terminal and not once:
            with Live(console=terminal.out, refresh_per_second=1) as live:
                while True:
                    asked_s = time.monotonic()
                    live.update(_Aging(_table(client.ask("status", domain=domain)), asked_s), refresh=True)
                    time.sleep(every_s)
        while True:
            answer: Any = client.ask("status", domain=domain)
            for alarm in answer["drva"]["alarms"]:
                terminal.say(f"DRVA: {alarm['name']}: {alarm['text']}")
            for row in answer["domains"]:
                terminal.say(summary_line(row))
            terminal.out.file.flush()
            if once:
                return ExitCode.OK
            time.sleep(every_s)


class _Aging:
    """A table, with its age once it is older than a person would take for the present. ``Live`` draws it anew."""

    def __init__(self, table: Table, taken_s: float) -> None:
        self._table = table
        self._taken_s = taken_s

    def __rich_console__(self, _console: Console, _options: ConsoleOptions) -> RenderResult:
        yield self._table
        age_s = time.monotonic() - self._taken_s
        if age_s >= OLD_S:
            yield Text(f"as of {human_seconds(age_s)} ago", "red")


def _table(answer: Any) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in COLUMNS:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for domain in answer["domains"]:
        style = "red" if domain["alarms"] else ""
        table.add_row(*(Text(shown(cell)) for cell in domain_row(domain)), style=style)
    if alarms := answer["drva"]["alarms"]:
        table.caption = Text("\n".join(shown(f"DRVA: {alarm['name']}: {alarm['text']}") for alarm in alarms), "red")
        table.caption_justify = "left"
    return table
