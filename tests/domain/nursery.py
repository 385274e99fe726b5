"""Processes of tests that start at once: forks of one process that has imported everything.

A process of its own, which a test may kill or stop, takes most of a second to import the package, and some tests start
hundreds. So a nursery imports it once, and forks. It has no threads and no event loop, so a fork is a fresh process.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import jetdr_core

IMPORTED = ("tests.domain.drva_process", "tests.domain.load_process")
MESSAGE_BYTES_MAX = 64 << 10


class Child:
    """A process that runs ``main`` of a module, with ``order`` as its argument. Like a ``subprocess.Popen`` of text."""

    def __init__(self, module: str, order: dict[str, Any]) -> None:
        stdin, ours_in = os.pipe()
        ours_out, stdout = os.pipe()
        try:
            self.pid = int(_ask({"fork": module, "order": json.dumps(order)}, [stdin, stdout, 2]))
        finally:
            os.close(stdin)
            os.close(stdout)
        self.stdin = os.fdopen(ours_in, "w")
        self.stdout = os.fdopen(ours_out)
        self.returncode: int | None = None
        self._pid_fd = os.pidfd_open(self.pid)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stdout.close()
        self.stdin.close()
        self.wait()

    def poll(self) -> int | None:
        return self._wait_ms(0)

    def wait(self, timeout_s: float | None = None) -> int:
        if self._wait_ms(None if timeout_s is None else int(timeout_s * 1000)) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout_s or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._pid_fd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait_ms(self, limit_ms: int | None) -> int | None:
        """Wait until it has ended, though its parent, the nursery, has not looked yet."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._pid_fd, select.POLLIN)
            if poll.poll(limit_ms):
                self.returncode = int(_ask({"reap": self.pid}))
                os.close(self._pid_fd)
        return self.returncode


@functools.cache
def _nursery() -> socket.socket:
    """Start the nursery of this process. It ends with this process."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    script = (
        "import sys, types; t = sys.modules['tests'] = types.ModuleType('tests'); "
        f"t.__path__ = [{str(Path(__file__).parents[1])!r}]\n"
        "from tests.domain import nursery; nursery.serve(int(sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(its.fileno())],
        pass_fds=[its.fileno()],
        env=os.environ | {"PYTHONPATH": str(Path(jetdr_core.__file__).parents[1])},
        start_new_session=True,
    )
    its.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _ask(request: dict[str, Any], descriptors: list[int] | None = None) -> bytes:
    nursery = _nursery()
    socket.send_fds(nursery, [json.dumps(request).encode()], descriptors or [])
    answer = nursery.recv(MESSAGE_BYTES_MAX)
    assert answer, "the nursery has ended"
    return answer


def serve(descriptor: int) -> None:
    """Fork for the process at the other end, until that ends."""
    for module in IMPORTED:
        importlib.import_module(module)
    channel = socket.socket(fileno=descriptor)
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES_MAX, 3)
        if not message:
            return
        request = json.loads(message)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork() or _run(channel, request, descriptors)
            for number in descriptors:
                os.close(number)
        channel.send(str(answer).encode())


def _run(channel: socket.socket, request: dict[str, Any], descriptors: list[int]) -> int:
    """Be the child. Does not return."""
    code = 1
    try:
        channel.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.argv = ["-c", request["order"]]
        importlib.import_module(f"tests.domain.{request['fork']}").main()
        code = 0
    except BaseException:  # noqa: BLE001 - the process ends
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(code)
