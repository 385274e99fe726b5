"""The arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jetdr_core.domain_key import DomainKey, KeyFile
from jetdr_core.store import url_forms

__all__ = ["Json", "KeyPath", "NoCache", "Url", "read_key"]

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
KeyPath = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        envvar="JETDR_KEY_FILE",
        help="The domain's key, if it has one: nothing is believed then that was not made with it.",
        show_default=False,
    ),
]


def read_key(key_file: Path | None) -> DomainKey | None:
    """Read the key that :data:`KeyPath` names."""
    return None if key_file is None else KeyFile(key_file).read()
