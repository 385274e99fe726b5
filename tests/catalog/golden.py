"""Golden summary and heartbeat: written by each released version, read by every later one.

``python -m tests.catalog.golden`` writes those of this version; commit them with the release and never change them.
"""

from __future__ import annotations

from pathlib import Path

import jetdr_core
from jetdr_core.catalog import heartbeat
from tests.catalog.chains import ChainMaker, domain, run, time_ns

FOLDER = Path(__file__).resolve().parent.parent / "golden"


def chain() -> ChainMaker:
    """Group 0 complete: the epoch, a disk, a mark at LSN 2, then writes, one a segment."""
    maker = domain()
    maker.mark("before upgrade")
    maker.segment()
    while maker.number < 1024:
        maker.segment()
    return maker


def main() -> None:
    version = getattr(jetdr_core, "__version__", "0.1.0")
    maker = chain()
    maker.summarise()
    (FOLDER / f"chain-summary-{version}.bin").write_bytes(run(maker.store.get("catalog/00000000")))
    (FOLDER / f"chain-heartbeat-{version}.bin").write_bytes(heartbeat(7, lsn=1234567, time_ns=time_ns(5))[1])


if __name__ == "__main__":
    main()
