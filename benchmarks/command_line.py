"""The command line of the benchmarks: what to measure, how large, where, and what becomes of the figures.

Invariant: the modules above (each benchmark, and the list of all) hand their benchmarks in; none is imported here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.measure import PeerMissing, Row, Scale
from benchmarks.row_table import show_rows, write_json

__all__ = ["Benchmark", "main"]

Benchmark = Callable[[Scale, Path], list[Row]]
"""Takes a scale and a directory of its own, and returns its rows."""


def main(benchmarks: Mapping[str, Benchmark]) -> None:
    """Run ``benchmarks``, or those that the command line names. The exit status is 1 if a target was missed."""
    options = _options(sys.argv[1:], benchmarks)
    scale = Scale.QUICK if options.quick else Scale.FULL
    where = machine(options.dir)
    print("  ".join(f"{key}={value}" for key, value in where.items()), flush=True)
    results = {}
    for name in options.names:
        try:
            with tempfile.TemporaryDirectory(prefix=f"jetdr-{name}-", dir=options.dir) as work:
                results[name] = benchmarks[name](scale, Path(work))
        except PeerMissing as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
        else:
            show_rows(name, results[name])
    if options.json:
        write_json(options.json, where, results)
    missed = [row for rows in results.values() for row in rows if row.reached is False]
    sys.exit(1 if missed else 0)


def _options(arguments: Sequence[str], benchmarks: Mapping[str, Benchmark]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the engine beside its floors and peers; docs/benchmarks.md.")
    if len(benchmarks) > 1:
        parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(benchmarks)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds instead of minutes, rougher figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to FILE")
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()), help="directory to work in (default: %(default)s)"
    )
    options = parser.parse_args(arguments, argparse.Namespace(names=[]))
    options.names = options.names or list(benchmarks)
    unknown = [name for name in options.names if name not in benchmarks]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are: {', '.join(benchmarks)}")
    return options
