"""HostControl: the client of a host component's control socket (docs/formats/host-control.md).

Invariants: a connection carries one request at a time, and concurrent requests use a connection each. Every wait has a
limit. A connection on which anything went wrong is not used again.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeVar

from jetdr_core._core import FilterStats, MapFound, MapStart, MapState
from jetdr_core.errors import DeviceBusy, HostDeaf, HostGone, InvalidRequest, LoggingOff, PrimaryFailed, StallTimeout
from jetdr_core.identity import check_name
from jetdr_core.unix_socket import connect_unix

__all__ = ["HostControl", "HostedDiskStats", "MapRequest"]

T = TypeVar("T")

PROTOCOL = "jetdr-host 1"
HELLO_LIMIT_S = 5.0
REQUEST_LIMIT_S = 150.0
"""Longer than any stall limit: a copy waits that long, and then for its primary."""

_LINE_BYTES_MAX = 8192
_NOT_COUNTED = dict.fromkeys(
    ("throttled", "throttled_ns", "throttled_ns_max", "trouble", "trouble_errno", "trouble_since_ns"), 0
)
"""Counters that host components of earlier releases lack."""
_IDLE_MAX = 4
_MAP_GOES_ON = 64
_MAP_ABSENT = 65
_MAP_FIELDS = ("region_bytes", "marked_bytes", "owed_bytes", "intents", "failed", "failed_since_ns")


class HostedDiskStats(NamedTuple):
    """What the host component counts on one disk."""

    number: int
    name: str
    filter: FilterStats
    map: MapState | None = None


class MapRequest(NamedTuple):
    """What the host component is told of primary and log when a disk is added with a dirty map.

    ``earlier`` and ``generation`` are those of the log's last use and of the present one. ``log_lsn`` and
    ``log_time_ns`` are those of the last record that the log has.
    """

    start: MapStart
    section_id: int
    timeline: int
    earlier: str
    generation: str
    log_lsn: int
    log_time_ns: int

    @property
    def words(self) -> str:
        """Return the request as it is on the wire."""
        start, section_id, *rest = self
        return " ".join([str(int(start)), f"{section_id:016x}", *map(str, rest)])


class HostControl:
    """The commands of the host component at the socket ``path``. Thread-safe.

    A command connects if no connection is idle. :class:`HostGone`: the host component is not reachable, or did not
    reply in time. It is then not known whether it did what the command says.
    """

    def __init__(self, path: str | os.PathLike[str], *, limit_s: float = REQUEST_LIMIT_S) -> None:
        self._path = os.fspath(path)
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []

    @property
    def path(self) -> str:
        return self._path

    def hello(self) -> int:
        """The process id of the host component."""
        words = self._ask("HELLO", limit_s=min(HELLO_LIMIT_S, self._limit_s)).split(" ")
        if len(words) != 3 or " ".join(words[:2]) != PROTOCOL or not words[2].isdigit():
            raise HostGone(
                f"{self._path}: what answers is not a host component of this version: {' '.join(words)!r}",
                hint="stop it, and let this version start its own",
            )
        return int(words[2])

    def listener_pid(self) -> int:
        """The id of the process that listens on the socket, even if it replies to nothing.

        :class:`HostDeaf`: somebody listens, but takes no connection, so the process id is not known.
        """
        connection = self._connect(min(HELLO_LIMIT_S, self._limit_s))
        try:
            return connection.peer_pid()
        finally:
            connection.close()

    def add(self, number: int, size_bytes: int, record_bytes_max: int, name: str, path: str) -> None:
        """Serve a disk. Idempotent; :class:`InvalidRequest` if another disk has the number or the name.

        ``record_bytes_max`` 0 stands for the longest record that the ring takes. ``FileNotFoundError``,
        :class:`DeviceBusy` and ``OSError`` are about the primary.
        """
        _check_disk(name, path)
        self._ask(f"ADD {number} {size_bytes} {record_bytes_max} {name} {path}", refused=_refused_disk)

    def add_mapped(self, number: int, size_bytes: int, name: str, path: str, request: MapRequest) -> MapFound | None:
        """Serve a disk with a dirty map, like :meth:`add`; returns why its earlier map was not believed, if it was not.

        The map of a disk that is served already goes on. None: the disk has no map.
        """
        _check_disk(name, path)
        try:
            found = int(
                self._ask(f"ADD_MAPPED {number} {size_bytes} 0 {name} {request.words} {path}", refused=_refused_disk)
            )
        except InvalidRequest as error:
            if "not a command" not in error.message:
                raise
            self.add(number, size_bytes, 0, name, path)  # a host component of an earlier release
            return None
        if found == _MAP_ABSENT:
            return None
        return MapFound.BELIEVED if found == _MAP_GOES_ON else MapFound(found)

    def owed(self, number: int, offset: int) -> tuple[int, int] | None:
        """Return offset and length of what is owed a copy first from ``offset`` on. None if nothing is."""
        at, length = map(int, self._ask(f"OWED {number} {offset}", refused=_refused_copy).split(" "))
        return (at, length) if length else None

    def settle(self, number: int) -> None:
        """Return when every write that is in flight now has ended. :class:`StallTimeout` after the stall limit."""
        self._ask(f"SETTLE {number}", refused=_refused_copy)

    def tend_map(self, number: int) -> None:
        """Take one step of the clearing of the disk's dirty map, out of turn."""
        self._ask(f"TEND {number}")

    def remove(self, number: int) -> None:
        """Stop serving the disk: refuse new I/O, wait for the I/O in flight, close the primary."""
        self._ask(f"REMOVE {number}")

    def copy(self, number: int, offset: int, length: int) -> int:
        """Log a range of the primary as background data. Returns the LSN.

        0, and nothing is logged, if the range is longer than a record and is no hole of the primary's file.
        """
        try:
            return int(self._ask(f"COPY {number} {offset} {length}", refused=_refused_copy))
        except _TooLong:
            return 0

    def digest(self, number: int, offset: int, length: int) -> tuple[int, bytes]:
        """An LSN, and the digest of a range of the disk exactly at that LSN. Nothing is logged."""
        words = self._ask(f"DIGEST {number} {offset} {length}", refused=_refused_copy).split(" ")
        try:
            lsn, digest = int(words[0]), bytes.fromhex(words[1])
        except (IndexError, ValueError):
            raise HostGone(f"{self._path}: {' '.join(words)!r} is no digest", hint="start the host again") from None
        return lsn, digest

    def trust(self, number: int) -> None:
        """Declare the disk no longer suspect: all of it is about to be copied."""
        self._ask(f"TRUST {number}", refused=_refused_copy)

    def stats(self) -> dict[int, HostedDiskStats]:
        """What the host component counts on each disk that it serves, by number."""

        def read(connection: _Connection) -> dict[int, HostedDiskStats]:
            count = int(connection.ask("STATS", _refused))
            found = [_parse_stats(connection.read_line()) for _ in range(count)]
            return {disk.number: disk for disk in found}

        return self._converse(read, self._limit_s)

    def quit(self, *, limit_s: float = HELLO_LIMIT_S) -> None:
        """Ask the process to end in order. It is still running at return."""
        self._ask("QUIT", limit_s=limit_s)

    def close(self) -> None:
        """Close the idle connections. The next request opens a new one."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # -- connections -------------------------------------------------------------------------------------------------

    def _ask(
        self, line: str, *, limit_s: float | None = None, refused: Callable[[int, str], Exception] | None = None
    ) -> str:
        return self._converse(
            lambda connection: connection.ask(line, refused or _refused), self._limit_s if limit_s is None else limit_s
        )

    def _converse(self, talk: Callable[[_Connection], T], limit_s: float) -> T:
        """The result of ``talk`` on an idle connection, or on a new one if the other side has closed the idle one."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            with suppress(_ClosedWhileIdle):
                return self._finish(connection, talk, limit_s)
        try:
            return self._finish(self._connect(limit_s), talk, limit_s)
        except _ClosedWhileIdle as closed:
            raise HostGone(
                f"{self._path}: the host component closed the connection", hint="see its log; start it again"
            ) from closed

    def _finish(self, connection: _Connection, talk: Callable[[_Connection], T], limit_s: float) -> T:
        connection.set_limit(limit_s)
        try:
            return talk(connection)
        except _Refused as refusal:
            raise refusal.error from None
        except TimeoutError as late:
            connection.close()
            raise HostGone(
                f"{self._path}: the host component did not answer within {limit_s:g} s",
                hint="look whether its process is stopped, or a primary hangs",
            ) from late
        except (ConnectionError, ValueError) as broken:
            connection.close()
            raise HostGone(f"{self._path}: the host component went away: {broken}", hint="start it again") from broken
        finally:
            self._put_back(connection)

    def _put_back(self, connection: _Connection) -> None:
        with self._lock:
            if connection.usable and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self, limit_s: float) -> _Connection:
        try:
            return _Connection(self._path, limit_s)
        except TimeoutError as late:
            raise HostDeaf(
                f"{self._path}: the host component took no connection within {limit_s:g} s",
                hint="look whether its process is stopped",
            ) from late
        except OSError as error:
            raise HostGone(
                f"{self._path}: no host component can be reached: {error.strerror or error}", hint="start it"
            ) from error


class _ClosedWhileIdle(Exception):
    """The other side closed the connection before it began to reply."""


class _Refused(Exception):
    """The reply is an ERR, which means ``error``. The connection is still good."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _TooLong(Exception):
    """A range to be copied is longer than a record, and no hole."""


class _Connection:
    """One connection. It is ``usable`` as long as nothing went wrong and no reply is outstanding."""

    def __init__(self, path: str, limit_s: float) -> None:
        self._socket = connect_unix(path, limit_s)
        self._stream = self._socket.makefile("rb")
        self.usable = False

    def set_limit(self, limit_s: float) -> None:
        self._socket.settimeout(limit_s)

    def peer_pid(self) -> int:
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

    def ask(self, line: str, refused: Callable[[int, str], Exception]) -> str:
        """What follows OK in the reply. ``refused`` turns the errno and message of an ERR into an exception."""
        self.usable = False
        try:
            self._socket.sendall(line.encode() + b"\n")
            answer = self._stream.readline(_LINE_BYTES_MAX)
        except (BrokenPipeError, ConnectionResetError) as closed:
            raise _ClosedWhileIdle from closed
        if not answer:
            raise _ClosedWhileIdle
        word, _, rest = answer.decode(errors="replace").rstrip("\n").partition(" ")
        self.usable = word in ("OK", "ERR") and answer.endswith(b"\n")
        if word == "OK" and self.usable:
            return rest
        number, _, message = rest.partition(" ")
        if not self.usable or not number.isdigit():
            self.usable = False
            raise ConnectionError(f"the reply {answer!r} is not one of a host component")
        raise _Refused(refused(int(number), message))

    def read_line(self) -> str:
        """The next line of the reply."""
        self.usable = False
        line = self._stream.readline(_LINE_BYTES_MAX)
        if not line.endswith(b"\n"):
            raise ConnectionError("the reply ends in the middle")
        self.usable = True
        return line.decode(errors="replace").rstrip("\n")

    def close(self) -> None:
        self.usable = False
        self._stream.close()
        self._socket.close()


def _check_disk(name: str, path: str) -> None:
    check_name("disk", name)
    if not path.startswith("/") or "\n" in path or "\0" in path:
        raise InvalidRequest(f"disk {name!r}: {path!r} is no path for its primary", hint="use an absolute path")


# -- what the wire's errors mean ---------------------------------------------------------------------------------------


def _refused(number: int, message: str) -> Exception:
    if number in (errno.EINVAL, errno.EEXIST, errno.ENOENT):
        return InvalidRequest(f"host component: {message}", hint="see what it serves", errno=number)
    if number == errno.ESHUTDOWN:
        return HostGone(f"host component: {message}", hint="start it again once it has ended")
    if number == errno.EAGAIN:
        return HostDeaf(f"host component: {message}", hint="try again")
    return OSError(number, f"host component: {message}")


def _refused_disk(number: int, message: str) -> Exception:
    if number == errno.ENOENT:
        return FileNotFoundError(number, f"host component: {message}")
    if number == errno.EBUSY:
        return DeviceBusy(f"host component: {message}", hint="one process writes to a primary")
    return _refused(number, message)


def _refused_copy(number: int, message: str) -> Exception:
    if number == errno.E2BIG:
        return _TooLong()
    if number == errno.ETIMEDOUT:
        return StallTimeout(message, hint="the log is full, or a primary does not answer; try again")
    if number == errno.ECANCELED:
        return LoggingOff(message, hint="resume logging first")
    if number == errno.ENOENT:
        return HostGone(message, hint="it was started again: try again when it serves its disks")
    if number == errno.EIO:
        return PrimaryFailed(message, hint="mend the primary disk", errno=errno.EIO)
    return _refused(number, message)


def _parse_stats(line: str) -> HostedDiskStats:
    number, name, *words = line.split(" ")
    values = _NOT_COUNTED | {word.partition("=")[0]: int(word.partition("=")[2]) for word in words}
    missing = [field for field in FilterStats._fields if field not in values]
    if missing:
        raise ConnectionError(f"disk {name}: the statistics lack {', '.join(missing)}")
    state = [values.get(f"map_{field}") for field in _MAP_FIELDS]
    return HostedDiskStats(
        int(number),
        name,
        FilterStats._make(values[field] for field in FilterStats._fields),
        MapState._make(word for word in state if word is not None) if None not in state else None,
    )
