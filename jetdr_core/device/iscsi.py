"""IscsiDevice: a LUN of an iSCSI target as a BlockDevice. libiscsi speaks iSCSI, in a thread that never takes the GIL.

Invariants: every range is checked before the session sees it. A lost connection is made again, and unsynced writes are
written again, within ``limit_s`` (native/iscsi/session.h says how). A device that had to give up an unsynced write
fails every later call. With ``lock``, no other process of this machine and no other machine writes to the LUN.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from typing import TYPE_CHECKING

from typing_extensions import Buffer, CapsuleType

from jetdr_core.device.bounds import byte_view, check_range, check_writable, target_view
from jetdr_core.device.iscsi_url import IscsiOptions, IscsiUrl
from jetdr_core.errors import DeviceBusy, InvalidRequest
from jetdr_core.file_making import trying
from jetdr_core.waiting import told_if_long

if TYPE_CHECKING:
    from jetdr_core._iscsi import Session, SessionInfo

__all__ = ["IscsiDevice"]


class IscsiDevice:
    """The LUN at ``url``: ``iscsi://[USER@]HOST[:PORT]/IQN/LUN``. Thread-safe.

    ``options`` are the environment's by default. ``lock`` keeps other processes of this machine out by a name in the
    kernel, which disappears with the process. It keeps other machines out by a SCSI persistent reservation, where the
    target has reservations: :meth:`info` says whether the LUN is reserved. A reservation survives a crash, and this
    machine then gets the LUN again. ``preempt`` takes the reservation from another machine.

    Raises :class:`DeviceGone`, :class:`DeviceAccessDenied`, :class:`DeviceReadOnly`, :class:`DeviceBusy` and
    :class:`InvalidRequest`. Opening a device does not wait for a target that is away.
    """

    can_grow = False

    def __init__(
        self,
        url: str,
        *,
        options: IscsiOptions | None = None,
        writable: bool = True,
        lock: bool = False,
        preempt: bool = False,
    ) -> None:
        self._url = IscsiUrl.parse(url)
        self._options = IscsiOptions.from_environment(os.environ) if options is None else options
        self._writable = writable
        self._reserve = lock
        if preempt and not lock:
            raise InvalidRequest("a reservation is taken over only with the lock", hint="ask for the lock, too")
        self._lock = _lock(self._url) if lock else None
        try:
            self._session = self._connect(first=True, preempt=preempt)
        except BaseException:
            self._unlock()
            raise
        info = self._session.info()
        self._size_bytes, self._block_bytes = info.size_bytes, info.block_bytes

    def __repr__(self) -> str:
        return f"IscsiDevice({self.path!r})"

    @property
    def path(self) -> str:
        """The URL without the user."""
        return str(self._url)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def block_bytes(self) -> int:
        return self._block_bytes

    def info(self) -> SessionInfo:
        return self._session.info()

    def identity(self) -> tuple[str, str, str, int]:
        """Equal for two devices that name the same LUN of the same portal."""
        return self._url.identity

    def native_device(self) -> CapsuleType:
        """A pointer to the session's ``struct jdr_device``. The caller keeps this device alive while it uses it."""
        return self._session.native_device()

    def reopen(self) -> IscsiDevice:
        """Open another session with the LUN, under the same reservation."""
        other = object.__new__(IscsiDevice)
        other.__dict__.update(self.__dict__, _lock=None)
        other._session = other._connect(first=False, preempt=False)
        return other

    def read_into(self, offset: int, target: Buffer) -> None:
        view = target_view(target)
        self._check(offset, len(view))
        self._session.read_into(offset, view)

    def write(self, offset: int, data: Buffer) -> None:
        view = byte_view(data)
        check_writable(self.path, writable=self._writable)
        self._check(offset, len(view))
        self._session.write(offset, view)

    def zero(self, offset: int, length: int) -> None:
        check_writable(self.path, writable=self._writable)
        self._check(offset, length)
        self._session.zero(offset, length)

    def sync(self) -> None:
        self._session.sync()

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self._session.close()
        self._unlock()

    # -- parts -----------------------------------------------------------------------------------------------------

    def _connect(self, *, first: bool, preempt: bool) -> Session:
        session_class = _session_class(self._url)
        with told_if_long(f"the target of {self._url}"):
            return self._logged_in(session_class, first=first, preempt=preempt)

    def _logged_in(self, session_class: type[Session], *, first: bool, preempt: bool) -> Session:
        url, options = self._url, self._options
        return session_class(
            str(url),
            portal=url.portal,
            target=url.target,
            lun=url.lun,
            initiator=options.initiator,
            user=url.user,
            password=options.password if url.user is not None else None,
            writable=self._writable,
            preempt=preempt,
            first=first,
            machine=options.machine if self._reserve else 0,
            limit_s=options.limit_s,
            login_limit_s=options.login_limit_s,
        )

    def _check(self, offset: int, length: int) -> None:
        check_range(self.path, offset, length, size_bytes=self._size_bytes, block_bytes=self._block_bytes)

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()


def _session_class(url: IscsiUrl) -> type[Session]:
    """Imported on use: a machine that only recovers needs no libiscsi."""
    try:
        from jetdr_core._iscsi import Session  # noqa: PLC0415
    except ImportError as error:
        if "libiscsi" in str(error):
            problem, hint = f"libiscsi is missing: {error}", "install the Debian package libiscsi7"
        else:
            problem = "this jetdr_core was built without iSCSI"
            hint = "install the Debian packages libiscsi-dev and gcc, and build jetdr_core here"
        raise InvalidRequest(f"{url}: {problem}", hint=hint) from error
    return Session


def _lock(url: IscsiUrl) -> socket.socket:
    """Bind a name in the kernel's abstract namespace. One process can have it, and it disappears with the process."""
    name = hashlib.sha256(f"{url.target}/{url.lun}".encode()).hexdigest()
    with trying(str(url), "making a socket to lock it"):
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        with trying(str(url), "locking it"):
            lock.bind(f"\0jetdr-iscsi-{name}")
        return lock
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
    raise DeviceBusy(f"{url} is in use by another process", hint="stop that process, or use another log", path=str(url))
