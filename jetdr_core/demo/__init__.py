"""The demo: protects a real ext4 file system while it changes, and recovers it as it was at three moments.

Invariants: an independent program (e2fsck, debugfs, qemu-img) checked every claim that the demo prints. A check that
fails ends the demo with :class:`DemoFailed`.
"""

from jetdr_core.demo.demo_report import Capture, DemoReport, Recovered
from jetdr_core.demo.programs import DemoFailed, ProgramMissing
from jetdr_core.demo.story import run_demo

__all__ = ["Capture", "DemoFailed", "DemoReport", "ProgramMissing", "Recovered", "run_demo"]
