"""QemuIo: one qemu-io process, which takes one command at a time.

QEMU writes to an NBD export, and its blklogwrites driver writes the same writes to a log.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

LIMIT_S = 30.0
_PROMPT = "qemu-io> "
_TROUBLE = ("failed", "error", "not found", "invalid", "usage")


class QemuIoFailed(Exception):
    """qemu-io did not carry out a command."""


def recorder(uri: str, log: Path) -> dict[str, Any]:
    """Return a block device of QEMU's that writes to the NBD export at ``uri`` and to a log in the new file ``log``."""
    log.touch()
    address = urlsplit(uri)
    server = {"type": "unix", "path": parse_qs(address.query)["socket"][0]}
    export = {"driver": "nbd", "server": server, "export": address.path.lstrip("/"), "discard": "unmap"}
    log_file = {"driver": "file", "filename": str(log)}
    return {"driver": "blklogwrites", "file": export, "log": log_file, "discard": "unmap"}


class QemuIo:
    """``do`` returns once the command is done. An ``aio_write`` is done at the next ``aio_flush``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._said: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, name="qemu-io", daemon=True).start()
        self._until_prompt("start")

    def do(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._until_prompt(command)
        if any(word in answer.lower() for word in _TROUBLE):
            raise QemuIoFailed(f"{command}: {answer}")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # the other thread closes stdout at the end
            while letter := self._process.stdout.read(1):
                self._said.put(letter)
        self._said.put(None)

    def _until_prompt(self, command: str) -> str:
        answer = ""
        while not answer.endswith(_PROMPT):
            try:
                letter = self._said.get(timeout=LIMIT_S)
            except queue.Empty:
                raise QemuIoFailed(f"{command}: no answer within {LIMIT_S} s, only {answer!r}") from None
            if letter is None:
                raise QemuIoFailed(f"{command}: qemu-io ended, saying {answer!r}")
            answer += letter
        return answer.removesuffix(_PROMPT)


@contextlib.contextmanager
def recording(qemu_io: str, uri: str, log: Path) -> Iterator[QemuIo]:
    """Run qemu-io on the export at ``uri``, with its writes also in the new file ``log``. It flushes at the end."""
    command = [qemu_io, "-t", "writeback", f"json:{json.dumps(recorder(uri, log))}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield QemuIo(process)
            assert process.stdin is not None
            process.stdin.close()
            if process.wait(LIMIT_S):
                raise QemuIoFailed(f"qemu-io ended with status {process.returncode}")
        finally:
            process.kill()
