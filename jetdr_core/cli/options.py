"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Json", "NoCache", "Url"]

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="The domain's store: file:///PATH, az://CONTAINER[/PREFIX] or "
        "https://ACCOUNT.blob.core.windows.net/CONTAINER[/PREFIX].",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Do not keep segment indexes in $XDG_CACHE_HOME/jetdr (or ~/.cache/jetdr)."),
]
