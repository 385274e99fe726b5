"""``python -m benchmarks``: all benchmarks, or those named."""

from benchmarks.command_line import main
from benchmarks.every import BENCHMARKS

main(BENCHMARKS)
