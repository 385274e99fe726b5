"""What commands share that ask a running DRVA: where its socket is, and asking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jetdr_core.drva.client import ControlClient

__all__ = ["Domain", "Socket", "ask"]

Domain = Annotated[str, typer.Argument(metavar="DOMAIN", help="A domain that the DRVA keeps.", show_default=False)]
Socket = Annotated[
    Path,
    typer.Option("--socket", metavar="PATH", envvar="JETDR_SOCKET", help="The DRVA's control socket."),
]


def ask(socket: Path, command: str, /, **arguments: object) -> Any:
    """One question, and its answer."""
    with ControlClient(socket) as client:
        return client.ask(command, **arguments)
