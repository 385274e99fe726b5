"""Connections to Unix sockets."""

from __future__ import annotations

import os
import socket
import time

__all__ = ["connect_unix"]

_POLL_S = 0.005


def connect_unix(path: str | os.PathLike[str], limit_s: float) -> socket.socket:
    """A stream connected to ``path``, whose every later wait is limited to ``limit_s``, too.

    ``TimeoutError``: somebody listens, but took no connection for so long that no more can wait (the kernel refuses
    them with EAGAIN). Other ``OSError``: nobody listens.
    """
    deadline = time.monotonic() + limit_s
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(limit_s)
    while True:
        try:
            connection.connect(os.fspath(path))
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_POLL_S)
                continue
            connection.close()
            raise TimeoutError(f"{path}: no connection is taken within {limit_s:g} s") from None
        except BaseException:
            connection.close()
            raise
        return connection
