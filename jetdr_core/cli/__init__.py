"""The ``jetdr`` command: what a person, or a program that reads JSON, does with a domain's store and log.

Invariants: results on stdout, everything else on stderr; an error is one line that names its remedy; nothing secret is
printed. Each command is a module: its options, what it asks the engine, and how that looks.
"""

from jetdr_core.cli.app import main

__all__ = ["main"]
