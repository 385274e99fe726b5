"""``jetdr take-over-volume``: makes this machine the owner of another's log volume."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.errors import InvalidRequest
from jetdr_core.identity import host_owner
from jetdr_core.replication_log import take_over_volume as take_over

__all__ = ["take_over_volume"]

Log = Annotated[str, typer.Argument(metavar="LOG", help="The log volume, by path or iscsi:// URL.", show_default=False)]
From = Annotated[
    str, typer.Option("--from", metavar="UUID", help="Its present owner, as 'jetdr inspect LOG' shows it.")
]
To = Annotated[str, typer.Option("--to", metavar="UUID", help="Its owner to be.", show_default="this machine")]


def take_over_volume(ctx: typer.Context, log: Log, owner_old: From, owner_new: To = "") -> Work:
    """Take a log volume from an owner that is gone for good; its domains can then be opened here.

    The present owner's UUID confirms that it is the volume meant. A LUN that the owner's machine still has reserved is
    taken from it: whatever it would write from then on, the target refuses.
    """
    terminal = ctx.ensure_object(Terminal)
    old, new = _uuid(owner_old), _uuid(owner_new) if owner_new else host_owner()
    return Work(lambda: _take_over(terminal, log, old, new))


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is not a UUID", hint="'jetdr inspect LOG' shows the owner's") from None


def _take_over(terminal: Terminal, log: str, owner_old: UUID, owner_new: UUID) -> int:
    take_over(log, owner_new, expected=owner_old)
    terminal.say(f"{log} belonged to {owner_old} and belongs to {owner_new} now")
    return ExitCode.OK
