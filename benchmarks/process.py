"""The server processes of a benchmark, and the CPU time of processes."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["Server", "cpu_seconds"]

START_LIMIT_S = 20.0
END_LIMIT_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A process, in a session of its own, that listens on a Unix socket from construction until :meth:`end`."""

    def __init__(self, command: Sequence[str], listens_at: Path, said: Path) -> None:
        listens_at.unlink(missing_ok=True)
        self._said = said
        with said.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._await(listens_at)
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """Send SIGTERM and wait for the end. Kill the process if it does not end in time."""
        self._process.terminate()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _await(self, listens_at: Path) -> None:
        limit = time.monotonic() + START_LIMIT_S
        while not _answers(listens_at):
            if self._process.poll() is not None or time.monotonic() > limit:
                said = self._said.read_text(errors="replace").strip()
                raise RuntimeError(f"{self._process.args!r} does not listen at {listens_at}: {said}")
            time.sleep(0.01)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        return path.exists() and caller.connect_ex(str(path)) == 0


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the user and system time of these processes so far, threads included."""
    return sum(_ticks(pid) for pid in pids) / _TICKS


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
