"""Exit codes: what each means, and which error ends with which. docs/operations.md lists them too.

Invariant: a code never changes its meaning, because scripts depend on it.
"""

from __future__ import annotations

import enum
import errno

from jetdr_core.demo import ProgramMissing
from jetdr_core.drva.errors import ControlError, DomainClosed, DrvaBusy, DrvaUnreachable
from jetdr_core.errors import (
    ChainBroken,
    DamagedObject,
    DeviceBusy,
    DeviceFull,
    DuplicateMark,
    Fenced,
    InvalidRequest,
    LogDamaged,
    LogError,
    LogForeign,
    LogNotALog,
    LogTooSmall,
    NoSuchPoint,
    NotConsistent,
    StallTimeout,
    StoreError,
    TargetExists,
    TargetFull,
    UnsupportedVersion,
    WrongKey,
)

__all__ = ["MEANINGS", "ExitCode", "exit_code_of"]


class ExitCode(enum.IntEnum):
    """The exit status of ``jetdr``."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    UNREACHABLE = 3
    DAMAGED = 4
    NO_POINT = 5
    TARGET = 6
    NEWER = 7
    NOT_AUTHENTICATED = 8
    UNSOUND = 9
    INTERRUPTED = 130
    PIPE_CLOSED = 141


MEANINGS = {
    ExitCode.OK: "done, and nothing is wrong",
    ExitCode.INTERNAL: "an error inside jetdr, or a check of the demo failed",
    ExitCode.USAGE: "wrong option, URL, name or file; or a program is missing",
    ExitCode.UNREACHABLE: "store, log, target or DRVA not reachable, busy, or access denied",
    ExitCode.DAMAGED: "damage found; what is printed could still be read",
    ExitCode.NO_POINT: "no recovery point there, or it lies in a gap",
    ExitCode.TARGET: "the target exists or holds something else, or has no room",
    ExitCode.NEWER: "written by a newer engine, in a format unknown here",
    ExitCode.NOT_AUTHENTICATED: "nothing is damaged, but nothing was authenticated: the domain's key was not given",
    ExitCode.UNSOUND: "jetdr doctor found something wrong",
    ExitCode.INTERRUPTED: "interrupted with Ctrl-C",
}

_CODES: tuple[tuple[tuple[type[BaseException], ...], ExitCode], ...] = (
    ((TargetExists, TargetFull, DeviceFull), ExitCode.TARGET),
    ((NoSuchPoint, NotConsistent), ExitCode.NO_POINT),
    ((UnsupportedVersion,), ExitCode.NEWER),
    ((DamagedObject, ChainBroken, LogDamaged), ExitCode.DAMAGED),
    ((InvalidRequest, DuplicateMark, LogNotALog, LogTooSmall, LogForeign, ProgramMissing, WrongKey), ExitCode.USAGE),
    ((DomainClosed, DrvaBusy, DrvaUnreachable, Fenced, StallTimeout), ExitCode.UNREACHABLE),
    ((StoreError, DeviceBusy, LogError), ExitCode.UNREACHABLE),
)
"""The first row that fits decides."""


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the code for an error that ends a command. The error may have occurred here or in a DRVA."""
    kind = error.error_type if isinstance(error, ControlError) else type(error)
    for types, code in _CODES:
        if issubclass(kind, types):
            return code
    if isinstance(error, ControlError):
        return ExitCode.UNREACHABLE if issubclass(kind, OSError) else ExitCode.INTERNAL
    if isinstance(error, OSError):
        return ExitCode.TARGET if error.errno in (errno.ENOSPC, errno.EDQUOT) else ExitCode.UNREACHABLE
    return ExitCode.INTERNAL
