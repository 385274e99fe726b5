"""Every benchmark by name."""

from __future__ import annotations

from benchmarks import catalog, filter, history, log, nbd, overload, rehydrate, resync, rpo, upload  # noqa: A004
from benchmarks.command_line import Benchmark

__all__ = ["BENCHMARKS"]

BENCHMARKS: dict[str, Benchmark] = {
    "filter": filter.run,
    "log": log.run,
    "upload": upload.run,
    "rehydrate": rehydrate.run,
    "history": history.run,
    "catalog": catalog.run,
    "nbd": nbd.run,
    "rpo": rpo.run,
    "overload": overload.run,
    "resync": resync.run,
}
