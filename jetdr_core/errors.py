"""Every error that the engine raises, with its facts as attributes.

Invariants: a message names the thing, the value and the remedy. An error about bad input has changed nothing. Errors
belong to the built-in families as well: a bad argument is also a ``ValueError``, an expired wait a ``TimeoutError``,
and an existing target a ``FileExistsError``.
"""

from __future__ import annotations

from jetdr_core.remedies import NEW_LOG

__all__ = [
    "ChainBroken",
    "DamagedObject",
    "DeviceAccessDenied",
    "DeviceBusy",
    "DeviceFull",
    "DeviceGone",
    "DeviceReadOnly",
    "DeviceResized",
    "DomainMissing",
    "DuplicateMark",
    "Fenced",
    "Forged",
    "GenerationMismatch",
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
    "LogMissing",
    "LogNotALog",
    "LogTooSmall",
    "LoggingOff",
    "NoSuchPoint",
    "NotConsistent",
    "ObjectExists",
    "ObjectNotFound",
    "ObjectUnavailable",
    "PrimaryAway",
    "PrimaryFailed",
    "PrimaryMissing",
    "RingApart",
    "RingBusy",
    "RingError",
    "RingForeign",
    "StallTimeout",
    "StoreAccessDenied",
    "StoreAway",
    "StoreError",
    "StoreLost",
    "StoreMissing",
    "StoreUnmounted",
    "SystemFailure",
    "TargetExists",
    "TargetFailed",
    "TargetFull",
    "UnsupportedVersion",
    "WrongKey",
]


class JetdrError(Exception):
    """Base of all errors of the engine.

    ``str(error)`` is the message and the ``hint``, which is the remedy. ``facts`` are the named values of the message.
    """

    def __init__(self, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint
        self.facts = facts


class SystemFailure(JetdrError, OSError):
    """Base of the errors that the operating system, a device or a peer reported.

    ``errno`` is the number that was reported, or None.
    """

    def __init__(self, message: str, *, hint: str = "", errno: int | None = None, **facts: object) -> None:
        super().__init__(message, hint=hint, **facts)
        self.errno = errno


class InvalidRequest(JetdrError, ValueError):
    """An argument is outside its documented range. Nothing was changed."""


class UnsupportedVersion(JetdrError):
    """The format is newer than this engine reads."""


class DeviceBusy(SystemFailure):
    """Another process holds the file or device, or another machine has reserved the LUN."""


class DeviceFull(SystemFailure):
    """The file system has no room for a file of that size, or takes none so long. Nothing is left of the attempt."""


class DeviceGone(SystemFailure):
    """The target or LUN is not there, cannot be reached, or reports an error of its own."""


class DeviceAccessDenied(SystemFailure, PermissionError):
    """The target refuses user, password or initiator, or the file system this user."""


class DeviceReadOnly(SystemFailure):
    """The LUN is write-protected."""


class DeviceResized(SystemFailure):
    """The LUN has shrunk since it was opened, and the range lies beyond its new end."""


# -- capture and log ---------------------------------------------------------------------------------------------------


class PrimaryAway(SystemFailure):
    """The primary disk cannot be opened at present, so nothing is read from it or written to it."""


class PrimaryMissing(SystemFailure, FileNotFoundError):
    """There is no file or device at the path of a primary."""


class PrimaryFailed(SystemFailure):
    """The primary disk failed an I/O. ``errno`` is its own.

    If ``suspect``, the disk may not hold what the log says, and owes a resync. Otherwise what a failed write left was
    read back and logged.
    """

    def __init__(
        self, message: str, *, hint: str = "", errno: int | None = None, suspect: bool = False, **facts: object
    ) -> None:
        super().__init__(message, hint=hint, errno=errno, suspect=suspect, **facts)
        self.suspect = suspect


class StallTimeout(SystemFailure, TimeoutError):
    """Ring or log stayed full for the whole stall limit. The write was not begun."""


class LogError(JetdrError):
    """Base of the replication log's errors."""


class LogFailed(LogError, SystemFailure):
    """The log device failed an I/O. The writer is poisoned, and acknowledges nothing more."""


class LogMissing(LogError, SystemFailure, FileNotFoundError):
    """There is no log volume where the domain's is said to be. Its file system is not mounted, or it is lost."""


class LogDamaged(LogError):
    """A record that was acknowledged as durable cannot be read."""


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
    """The ring file belongs to another domain, or others may read or write it. It was not changed."""


class RingBusy(RingError):
    """Another process holds this side of the ring."""


class RingApart(RingError):
    """Ring and log do not meet. Records between them are lost, or the log is an older copy."""


class LoggingOff(JetdrError):
    """Logging is off. Nothing but the gap that follows can be logged."""


# -- host component ----------------------------------------------------------------------------------------------------


class HostUnreachable(SystemFailure, ConnectionError):
    """The host component cannot be asked. Guests' I/O may go on all the same."""


class HostGone(HostUnreachable):
    """No host component answers: there is none, or it went away, or it did not reply in time."""


class HostDeaf(HostUnreachable):
    """The host component's process is there, but takes no connection, or none more."""


class HostFailed(JetdrError):
    """The host component's process did not start or end as it should."""


# -- store and chain ---------------------------------------------------------------------------------------------------


class StoreError(SystemFailure):
    """An object store operation failed.

    ``transient``: the same call may succeed later. That was decided where the failure was seen.
    """

    def __init__(self, operation: str, key: str, cause: str, *, transient: bool, hint: str = "") -> None:
        super().__init__(f"{operation} {key!r}: {cause}", hint=hint)
        self.operation = operation
        self.key = key
        self.cause = cause
        self.transient = transient

    @property
    def is_refusal(self) -> bool:
        """Whether the store answers, and refuses until somebody changes something there."""
        return not self.transient


class ObjectExists(StoreError):
    """The key of a put-if-absent is taken."""

    is_refusal = False

    def __init__(self, operation: str, key: str) -> None:
        super().__init__(operation, key, "the object exists already", transient=False)


class ObjectUnavailable(StoreError):
    """One object cannot be got, and trying again does not help. Listings work, and other objects may be whole.

    Whoever reads a chain takes that as a missing object with a cause: only what needs the object fails.
    """

    is_refusal = False

    def __init__(self, operation: str, key: str, cause: str, *, hint: str = "") -> None:
        super().__init__(operation, key, cause, transient=False, hint=hint)

    @property
    def problem(self) -> str:
        """What to say of the object in a message that names it already."""
        return f"cannot be read: {self.cause}" + (f"; {self.hint}" if self.hint else "")


class ObjectNotFound(ObjectUnavailable):
    """No object has that key."""

    def __init__(self, operation: str, key: str) -> None:
        super().__init__(operation, key, "there is no such object")

    @property
    def problem(self) -> str:
        return self.cause


class StoreAccessDenied(StoreError):
    """Credentials are missing or wrong, or do not allow this for the container as a whole."""

    def __init__(self, operation: str, key: str, cause: str, *, hint: str = "check the credentials") -> None:
        super().__init__(operation, key, cause, transient=False, hint=hint)


class StoreMissing(InvalidRequest):
    """There is no container at the URL: it was not made yet, its file system is not mounted, or the URL is wrong."""


class DomainMissing(InvalidRequest):
    """The store is there, and holds no domain: the URL is wrong, or the container was lost and made again."""


class StoreAway(SystemFailure):
    """The domain needs its store, which cannot be reached."""


class StoreLost(StoreError):
    """The store no longer holds what it held, or its URL leads elsewhere. Nothing may be called stored any more."""

    is_refusal = False

    def __init__(self, operation: str, key: str, cause: str) -> None:
        hint = (
            "the log is kept from now on; bring back what the store has lost, or see with 'jetdr verify URL' what it "
            f"still holds, and {NEW_LOG}; if it holds nothing, begin anew "
            "('jetdr drva CONFIG --begin-anew DOMAIN=UUID')"
        )
        super().__init__(operation, key, cause, transient=False, hint=hint)


class StoreUnmounted(StoreError):
    """The store's path leads to another file system than the one that was opened. What that holds is not known."""

    is_refusal = False

    def __init__(self, operation: str, key: str, cause: str) -> None:
        hint = (
            "mount it again, or unmount what was mounted over it; if its objects are lost for good, bring them back "
            f"from a copy, or {NEW_LOG}"
        )
        super().__init__(operation, key, cause, transient=False, hint=hint)


class DamagedObject(JetdrError):
    """Bytes from log or store fail their checks. ``key`` names the object, and ``part`` the part of it."""

    def __init__(self, key: str, part: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{key}: {part}: {problem}", hint=hint, key=key, part=part)
        self.key = key
        self.part = part


class Forged(DamagedObject):
    """An object was not made, or not for that place, by an owner who has the domain's key. Nobody may believe it."""


class WrongKey(JetdrError):
    """The key is not that of the domain, or there is none although the domain needs one."""


class ChainBroken(JetdrError):
    """The segment chain has a break, or store and log do not meet."""


class GenerationMismatch(JetdrError):
    """Log, store, state folder and disks of a domain were not last used together. Going on might lose writes."""


class Fenced(JetdrError):
    """A newer epoch owns the domain. This writer has stopped."""

    def __init__(self, domain: str, epoch: int, epoch_newer: int) -> None:
        super().__init__(
            f"domain {domain!r}: epoch {epoch} was fenced by epoch {epoch_newer}",
            hint="another owner has taken the domain over; stop this one",
        )
        self.epoch = epoch
        self.epoch_newer = epoch_newer


# -- recovery ----------------------------------------------------------------------------------------------------------


class NoSuchPoint(JetdrError, LookupError):
    """The instant lies outside the history. ``before`` and ``after`` are the nearest points, if there are any."""


class InstantInGap(NoSuchPoint):
    """The instant lies where the domain was not consistent."""


class NotConsistent(JetdrError):
    """The domain is not consistent at present, because background data is outstanding."""


class DuplicateMark(JetdrError, ValueError):
    """A mark of that name exists already."""


class TargetExists(SystemFailure, FileExistsError):
    """The recovery target exists and is not an interrupted run of the same recovery."""


class TargetFull(SystemFailure):
    """The target has less room than the recovery needs, or takes no file of that size.

    If that was known in advance, nothing was written. Otherwise what was written stays, and the same call continues it.
    """


class TargetFailed(SystemFailure):
    """The file system of the target refused or failed a call. ``errno`` is its own."""
