"""The control socket of a running DRVA: the options of the commands that use it, and asking one question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jetdr_core.drva.client import ControlClient

__all__ = ["Domain", "Socket", "ask"]

Domain = Annotated[str, typer.Argument(metavar="DOMAIN", help="A domain of the DRVA.", show_default=False)]
Socket = Annotated[
    Path,
    typer.Option("--socket", metavar="PATH", envvar="JETDR_SOCKET", help="The DRVA's control socket."),
]


def ask(socket: Path, command: str, /, **arguments: object) -> Any:
    """Ask the DRVA at ``socket`` one question, and return the answer."""
    with ControlClient(socket) as client:
        return client.ask(command, **arguments)
