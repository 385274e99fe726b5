"""Starts a command in a process whose clock, locks, threads and chance are the kernel's.

The command's module is imported after the kernel is installed, because what it imports takes locks.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import threading
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]


def start(command: str) -> NoReturn:
    """Run ``run(arguments)`` of the module ``command``, and exit with what it returns."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets decides who runs first
        os.execve(sys.executable, sys.orig_argv, os.environ | {"PYTHONHASHSEED": "0"})
    if not any((ROOT / "jetdr_core").glob("_core*.so")):  # the source tree would hide the installed package
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
    from tests.sim import kernel  # noqa: PLC0415 - the process was replaced before

    kernel.install()
    run = importlib.import_module(command).run
    logging.disable(logging.CRITICAL)
    gc.disable()  # a finalizer would run at a moment that no seed decides
    gc.freeze()  # what was imported is not looked through after each seed
    threading.stack_size(512 << 10)
    status = run(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # threads of a seed that is stuck would be waited for
