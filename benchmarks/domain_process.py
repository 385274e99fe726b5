"""A protected domain with its host component in a process of its own, as in a DRVA.

The program takes the specification as its argument. Each line on stdin is a request: ``status``, ``settle``, which
waits until the store has everything written so far, ``consistent``, which waits until the domain is that, ``tend``,
which lets the dirty map be cleared, ``pause`` or ``resume``. The answer is a line of JSON on stdout. The domain closes
at the end of stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from benchmarks.exports import DISK
from jetdr_core.domain import HostedDomain
from jetdr_core.host import HostComponent, HostControl, HostOptions, MapRequest
from jetdr_core.options import DomainOptions

__all__ = ["Answer", "Spec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What is protected, and where everything is."""

    name: str
    log: str
    log_bytes: int
    store: str
    primary: str
    runtime: str
    state: str
    write_back: bool
    options: Mapping[str, float] = field(default_factory=dict)
    """Of ``DomainOptions``, where they are not the default."""
    mapped: bool = True
    """The disk has a dirty map, as every disk in write-through. Without one it is served as in earlier releases."""
    reopened: bool = False
    """The domain is there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The domain at the moment of the answer."""

    uri: str
    host_pid: int
    lsn_reserved: int
    lsn_uploaded: int
    logging: bool
    copied_bytes: int


async def serve(spec: Spec) -> None:
    host = HostOptions(runtime=spec.runtime, state=spec.state, write_back=spec.write_back)
    component = HostComponent(spec.name, host)
    if not spec.mapped:
        HostControl.add_mapped = _add_without_map  # type: ignore[assignment, method-assign]
    try:
        async with _domain(spec, host) as domain:
            if not spec.reopened:
                await domain.protect(DISK, spec.primary)
            _tell(domain, component)
            while request := (await asyncio.to_thread(sys.stdin.readline)).strip():
                match request:
                    case "settle":
                        await domain.uploaded(domain.status().lsn_reserved)
                    case "consistent":
                        await domain.wait_consistent()
                    case "tend":
                        component.control.tend_map(1)
                    case "pause":
                        domain.pause()
                    case "resume":
                        domain.resume()
                _tell(domain, component)
    finally:
        component.stop()  # otherwise it would go on serving guests


def _domain(spec: Spec, host: HostOptions) -> HostedDomain:
    options = DomainOptions(**spec.options)  # type: ignore[arg-type]
    if spec.reopened:
        return HostedDomain.open(
            spec.name, log=spec.log, store=spec.store, host=host, options=options, trust_stored_paths=True
        )
    return HostedDomain.create(
        spec.name, log=spec.log, log_bytes=spec.log_bytes, store=spec.store, host=host, options=options
    )


def _add_without_map(
    control: HostControl, number: int, size_bytes: int, name: str, path: str, _request: MapRequest
) -> None:
    control.add(number, size_bytes, 0, name, path)


def _tell(domain: HostedDomain, component: HostComponent) -> None:
    status = domain.status()
    answer = Answer(
        uri=domain.disk(DISK).nbd_uri,
        host_pid=component.pid,
        lsn_reserved=status.lsn_reserved,
        lsn_uploaded=status.lsn_uploaded,
        logging=status.host is not None and status.host.logging,
        copied_bytes=status.disks[0].copied_bytes,
    )
    print(json.dumps(asdict(answer)), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(Spec(**json.loads(sys.argv[1]))))
