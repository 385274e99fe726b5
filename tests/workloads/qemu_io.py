"""QemuIo: one qemu-io process that is told one command at a time.

QEMU writes what it is told to an NBD export, and the same writes to a log by its blklogwrites driver.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

LIMIT_S = 30.0
_PROMPT = "qemu-io> "
_TROUBLE = ("failed", "error", "not found", "invalid", "usage")


class QemuIoFailed(Exception):
    """A command was not done."""


def _image_options(uri: str, log: Path) -> str:
    address = urlsplit(uri)
    socket = parse_qs(address.query)["socket"][0]
    return (
        f"driver=blklogwrites,file.driver=nbd,file.server.type=unix,file.server.path={socket},"
        f"file.export={address.path.lstrip('/')},log.driver=file,log.filename={log}"
    )


class QemuIo:
    """``do`` returns when the command is done; with ``aio_write`` that is at the next ``aio_flush``."""

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
        with contextlib.suppress(ValueError):  # closed by the other thread at the end
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
    """A qemu-io on the export at ``uri`` whose writes go to the new file ``log``, too; closed (flushed) at the end."""
    log.touch()
    command = [qemu_io, "-t", "writeback", "--image-opts", _image_options(uri, log)]
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
