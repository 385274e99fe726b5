"""HostComponent: the process that serves one domain's disks. It is started here, found again, and asked to end.

Invariants: the process has a session of its own and outlives this one. Everything about it is asked of its control
socket, and nothing is remembered. Only the owner can enter the domain's runtime folder. The process
inherits no credential.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

from jetdr_core.child_environment import child_environment
from jetdr_core.errors import HostDeaf, HostFailed, HostGone, HostUnreachable, InvalidRequest
from jetdr_core.file_making import trying
from jetdr_core.host.host_client import HELLO_LIMIT_S, HostControl
from jetdr_core.host.options import HostOptions, StartDisk
from jetdr_core.identity import check_name
from jetdr_core.ownership import make_private
from jetdr_core.unix_socket import clear_socket_place

__all__ = ["PLUGIN_PATH", "HostComponent"]

log_ = logging.getLogger(__name__)

PLUGIN_PATH = Path(__file__).resolve().parents[1] / "nbdkit-jetdr-plugin.so"
"""What nbdkit loads."""

_SOCKET_PATH_BYTES_MAX = 107
_POLL_S = 0.02
_KILL_LIMIT_S = 5.0
LOG_BYTES_MAX = 1 << 20
"""Approximate cap on ``host.log``, which guests can make grow. It lies on tmpfs."""

_LOG_TAIL_BYTES = 2000


class HostComponent:
    """The host component of domain ``name``. Its control socket, ring and log are in :attr:`folder`."""

    def __init__(self, name: str, options: HostOptions) -> None:
        self.name = check_name("domain", name)
        self.options = options
        self.folder = Path(options.runtime) / name
        self.control = HostControl(self.folder / "host.sock")
        self.log_path = self.folder / "host.log"
        for path in (self.control.path, self._nbd_socket or ""):
            if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
                raise InvalidRequest(
                    f"the socket path {path!r} is longer than {_SOCKET_PATH_BYTES_MAX} bytes",
                    hint="use a shorter runtime folder or domain name",
                )

    def running(self) -> bool:
        """Whether the process exists, even if it does not answer."""
        try:
            self.control.listener_pid()
        except HostGone:
            return False
        except HostDeaf:
            pass  # there is one, which takes no connection
        return True

    @property
    def pid(self) -> int:
        """The process id. :class:`HostGone` if there is no process, :class:`HostDeaf` if it takes no connection."""
        return self.control.listener_pid()

    def nbd_uri(self, disk: str) -> str:
        """The URI at which a guest finds disk ``disk``."""
        if self.options.tcp_address is not None:
            return f"nbd://{self.options.listen}/{disk}"
        return f"nbd+unix:///{disk}?socket={quote(self._nbd_socket or '')}"

    def start(
        self,
        ring_path: str | os.PathLike[str] | None,
        domain_uuid: UUID | None = None,
        *,
        disks: Sequence[StartDisk] = (),
        bypassed_path: str | os.PathLike[str] | None = None,
        map_folder: str = "",
    ) -> None:
        """Start the process and wait until it answers; it goes on when this process ends.

        ``ring_path`` None: nothing is protected. ``disks`` are served from the first moment, as write-back needs to
        write what the ring still holds; ``bypassed_path``, on storage that lasts, is for write-back alone.
        ``map_folder`` is where dirty maps lie, and empty for beside their disks.
        :class:`HostFailed`: it did not come up, and why. :class:`HostDeaf`: one is there already, but cannot be asked.
        """
        if self.running():
            raise InvalidRequest(
                f"domain {self.name!r}: its host component runs already, as process {self.pid}", hint="use that one"
            )
        if self.options.write_back != (bypassed_path is not None):
            raise InvalidRequest(
                f"domain {self.name!r}: write_back={self.options.write_back} and bypassed_path={bypassed_path}",
                hint="write-back has a bypassed file, write-through has none",
            )
        if not os.path.exists(PLUGIN_PATH):
            raise InvalidRequest(
                f"{PLUGIN_PATH} is missing: this jetdr_core was built without the host component",
                hint="install the Debian packages nbdkit, nbdkit-plugin-dev and gcc, and build jetdr_core here",
            )
        make_private("the runtime folder", self.folder)
        if self._nbd_socket:
            clear_socket_place("the socket for guests", Path(self._nbd_socket))
        command = self._command_line(ring_path, domain_uuid, disks, bypassed_path)
        command += [f"map-folder={map_folder}"] if map_folder else []
        with self._log() as log:
            process = self._spawn(command, log)
        self._await_hello(process)

    def stop(self) -> None:
        """Ask the process to end in order, and wait for its end. Does nothing if there is no process.

        :class:`HostFailed`: the process did not end within ``stop_limit_s``, and was killed. :class:`HostDeaf`: there
        is a process, but it takes no connection.
        """
        try:
            with trying(self.folder, f"looking after process {(pid := self.pid)}"):
                pid_fd = os.pidfd_open(pid)
        except (HostGone, ProcessLookupError):
            return
        try:
            with suppress(HostGone):  # it is ending, or hangs: the wait tells which
                self.control.quit(limit_s=min(HELLO_LIMIT_S, self.options.stop_limit_s))
            self.control.close()
            if not _wait_for_end(pid_fd, self.options.stop_limit_s):
                signal.pidfd_send_signal(pid_fd, signal.SIGKILL)
                _wait_for_end(pid_fd, self.options.stop_limit_s)
                raise HostFailed(
                    f"domain {self.name!r}: its host component did not end within {self.options.stop_limit_s:g} s,"
                    " and was killed",
                    hint="its disks are resynced when it is started",
                )
        finally:
            os.close(pid_fd)
        if self._nbd_socket:
            clear_socket_place("the socket for guests", Path(self._nbd_socket))

    def check_guest_socket(self) -> None:
        """:class:`HostFailed` if the socket for guests has lost its name: nbdkit does not make another."""
        path = self._nbd_socket
        if path is None or os.path.lexists(path):
            return
        with suppress(HostUnreachable):
            raise HostFailed(
                f"domain {self.name!r}: {path}, the socket for guests, was removed: guests that are connected go on, "
                "but no other can connect",
                hint=f"keep cleaners away from {self.folder}; when the guests are stopped, end the host component "
                f"(kill {self.pid}), and it is started again with a new socket",
            )

    # -- the process -------------------------------------------------------------------------------------------------

    @property
    def _nbd_socket(self) -> str | None:
        return None if self.options.tcp_address else self.options.listen or str(self.folder / "nbd.sock")

    def _command_line(
        self,
        ring_path: str | os.PathLike[str] | None,
        domain_uuid: UUID | None,
        disks: Sequence[StartDisk],
        bypassed_path: str | os.PathLike[str] | None,
    ) -> list[str]:
        command = [self.options.nbdkit, "--foreground", *self._listening(), *self.options.arguments, str(PLUGIN_PATH)]
        command += [f"control={self.control.path}", f"stall-limit={self.options.stall_limit_s!r}"]
        command += [f"log-limit={LOG_BYTES_MAX}"]
        command += [f"ring={os.fspath(ring_path)}"] if ring_path is not None else []
        command += [f"domain={domain_uuid}"] if domain_uuid is not None else []
        command += [f"write-back={os.fspath(bypassed_path)}"] if bypassed_path is not None else []
        return command + [f"disk={disk.number}:{disk.name}:{disk.size_bytes}:{disk.path}" for disk in disks]

    def _listening(self) -> list[str]:
        address = self.options.tcp_address
        if address is not None:
            return ["--ipaddr", address[0], "--port", str(address[1])]
        return ["--unix", str(self._nbd_socket)]

    @contextmanager
    def _log(self) -> Iterator[int]:
        """The file that the process appends to. Guests get their disks without it, too."""
        try:
            log = self._open_log()
        except OSError as error:
            log_.warning("domain %s: its host component has no log: %s", self.name, error)
            with trying(os.devnull, "opening it"):
                log = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            yield log
        finally:
            os.close(log)

    def _open_log(self) -> int:
        """Open the log, cut if it is long. The process itself keeps it short, unless it does not get that far."""
        with trying(self.log_path, "opening it"):
            log = os.open(self.log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            with trying(self.log_path, "cutting it"):
                size, kept = os.fstat(log).st_size, LOG_BYTES_MAX // 4
                if size > LOG_BYTES_MAX:
                    tail = os.pread(log, kept, size - kept)
                    os.ftruncate(log, 0)
                    os.write(log, tail)
        except BaseException:
            os.close(log)
            raise
        return log

    def _spawn(self, command: list[str], log: int) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                command,
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                umask=0o077,
            )
        except OSError as error:
            raise HostFailed(
                f"domain {self.name!r}: {self.options.nbdkit!r} cannot be run: {error.strerror}",
                hint="install nbdkit, or name another in the option nbdkit",
            ) from error
        threading.Thread(target=process.wait, name=f"jetdr-host-{self.name}", daemon=True).start()  # leaves no zombie
        return process

    def _await_hello(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.options.start_limit_s
        while process.returncode is None:
            with suppress(HostUnreachable):
                if self.control.hello() == process.pid:
                    return
            if time.monotonic() > deadline:
                process.kill()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_KILL_LIMIT_S)
                raise HostFailed(
                    f"domain {self.name!r}: its host component did not answer within {self.options.start_limit_s:g} s",
                    hint=f"see {self.log_path}",
                )
            time.sleep(_POLL_S)
        raise HostFailed(
            f"domain {self.name!r}: its host component did not start: {self._log_tail()}", hint=f"see {self.log_path}"
        )

    def _log_tail(self) -> str:
        try:
            lines = self.log_path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").splitlines()
        except OSError as error:
            return f"its log cannot be read: {error}"
        return lines[-1] if lines else "it said nothing"


def _wait_for_end(pid_fd: int, limit_s: float) -> bool:
    poll = select.poll()
    poll.register(pid_fd, select.POLLIN)
    return bool(poll.poll(limit_s * 1000))
