"""The ``jetdr`` command: what a person, or a program that reads JSON, does with a domain's store and log.

Invariants: results go to stdout, everything else to stderr. An error is one line that names its remedy. Nothing secret
is printed. Each command is a module ``…_command``: its options, what it asks of the engine, and how the answer looks.
"""

from jetdr_core.cli.app import main

__all__ = ["main"]
