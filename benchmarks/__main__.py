"""``python -m benchmarks``: all of them, or those named."""

from benchmarks.command import main

main()
