"""The arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from jetdr_core.store import url_forms

__all__ = ["Json", "NoCache", "Url"]

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help=f"The domain's store: {url_forms(lasting=True)}.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Do not keep segment indexes in $XDG_CACHE_HOME/jetdr (or ~/.cache/jetdr)."),
]
