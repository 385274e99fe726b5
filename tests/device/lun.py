"""What the tests of IscsiDevice share: the size of their LUNs, a hurried device, waiting, and another machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from jetdr_core.device import IscsiOptions
from tests.peers.tgt import Lun

SIZE = 4 << 20
HURRIED = IscsiOptions(limit_s=1.5, login_limit_s=1.0)
THERE = IscsiOptions(initiator="iqn.2026-11.test.jetdr:there", machine=0xBEEF)


def eventually(condition: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.01)


class Elsewhere:
    """A process on another machine: its own initiator and key, and no part in this machine's lock."""

    def __init__(self, lun: Lun) -> None:
        script = f"""
import sys
from jetdr_core.device import IscsiDevice, IscsiOptions, iscsi
from jetdr_core.errors import JetdrError
iscsi._lock = lambda url: None
options = IscsiOptions(initiator={THERE.initiator!r}, machine={THERE.machine})
device = None
for line in sys.stdin:
    try:
        match line.strip():
            case "open" | "preempt" as word:
                device = IscsiDevice({lun.url!r}, options=options, lock=True, preempt=word == "preempt")
            case "write":
                device.write(0, b"there..." * 512)
                device.sync()
            case "close":
                device.close()
        print("done", flush=True)
    except JetdrError as error:
        print(type(error).__name__, error, flush=True)
"""
        run = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-c", script]
        self.process = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
