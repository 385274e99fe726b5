"""``jetdr key new`` and ``jetdr key show``: makes a domain key, and tells which key a file holds.

Invariant: nothing that is printed tells anything about the secret itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.shared_options import Json
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.domain_key import DomainKey, KeyFile, KeyMode

__all__ = ["key_app"]

key_app = typer.Typer(
    name="key",
    help="Make a domain's key, or show which key a file holds.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The key file, mode 0600.", show_default=False)]

Encrypt = Annotated[
    bool,
    typer.Option("--encrypt", help="Encrypt what the domain stores. Without the key it cannot be recovered then."),
]


@key_app.command()
def new(ctx: typer.Context, file: File, encrypt: Encrypt = False, as_json: Json = False) -> Work:
    """Make a new key in FILE, which must not exist.

    Name the file as key_file when the domain is created. Keep a copy where no disaster reaches both: whoever recovers
    the domain needs it to tell that nobody has tampered with the store.
    """
    terminal = ctx.ensure_object(Terminal)
    mode = KeyMode.ENCRYPT if encrypt else KeyMode.AUTHENTICATE
    return Work(lambda: _say(terminal, file, KeyFile(file).make(mode=mode), as_json=as_json))


@key_app.command()
def show(ctx: typer.Context, file: File, as_json: Json = False) -> Work:
    """Show the id of the key in FILE, and the domain that it is for. The key itself is not shown."""
    terminal = ctx.ensure_object(Terminal)
    return Work(lambda: _say(terminal, file, KeyFile(file).read(), as_json=as_json))


def _say(terminal: Terminal, file: Path, key: DomainKey, *, as_json: bool) -> int:
    domain = None if key.domain_uuid is None else str(key.domain_uuid)
    if as_json:
        terminal.say_json(
            {
                "file": str(file),
                "key_id": key.key_id.hex(),
                "domain_uuid": domain,
                "mode": str(key.mode),
                "number_first": key.number_first,
            }
        )
    else:
        terminal.say(f"{file}: key {key.key_id.hex()}", style="bold")
        terminal.say(f"  domain {domain or 'not known yet: the key is bound when its domain is created'}")
        terminal.say(f"  mode {key.mode}, chain objects from {key.number_first} on have tags")
    return ExitCode.OK
