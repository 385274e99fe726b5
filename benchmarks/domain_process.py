"""A protected domain with its host component in a process of its own, as in a DRVA.

The program takes the specification as its argument. Each line on stdin is a request: ``status``, or ``settle``, which
waits until the store has everything written so far. The answer is a line of JSON on stdout. The domain closes at the
end of stdin.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass

from benchmarks.exports import DISK
from jetdr_core.domain import HostedDomain
from jetdr_core.host import HostComponent, HostOptions

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The domain at the moment of the answer."""

    uri: str
    host_pid: int
    lsn_reserved: int
    lsn_uploaded: int


async def serve(spec: Spec) -> None:
    host = HostOptions(runtime=spec.runtime, state=spec.state, write_back=spec.write_back)
    component = HostComponent(spec.name, host)
    try:
        async with HostedDomain.create(
            spec.name, log=spec.log, log_bytes=spec.log_bytes, store=spec.store, host=host
        ) as domain:
            await domain.protect(DISK, spec.primary)
            _tell(domain, component)
            while request := (await asyncio.to_thread(sys.stdin.readline)).strip():
                if request == "settle":
                    await domain.uploaded(domain.status().lsn_reserved)
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
    )
    print(json.dumps(asdict(answer)), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(Spec(**json.loads(sys.argv[1]))))
