"""Checks of the endpoints to which requests with a credential go. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from jetdr_core.errors import InvalidRequest

__all__ = ["refuse_unencrypted"]


def refuse_unencrypted(endpoint: str) -> None:
    """Refuse an endpoint to which a signature, and every byte of the disks, would go in clear over a network.

    An emulator or a tunnel on this machine may do without encryption.
    """
    parsed = urlsplit(endpoint)
    if parsed.scheme == "https" or _is_loopback(parsed.hostname or ""):
        return
    raise InvalidRequest(
        f"the storage endpoint {parsed.scheme}://{parsed.hostname} is not encrypted: anyone on the network could use "
        "the credential, and read the disks",
        hint="use https; only an endpoint on this machine (127.0.0.1, [::1], localhost) may do without",
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
