"""ControlClient: asks a DRVA over its control socket. It blocks, and is meant for command lines."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from jetdr_core.drva import wire
from jetdr_core.drva.errors import ControlError, DrvaUnreachable
from jetdr_core.drva.wire import REPLY_BYTES_MAX, Json
from jetdr_core.errors import InvalidRequest
from jetdr_core.unix_socket import connect_unix
from jetdr_core.waiting import told_if_long

__all__ = ["SOCKET_DEFAULT", "ControlClient"]

SOCKET_DEFAULT = Path("/run/jetdr/control.sock")
ANSWER_S = 75.0
"""How long to wait for an answer. The DRVA's own limit for a command is lower, so the DRVA reports a timeout first."""


class ControlClient:
    """A connection for one thread, and a context manager."""

    def __init__(self, path: Path, *, answer_s: float = ANSWER_S) -> None:
        self._path = path
        self._asked = 0
        try:
            self._socket = connect_unix(path, answer_s)
        except OSError as error:
            raise _unreachable(path, error) from None
        self._replies = self._socket.makefile("rb")

    def ask(self, command: str, /, **arguments: object) -> Json:
        """Return the command's result. Raises :class:`ControlError` if it failed, and :class:`DrvaUnreachable`."""
        self._asked += 1
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            with suppress(BrokenPipeError):  # the DRVA has closed the connection, and may have said why
                self._socket.sendall(wire.request_line(command, given, self._asked))
            with told_if_long(f"the DRVA at {self._path}, asked to {command!r},"):
                line = self._replies.readline(REPLY_BYTES_MAX)
        except OSError as error:
            raise _unreachable(self._path, error) from None
        if not line.endswith(b"\n"):
            raise DrvaUnreachable(f"the DRVA at {self._path} closed the connection", hint="is it stopping?")
        return self._result(wire.decode_reply(line))

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _result(self, reply: Json) -> Json:
        result, error = reply.get("result"), reply.get("error")
        if reply.get("ok") is True and isinstance(result, dict):
            return result
        if isinstance(error, dict):
            raise ControlError(str(error.get("kind")), str(error.get("message")))
        raise InvalidRequest(f"the program at {self._path} is not a DRVA", hint="name a DRVA's control socket")


def _unreachable(path: Path, error: OSError) -> DrvaUnreachable:
    why = "no answer in time" if isinstance(error, TimeoutError) else os.strerror(error.errno or 0)
    remedies = {
        FileNotFoundError: "start the DRVA, or name its socket with --socket or JETDR_SOCKET",
        ConnectionRefusedError: "the DRVA is not running: start it",
        PermissionError: "use the DRVA's account, or root",
    }
    return DrvaUnreachable(f"no DRVA at {path}: {why}", hint=remedies.get(type(error), "look at the DRVA's log"))
