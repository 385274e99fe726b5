"""Names and identities, checked where they enter. A name that passes is safe as a file name and inside a key."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from uuid import UUID, uuid5

from jetdr_core.errors import InvalidRequest
from jetdr_core.limits import CONFIG_NAME_BYTES_MAX, MARK_NAME_CHARS_MAX, NAME_CHARS_MAX

_OWNER_NAMESPACE = UUID("6b1d7a2e-5c0f-4a53-9a31-0d6f2f5c8e17")
_MACHINE_ID = Path("/etc/machine-id")
_PRODUCT_UUID = Path("/sys/class/dmi/id/product_uuid")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


def check_name(what: str, name: str) -> str:
    """Return ``name`` if it is a valid domain or disk name, or raise :class:`InvalidRequest`.

    Valid: 1 to 64 letters, digits, ``.``, ``_`` and ``-``. The first is a letter or digit, so the name is never a path.
    """
    if not is_name(name):
        raise InvalidRequest(
            f"{what} name {name!r} is not valid",
            hint=f"use 1 to {NAME_CHARS_MAX} letters, digits, '.', '_' or '-', beginning with a letter or digit",
        )
    return name


def is_name(text: object) -> bool:
    """Whether :func:`check_name` accepts ``text``."""
    return isinstance(text, str) and len(text) <= NAME_CHARS_MAX and _NAME.match(text) is not None


def check_mark_name(name: str) -> str:
    """Return ``name`` if it is a valid name of a mark, or raise :class:`InvalidRequest`.

    Valid: 1 to 200 printable characters. Neither ``latest`` nor a number, which name points themselves.
    """
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= MARK_NAME_CHARS_MAX
        or not name.isprintable()
        or name != name.strip()
    ):
        raise InvalidRequest(
            f"mark name {name!r} is not valid",
            hint=f"use 1 to {MARK_NAME_CHARS_MAX} printable characters without space at either end",
        )
    if name == "latest" or name.isdigit():
        raise InvalidRequest(f"mark name {name!r} would be read as a point", hint="choose another name")
    return name


def check_config_name(name: str) -> str:
    """Return ``name`` if it is a valid name of a configuration file, or raise :class:`InvalidRequest`.

    Valid: 1 to 200 bytes of printable characters, spaces and umlauts included. No ``/`` and no ``.`` at the beginning,
    so that the file stays in the directory it is written to, and is visible there.
    """
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or not 0 < len(name.encode()) <= CONFIG_NAME_BYTES_MAX
        or "/" in name
        or name.startswith(".")
    ):
        raise InvalidRequest(
            f"configuration file name {name!r} is not valid",
            hint=f"use 1 to {CONFIG_NAME_BYTES_MAX} bytes of printable characters without '/', not beginning with '.'",
        )
    return name


def host_owner(machine_id: Path = _MACHINE_ID, product_uuid: Path = _PRODUCT_UUID) -> UUID:
    """The UUID of this machine as the owner of log volumes.

    It is made from the machine ID (or the machine's name) and the product UUID of its firmware. A clone of a virtual
    machine copies the first, and the hypervisor gives it another of the second. Only root can read the second, so for
    other users two clones are one machine.
    """
    machine, product = (_line(path) for path in (machine_id, product_uuid))
    return uuid5(_OWNER_NAMESPACE, " ".join(filter(None, [machine or platform.node(), product.lower()])))


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
