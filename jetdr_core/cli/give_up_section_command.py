"""``jetdr give-up-section``: removes a section, and all that it holds, from a log volume."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.errors import InvalidRequest
from jetdr_core.identity import host_owner
from jetdr_core.replication_log import give_up_section as give_up

__all__ = ["give_up_section"]

Log = Annotated[str, typer.Argument(metavar="LOG", help="The log volume, by path or iscsi:// URL.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="DOMAIN", help="The section's domain.", show_default=False)]
DomainUuid = Annotated[
    str, typer.Option("--uuid", metavar="UUID", help="The domain's UUID, which 'jetdr inspect LOG' shows.")
]
Discard = Annotated[
    bool,
    typer.Option(
        "--discard",
        help="Also if it was in write-back and was not closed, or cannot be read. Then it may alone have writes that "
        "guests were told are safe, and they are lost.",
    ),
]


def give_up_section(ctx: typer.Context, log: Log, domain: Name, uuid: DomainUuid, discard: Discard = False) -> Work:
    """Give up the log section of a domain that is no longer protected here. What only the section has is lost.

    The domain's UUID confirms that this is the right section. Its place is free for other sections. No DRVA may have
    the volume open. The disks and the store are not touched.
    """
    terminal = ctx.ensure_object(Terminal)
    domain_uuid = uuid_of(uuid)

    def work() -> int:
        held = give_up(log, domain, domain_uuid, owner=host_owner(), discard=discard)
        terminal.say(f"{log} has no section {domain!r} any more; {held}")
        return ExitCode.OK

    return Work(work)


def uuid_of(text: str) -> UUID:
    """Return the UUID of a domain that an option names."""
    try:
        return UUID(text)
    except ValueError:
        raise InvalidRequest(
            f"{text!r} is not a UUID", hint="'jetdr inspect LOG' shows the UUID of each section's domain"
        ) from None
