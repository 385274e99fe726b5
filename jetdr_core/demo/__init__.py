"""The demo: a real ext4 file system, protected while it changes, and recovered as it was at three moments.

Invariant: every claim it prints was checked by a program nobody here wrote (e2fsck, debugfs, qemu-img); a check that
fails ends it with :class:`DemoFailed`.
"""

from jetdr_core.demo.programs import DemoFailed, ProgramMissing
from jetdr_core.demo.report import Captured, DemoReport, Recovered
from jetdr_core.demo.story import run_demo

__all__ = ["Captured", "DemoFailed", "DemoReport", "ProgramMissing", "Recovered", "run_demo"]
