"""A protected domain with its host component in a process of its own, as in a DRVA.

The program takes the specification as its argument. Each line on stdin is a request: ``status``, ``settle``, which
waits until the store has everything written so far, ``consistent``, which waits until the domain is that, ``pause`` or
``resume``. The answer is a line of JSON on stdout. The domain closes at the end of stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from benchmarks.exports import DISK
from jetdr_core.domain import HostedDomain
from jetdr_core.host import HostComponent, HostOptions
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The domain at the moment of the answer."""

    uri: str
    host_pid: int
    lsn_reserved: int
    lsn_uploaded: int
    logging: bool


async def serve(spec: Spec) -> None:
    host = HostOptions(runtime=spec.runtime, state=spec.state, write_back=spec.write_back)
    component = HostComponent(spec.name, host)
    try:
        async with HostedDomain.create(
            spec.name,
            log=spec.log,
            log_bytes=spec.log_bytes,
            store=spec.store,
            host=host,
            options=DomainOptions(**spec.options),  # type: ignore[arg-type]
        ) as domain:
            await domain.protect(DISK, spec.primary)
            _tell(domain, component)
            while request := (await asyncio.to_thread(sys.stdin.readline)).strip():
                match request:
                    case "settle":
                        await domain.uploaded(domain.status().lsn_reserved)
                    case "consistent":
                        await domain.wait_consistent()
                    case "pause":
                        domain.pause()
                    case "resume":
                        domain.resume()
                _tell(domain, component)
    finally:
        component.stop()  # otherwise it would go on serving guests


def _tell(domain: HostedDomain, component: HostComponent) -> None:
    status = domain.status()
    answer = Answer(
        uri=domain.disk(DISK).nbd_uri,
        host_pid=component.pid,
        lsn_reserved=status.lsn_reserved,
        lsn_uploaded=status.lsn_uploaded,
        logging=status.host is not None and status.host.logging,
    )
    print(json.dumps(asdict(answer)), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(Spec(**json.loads(sys.argv[1]))))
