"""``jetdr take-over-volume``: makes this machine the owner of another machine's log volume."""

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
    str, typer.Option("--from", metavar="UUID", help="Its present owner, which 'jetdr inspect LOG' shows.")
]
To = Annotated[str, typer.Option("--to", metavar="UUID", help="Its new owner.", show_default="this machine")]


def take_over_volume(ctx: typer.Context, log: Log, owner_old: From, owner_new: To = "") -> Work:
    """Take a log volume from an owner that is gone for good, so that its domains can be opened here.

    The UUID of the present owner confirms that this is the right volume. If that owner's machine still has a LUN
    reserved, the reservation is taken from it, and the target refuses its writes from then on.
    """
    terminal = ctx.ensure_object(Terminal)
    old, new = _uuid(owner_old), _uuid(owner_new) if owner_new else host_owner()
    return Work(lambda: _take_over(terminal, log, old, new))


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is not a UUID", hint="'jetdr inspect LOG' shows that of the owner") from None


def _take_over(terminal: Terminal, log: str, owner_old: UUID, owner_new: UUID) -> int:
    take_over(log, owner_new, expected=owner_old)
    terminal.say(f"{log} belonged to {owner_old} and belongs to {owner_new} now")
    return ExitCode.OK
