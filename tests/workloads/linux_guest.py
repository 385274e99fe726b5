"""Guest: a Linux machine under QEMU, without hardware acceleration, whose root is a disk of the test.

A test learns of the guest from its serial console, and controls QEMU through a monitor (QMP).
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence

from tests.workloads.guest_software import Machine

MEMORY_MB = 192
LIMIT_S = 60.0


class GuestFailed(Exception):
    """The guest or QEMU did not say in time what it should have."""


class Monitor:
    """QEMU's monitor, over ``line``, in lines of JSON."""

    def __init__(self, line: socket.socket) -> None:
        line.settimeout(LIMIT_S)
        self._line = line
        self._answers = line.makefile("r")
        self._answers.readline()
        self.do("qmp_capabilities")

    def do(self, command: str) -> None:
        """Send a command, and wait until QEMU has carried it out."""
        self._line.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while answer := self._answers.readline():
            told = json.loads(answer)
            if "return" in told:
                return
            if "error" in told:
                raise GuestFailed(f"{command}: {told['error']}")
        raise GuestFailed(f"{command}: QEMU is gone")

    def close(self) -> None:
        self._answers.close()
        self._line.close()


class Guest:
    """A running machine."""

    def __init__(self, process: subprocess.Popen[str], monitor: Monitor) -> None:
        self._process = process
        self._monitor = monitor
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.console: list[str] = []
        self._listener = threading.Thread(target=self._listen, name="console")
        self._listener.start()

    def said(self, pattern: str, limit_s: float = LIMIT_S) -> re.Match[str]:
        """Wait for a line that contains ``pattern``."""
        deadline = time.monotonic() + limit_s
        while True:
            line = self._line(pattern, deadline)
            if match := re.search(pattern, line):
                return match

    def pause(self) -> None:
        """Stop the guest, with no request in flight and its disk flushed."""
        self._monitor.do("stop")

    def resume(self) -> None:
        self._monitor.do("cont")

    def switch_off_hard(self) -> None:
        """Kill QEMU with SIGKILL. The lines that it had printed can still be read."""
        self._process.kill()
        self.off()

    def off(self) -> None:
        """Wait until the machine is off."""
        self._process.wait(LIMIT_S)
        self._listener.join(LIMIT_S)

    @property
    def screen(self) -> str:
        """The last lines of the console."""
        return "".join(self.console[-40:])

    def rest(self) -> Iterator[str]:
        """Return all further lines until the machine is off."""
        deadline = time.monotonic() + LIMIT_S
        with contextlib.suppress(EOFError):
            while True:
                yield self._line("the end", deadline)

    def _line(self, wanted: str, deadline: float) -> str:
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise GuestFailed(f"waited in vain for {wanted!r}; the console:\n{self.screen}") from None
        if line is None:
            self._lines.put(None)
            raise EOFError(f"off before {wanted!r}; the console:\n{self.screen}")
        self.console.append(line)
        return line

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


@contextlib.contextmanager
def running(host: Machine, disk: Sequence[str], *arguments: str) -> Iterator[Guest]:
    """Run a guest until the end of the context. ``disk`` has QEMU's options for its root disk."""
    with contextlib.ExitStack() as stack:
        ours, qemus = socket.socketpair()
        stack.callback(ours.close)
        with qemus:
            process = stack.enter_context(
                subprocess.Popen(
                    _command(host, disk, arguments, qemus.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    pass_fds=[qemus.fileno()],
                )
            )
        stack.callback(process.kill)
        monitor = stack.enter_context(contextlib.closing(Monitor(ours)))
        guest = Guest(process, monitor)
        stack.callback(guest.switch_off_hard)
        yield guest


def _command(host: Machine, disk: Sequence[str], arguments: Sequence[str], monitor: int) -> list[str]:
    command = [host.qemu, "-accel", "tcg", "-m", str(MEMORY_MB), "-nodefaults", "-no-reboot", "-display", "none"]
    command += ["-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"]
    command += ["-serial", "stdio", "-kernel", str(host.kernel), "-initrd", str(host.initramfs)]
    # Without no_timer_check the kernel counts timer interrupts at first, and panics if a busy host delivers too few.
    command += ["-append", " ".join(("console=ttyS0", "quiet", "panic=-1", "no_timer_check", *arguments))]
    return [*command, *disk]
