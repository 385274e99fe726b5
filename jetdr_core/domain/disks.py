"""The disks of a domain."""

from __future__ import annotations

from contextlib import AsyncExitStack

from jetdr_core.catalog import DomainHistory
from jetdr_core.domain.primary import Primary, open_primary
from jetdr_core.domain.request import DomainRequest
from jetdr_core.errors import InvalidRequest

__all__ = ["open_primaries"]


def open_primaries(request: DomainRequest, history: DomainHistory, opened: AsyncExitStack) -> dict[int, Primary]:
    """Open the domain's disks, by number, where they were or where the caller says they are now."""
    unknown = request.places.keys() - {state.name for state in history.disks}
    if unknown:
        raise InvalidRequest(
            f"domain {request.name!r} protects no disk {', '.join(map(repr, sorted(unknown)))}",
            hint=f"it protects {', '.join(state.name for state in history.disks) or 'none'}",
        )
    primaries = {}
    for state in history.disks:
        place = request.places.get(state.name, state.path)
        shared = request.host is not None
        primaries[state.disk] = open_primary(state.name, place, size_bytes=state.size_bytes, shared=shared)
        opened.callback(primaries[state.disk].close)
    return primaries
