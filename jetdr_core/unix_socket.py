"""Unix sockets: connections to them, and the names that are bound and removed.

Invariant: the only name that is ever removed is that of a socket that this user made and no process listens on any
more. Anything else that has the name, such as a disk named by mistake, is refused and left as it is.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path

from jetdr_core.errors import DeviceBusy, InvalidRequest
from jetdr_core.file_making import trying
from jetdr_core.ownership import check_guarded

__all__ = ["UnixListener", "check_socket_place", "clear_socket_place", "connect_unix"]

_POLL_S = 0.005

_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a pipe",
}


class UnixListener:
    """A stream socket that listens at ``path``, for this user alone (mode 0600).

    ``what`` names the path in errors: the key of the configuration. :class:`InvalidRequest` if something else has the
    name, :class:`DeviceBusy` if somebody listens there.
    """

    def __init__(self, what: str, path: Path) -> None:
        clear_socket_place(what, path)
        self.path = path
        with trying(path, f"making {what}"):
            self._listen(path)

    def _listen(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(self.socket.fileno(), 0o600)  # before it has a name, so that it never has another mode
            self.socket.bind(str(path))
            self.socket.listen()
            self._identity = _identity(path)
        except BaseException:
            self.socket.close()
            raise

    @property
    def is_named(self) -> bool:
        """Whether the path still leads to this socket."""
        return _identity(self.path) == self._identity

    def remove_name(self) -> None:
        """Remove the name, unless another socket has it by now. To be called while the socket is still open.

        An open socket keeps its inode, so no other socket can have the same one.
        """
        if self.is_named:
            with trying(self.path, "removing the socket"):
                self.path.unlink()


def check_socket_place(what: str, path: Path, *, user: int | None = None) -> None:
    """Refuse ``path`` as the place of a socket if its folder is missing or not guarded, or if no socket has the name.

    ``user``, by default this user, is who makes the socket. A socket on which somebody listens is no reason:
    that may be this program.
    """
    user = os.geteuid() if user is None else user
    check_guarded(f"the folder of {what}", path.parent, user=user)
    if not os.path.isdir(path.parent):
        raise InvalidRequest(f"{what} {path}: its folder does not exist", hint="make it, or name another path")
    status = _status(path)
    if status is None:
        return
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFSOCK:
        raise InvalidRequest(
            f"{what} {path} is {_KINDS.get(kind, 'no socket')} that exists, and was left as it is",
            hint="name a path of its own for the socket, or move what is there away",
        )
    if status.st_uid != user:
        raise InvalidRequest(
            f"{what} {path} is a socket of user {status.st_uid}, and was left as it is",
            hint="name another path, or remove the socket if nobody uses it",
        )


def clear_socket_place(what: str, path: Path) -> None:
    """See that a socket can be made at ``path``: remove the one that a process of this user left there when it died."""
    check_socket_place(what, path)
    try:
        connect_unix(path, 0).close()
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with trying(path, "removing the socket that a process left"):
            path.unlink(missing_ok=True)
        return
    except OSError:
        pass  # it takes no connection now, or is no stream: its owner lives
    raise DeviceBusy(
        f"{what} {path} is in use by another process", hint="stop that process, or name another path", path=str(path)
    )


def connect_unix(path: str | os.PathLike[str], limit_s: float) -> socket.socket:
    """A stream connected to ``path``, whose every later wait is limited to ``limit_s``, too.

    ``TimeoutError``: somebody listens, but took no connection for so long that no more can wait (the kernel refuses
    them with EAGAIN). Other ``OSError``: nobody listens.
    """
    deadline = time.monotonic() + limit_s
    with trying(path, "making a socket to connect to it"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(limit_s)
    while True:
        try:
            with trying(path, "connecting to it"):
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


def _status(path: Path) -> os.stat_result | None:
    try:
        with trying(path, "looking at it"):
            return path.lstat()
    except FileNotFoundError:
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    status = _status(path)
    return None if status is None else (status.st_dev, status.st_ino)
