"""Every error the engine raises, with its facts as attributes.

Invariants: a message names the thing, the value and the remedy; an error raised for bad input has changed nothing.
Built-in families stay themselves: a bad argument is also a ``ValueError``, a wait that ran out also a ``TimeoutError``,
an existing target also a ``FileExistsError``.
"""

from __future__ import annotations

__all__ = [
    "ChainBroken",
    "DamagedObject",
    "DeviceAccessDenied",
    "DeviceBusy",
    "DeviceFull",
    "DeviceGone",
    "DeviceReadOnly",
    "DeviceResized",
    "DuplicateMark",
    "Fenced",
    "HostDeaf",
    "HostFailed",
    "HostGone",
    "HostUnreachable",
    "InstantInGap",
    "InvalidRequest",
    "JetdrError",
    "LogBusy",
    "LogDamaged",
    "LogError",
    "LogFailed",
    "LogForeign",
    "LogNotALog",
    "LogTooSmall",
    "LoggingOff",
    "NoSuchPoint",
    "NotConsistent",
    "ObjectExists",
    "ObjectNotFound",
    "PrimaryFailed",
    "RingApart",
    "RingBusy",
    "RingError",
    "RingForeign",
    "StallTimeout",
    "StoreAccessDenied",
    "StoreError",
    "SystemFailure",
    "TargetExists",
    "TargetFull",
    "UnsupportedVersion",
]


class JetdrError(Exception):
    """Base of all errors of the engine.

    ``hint`` is the remedy, already part of ``str(error)``; ``facts`` holds the named values of the message.
    """

    def __init__(self, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.hint = hint
        self.facts = facts


class SystemFailure(JetdrError, OSError):
    """Base of the errors that the operating system, a device or a peer reported.

    ``errno`` is the number that was reported; None if there was none.
    """

    def __init__(self, message: str, *, hint: str = "", errno: int | None = None, **facts: object) -> None:
        super().__init__(message, hint=hint, **facts)
        self.errno = errno


class InvalidRequest(JetdrError, ValueError):
    """An argument outside its documented range; nothing was changed."""


class UnsupportedVersion(JetdrError):
    """A format newer than this engine reads."""


class DeviceBusy(SystemFailure):
    """Another process holds the file or device, or another machine has reserved the LUN."""


class DeviceFull(SystemFailure):
    """The file system has no room for a file of that size; nothing was left behind."""


class DeviceGone(SystemFailure):
    """The target or LUN is not there, cannot be reached, or reports an error of its own."""


class DeviceAccessDenied(SystemFailure, PermissionError):
    """The target refuses user, password or initiator."""


class DeviceReadOnly(SystemFailure):
    """The LUN is write-protected."""


class DeviceResized(SystemFailure):
    """The LUN is shorter than when it was opened, and the range lies beyond its new end."""


# -- capture and log ---------------------------------------------------------------------------------------------------


class PrimaryFailed(SystemFailure):
    """The primary disk failed an I/O. ``errno`` is its own.

    ``suspect``: what the disk now holds is not known to be what the log says; it must be copied again. Otherwise a
    failed write was read back and logged.
    """

    def __init__(
        self, message: str, *, hint: str = "", errno: int | None = None, suspect: bool = False, **facts: object
    ) -> None:
        super().__init__(message, hint=hint, errno=errno, suspect=suspect, **facts)
        self.suspect = suspect


class StallTimeout(SystemFailure, TimeoutError):
    """Ring or log stayed full for the whole stall limit; the write was not started."""


class LogError(JetdrError):
    """Base of the replication log's errors."""


class LogFailed(LogError, SystemFailure):
    """The log device failed a write or flush: the writer is poisoned and acknowledges nothing more."""


class LogDamaged(LogError):
    """A record that had been acknowledged as durable is unreadable."""


class LogNotALog(LogError):
    """The file or device holds no log volume."""


class LogForeign(LogError):
    """The log volume or section belongs to another owner or domain."""


class LogTooSmall(LogError, ValueError):
    """The volume has no room for the section asked for."""


class LogBusy(LogError):
    """Another process holds the volume."""


class RingError(JetdrError):
    """Base of the errors of a ring in a file."""


class RingForeign(RingError):
    """The ring file belongs to another domain, or others may read or write it; it was not changed."""


class RingBusy(RingError):
    """Another process holds this side of the ring."""


class RingApart(RingError):
    """Ring and log do not meet: records between them are lost, or the log is an older copy."""


class LoggingOff(JetdrError):
    """Logging is switched off: nothing but the gap that follows can be logged."""


# -- host component ----------------------------------------------------------------------------------------------------


class HostUnreachable(SystemFailure, ConnectionError):
    """The host component cannot be asked. Guests' I/O may go on all the same."""


class HostGone(HostUnreachable):
    """No host component answers: there is none, or it went away, or it did not reply in time."""


class HostDeaf(HostUnreachable):
    """The host component's process is there, but takes no connection, or none more."""


class HostFailed(JetdrError):
    """The host component's process did not come up, or not end, as it should."""


# -- store and chain ---------------------------------------------------------------------------------------------------


class StoreError(SystemFailure):
    """An object store operation failed.

    ``transient`` was decided where the failure was seen: True means that the same call may succeed later.
    """

    def __init__(self, operation: str, key: str, cause: str, *, transient: bool, hint: str = "") -> None:
        super().__init__(f"{operation} {key!r}: {cause}", hint=hint)
        self.operation = operation
        self.key = key
        self.cause = cause
        self.transient = transient


class ObjectExists(StoreError):
    """put-if-absent lost: the key is taken."""

    def __init__(self, operation: str, key: str) -> None:
        super().__init__(operation, key, "the object exists already", transient=False)


class ObjectNotFound(StoreError):
    """No object has that key."""

    def __init__(self, operation: str, key: str) -> None:
        super().__init__(operation, key, "there is no such object", transient=False)


class StoreAccessDenied(StoreError):
    """Credentials are missing, wrong, or not allowed to do this."""

    def __init__(self, operation: str, key: str, cause: str, *, hint: str = "check the credentials") -> None:
        super().__init__(operation, key, cause, transient=False, hint=hint)


class DamagedObject(JetdrError):
    """Bytes read from log or store fail their checks. ``key`` names the object, ``part`` the piece of it."""

    def __init__(self, key: str, part: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{key}: {part}: {problem}", hint=hint, key=key, part=part)
        self.key = key
        self.part = part


class ChainBroken(JetdrError):
    """The segment chain has a break, or store and log do not meet."""


class Fenced(JetdrError):
    """A newer epoch owns the domain; this writer has stopped."""

    def __init__(self, domain: str, epoch: int, epoch_newer: int) -> None:
        super().__init__(
            f"domain {domain!r}: epoch {epoch} was fenced by epoch {epoch_newer}",
            hint="another owner has taken the domain over; stop this one",
        )
        self.epoch = epoch
        self.epoch_newer = epoch_newer


# -- recovery ----------------------------------------------------------------------------------------------------------


class NoSuchPoint(JetdrError, LookupError):
    """The instant asked for lies outside the history.

    ``before`` / ``after`` are the nearest points, where there are any.
    """


class InstantInGap(NoSuchPoint):
    """The instant lies where the domain was not consistent."""


class NotConsistent(JetdrError):
    """The domain is not consistent at present (background data is outstanding)."""


class DuplicateMark(JetdrError, ValueError):
    """A mark of that name exists already."""


class TargetExists(SystemFailure, FileExistsError):
    """The recovery target exists and is not an interrupted run of the same recovery."""


class TargetFull(SystemFailure):
    """The target has less free space than the recovery needs; nothing was written."""
