"""``jetdr inspect``: describes log volumes and objects of a store.

Invariants: the bytes of a file decide what it is, not its name. Damage is described, and does not end the command.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated

import typer

from jetdr_core.catalog import chain_key, chain_number
from jetdr_core.cli.catalog_json import Json as JsonObject
from jetdr_core.cli.chain_object import ChainObject
from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.interrupt import run_to_end
from jetdr_core.cli.shared_options import Json, KeyPath, read_key
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.volume_view import VolumeView
from jetdr_core.device import is_iscsi
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import DamagedObject, InvalidRequest
from jetdr_core.file_making import trying
from jetdr_core.limits import VOLUME_SUPERBLOCK_AREA_BYTES
from jetdr_core.replication_log import describe_volume
from jetdr_core.segment import OBJECT_BYTES_MAX, TRAILER_BYTES
from jetdr_core.segment.layout import HEADER_MAGIC, TRAILER_MAGIC
from jetdr_core.store import ObjectStore, connected

__all__ = ["inspect"]

Places = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH_OR_URL...",
        help="A log volume by path or iscsi:// URL, a segment by path, or a store's URL with --number or --key for "
        "one of its objects.",
        show_default=False,
    ),
]
Number = Annotated[int | None, typer.Option("--number", metavar="N", min=1, help="With a store's URL: chain object N.")]
Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="With a store's URL: the chain object with this key.")
]
Entries = Annotated[bool, typer.Option("--entries", help="List every write and every frame of a segment.")]


def inspect(
    ctx: typer.Context,
    places: Places,
    number: Number = None,
    key: Key = None,
    entries: Entries = False,
    as_json: Json = False,
    key_file: KeyPath = None,
) -> Work:
    """Describe log volumes and segments: what they hold, which LSNs, and whether every checksum is right.

    It changes nothing and may run while a domain writes. --json prints a list with one object for each PATH_OR_URL.
    """
    terminal = ctx.ensure_object(Terminal)
    wanted = _wanted_key(number, key)
    return Work(lambda: _inspect(terminal, places, wanted, read_key(key_file), entries=entries, as_json=as_json))


def _wanted_key(number: int | None, key: str | None) -> str | None:
    if number is not None and key is not None:
        raise InvalidRequest("--number and --key both name an object", hint="give one of them")
    if key is not None and chain_number(key) is None:
        raise InvalidRequest(f"{key!r} is not the key of a chain object", hint=f"a valid key is {chain_key(1)}")
    return key if number is None else chain_key(number)


def _inspect(
    terminal: Terminal,
    places: list[str],
    key: str | None,
    domain_key: DomainKey | None,
    *,
    entries: bool,
    as_json: bool,
) -> int:
    documents: list[JsonObject] = []
    damaged: list[str] = []
    for place in places:
        described = VolumeView(describe_volume(place)) if _is_volume(place) else _object(place, key, domain_key)
        documents.append(described.as_json(entries=entries))
        if not as_json:
            described.show(terminal, entries=entries)
        if described.is_damaged:
            damaged.append(described.name)
    if as_json:
        terminal.say_json(documents)
    if damaged:
        terminal.complain(f"damage in {', '.join(damaged)}; 'jetdr verify URL' shows which recovery points survive")
    return ExitCode.DAMAGED if damaged else ExitCode.OK


def _is_volume(place: str) -> bool:
    """Return whether ``place`` is a log volume: a LUN, or a file that neither begins nor ends like a chain object."""
    if is_iscsi(place):
        return True
    if "://" in place:
        return False
    with trying(place, "looking at it"):
        mode = Path(place).stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)):
        raise InvalidRequest(f"{place} is no file and no disk", hint="name a log volume, a segment, or a store's URL")
    with trying(place, "reading it"), Path(place).open("rb") as file:
        head = file.read(len(HEADER_MAGIC))
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, size_bytes - TRAILER_BYTES))
        is_object = head == HEADER_MAGIC or file.read(len(TRAILER_MAGIC)) == TRAILER_MAGIC
    if not is_object and size_bytes < VOLUME_SUPERBLOCK_AREA_BYTES:
        raise InvalidRequest(
            f"{place} ({size_bytes} bytes) is neither a log volume nor a segment", hint="name one, or a store's URL"
        )
    return not is_object


def _object(place: str, key: str | None, domain_key: DomainKey | None) -> ChainObject:
    if "://" in place:
        return run_to_end(_fetched(place, key, domain_key))
    with trying(place, "looking at its size"):
        size_bytes = Path(place).stat().st_size
    if size_bytes > OBJECT_BYTES_MAX:
        raise InvalidRequest(f"{place} has {size_bytes} bytes, more than any segment", hint="name a segment")
    with trying(place, f"reading {size_bytes} bytes"):
        content = Path(place).read_bytes()
    return ChainObject.of(content, place, domain_key)


async def _fetched(url: str, key: str | None, domain_key: DomainKey | None) -> ChainObject:
    async with connected(url) as store:
        if key is None:
            raise InvalidRequest(f"{store.url} holds many objects", hint="name one with --number N or --key KEY")
        return ChainObject.of(await _get(store, key), key, domain_key)


async def _get(store: ObjectStore, key: str) -> bytes:
    """The bytes of an object, unless it is longer than any chain object can be."""
    async for info in store.list_prefix(key):
        if info.key == key and info.size_bytes > OBJECT_BYTES_MAX:
            raise DamagedObject(key, "object", f"{info.size_bytes} bytes cannot be; at most {OBJECT_BYTES_MAX} can")
        break
    return await store.get(key)
