"""The DRVA of a soak in a process of its own: as ``jetdr drva`` runs it, but with a store that fails now and then.

The store refuses everything as long as the file ``outage`` exists beside the configuration. Waits between attempts are
short, so that a soak of minutes sees many attempts.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path
from typing import Any

from jetdr_core.domain import HostedDomain
from jetdr_core.drva.config import DomainConfig, load_config
from jetdr_core.drva.configured_domain import AnyDomain, disk_places, given_up_names, store_is_empty
from jetdr_core.drva.daemon import Drva
from jetdr_core.drva.logs import logging_to_stderr
from jetdr_core.drva.session import Backoff
from jetdr_core.store import open_store
from tests.faults.store import Fault, FaultyStore, Plan, seeded

RATES = {Fault.FAIL: 0.02, Fault.THROTTLED: 0.01, Fault.LOST_RESPONSE: 0.02, Fault.HALF_LISTING: 0.02}
BACKOFF = Backoff(first_s=0.1, cap_s=1.0)


def faults(outage: Path) -> Plan:
    now_and_then = seeded(random.SystemRandom().randrange(1 << 32), RATES)
    return lambda *call: Fault.FAIL if outage.exists() else now_and_then(*call)


async def opened(config: DomainConfig) -> AnyDomain:
    """Open the domain as jetdr_core.drva.configured_domain does, with a faulty store."""
    new = config.create and await store_is_empty(config.store, create=True)
    settings: dict[str, Any] = {
        "log": config.volume.path,
        "store": FaultyStore(open_store(config.store), faults(Path(sys.argv[1]).with_name("outage"))),
        "options": config.options,
        "host": config.host,
    }
    if new:
        return HostedDomain.create(config.name, log_bytes=config.section_bytes, **settings)
    settings |= {"disks": disk_places(config), "give_up_disks": given_up_names(config)}
    return HostedDomain.open(config.name, **settings)


async def run() -> None:
    drva = Drva(load_config(Path(sys.argv[1])), opener=opened, backoff=BACKOFF)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drva.stop)
    await drva.run()


def main() -> None:
    with logging_to_stderr("info", as_json=False):
        asyncio.run(run())
