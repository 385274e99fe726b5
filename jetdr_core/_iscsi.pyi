"""A session with a LUN (native/python/iscsi.pyx over native/iscsi/session.h). No call holds the GIL while it waits."""

from typing import NamedTuple, final

from typing_extensions import Buffer, CapsuleType

class SessionInfo(NamedTuple):
    size_bytes: int
    """The LUN's size when it was opened."""
    block_bytes: int
    size_bytes_now: int
    """Its size at the last login."""
    max_transfer_bytes: int
    """Of one command."""
    retained_bytes: int
    """Copies of acknowledged writes, kept until a sync covers them."""
    reconnects: int
    replayed_bytes: int
    """Bytes of such writes that were written again."""
    syncs: int
    reserved: bool
    thin: bool
    """Zeroing gives space back."""
    failure: str
    """What went wrong last, or ''."""

@final
class Session:
    """Connects, logs in and reserves the LUN when it is made. Thread-safe.

    Offsets and lengths are multiples of the block. ``where`` names the LUN in messages. Raises DeviceGone,
    DeviceAccessDenied, DeviceReadOnly, DeviceResized and DeviceBusy, each with its ``errno``, InvalidRequest, and
    ``ValueError`` once the session is closed.
    """

    def __new__(
        cls,
        where: str,
        *,
        portal: str,
        target: str,
        lun: int,
        initiator: str,
        user: str | None,
        password: str | None,
        writable: bool,
        preempt: bool,
        first: bool,
        machine: int,
        limit_s: float,
        login_limit_s: float,
    ) -> Session: ...
    def read_into(self, offset: int, target: Buffer) -> None: ...
    def write(self, offset: int, data: Buffer) -> None: ...
    def zero(self, offset: int, length: int) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None:
        """Wait for the calls inside, unless the connection is lost, and log out. Idempotent."""

    def info(self) -> SessionInfo: ...
    def native_device(self) -> CapsuleType:
        """A capsule ``jdr_device``: a pointer to this session's ``struct jdr_device``, valid as long as the session."""
