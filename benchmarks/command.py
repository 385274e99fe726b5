"""The command line: which benchmarks, how large, where, and what becomes of the figures."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import catalog, filter, history, log, nbd, rehydrate, rpo, upload  # noqa: A004
from benchmarks.measure import PeerMissing, Row, Scale
from benchmarks.report import machine, show_rows, write_json

__all__ = ["BENCHMARKS", "main"]

BENCHMARKS: dict[str, Callable[[Scale, Path], list[Row]]] = {
    "filter": filter.run,
    "log": log.run,
    "upload": upload.run,
    "rehydrate": rehydrate.run,
    "history": history.run,
    "catalog": catalog.run,
    "nbd": nbd.run,
    "rpo": rpo.run,
}
"""Each takes a scale and a directory that is its own, and gives its rows."""


def main(*names: str) -> None:
    """Run the benchmarks that are named here or on the command line, else all; exit status 1 if a target was missed."""
    options = _options(sys.argv[1:], names)
    scale = Scale.QUICK if options.quick else Scale.FULL
    where = machine(options.dir)
    print("  ".join(f"{key}={value}" for key, value in where.items()), flush=True)
    results = {}
    for name in options.names:
        try:
            with tempfile.TemporaryDirectory(prefix=f"jetdr-{name}-", dir=options.dir) as work:
                results[name] = BENCHMARKS[name](scale, Path(work))
        except PeerMissing as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
        else:
            show_rows(name, results[name])
    if options.json:
        write_json(options.json, where, results)
    missed = [row for rows in results.values() for row in rows if row.reached is False]
    sys.exit(1 if missed else 0)


def _options(arguments: Sequence[str], names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the engine beside its floors and peers; docs/benchmarks.md.")
    if not names:
        parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds instead of minutes, rougher figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()), help="where to work (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    options.names = list(names or options.names or BENCHMARKS)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    return options
