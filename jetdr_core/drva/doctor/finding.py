"""Check and Finding: one thing that the doctor looks at, and what came of it.

Invariants: a check changes nothing. A finding that is not good names its remedy. What could not be looked at is said to
be unchecked, and never to be good. What only follows from another finding names that one, and keeps its own verdict.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jetdr_core.errors import JetdrError
from jetdr_core.file_making import remedy_of

__all__ = ["Check", "Finding", "NotKnown", "Verdict", "doubtful", "finding_of", "good", "several", "unchecked", "wrong"]


class Verdict(enum.Enum):
    """``DOUBTFUL`` works now, and may fail later. ``UNCHECKED`` is not known."""

    GOOD = "good"
    UNCHECKED = "unchecked"
    DOUBTFUL = "doubtful"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """``check`` names what was looked at. ``remedy`` says what to do, unless all is good.

    ``after`` are the checks that explain this finding if they are wrong, and ``cause`` is the one that does. ``more``
    is what the same check has found besides.
    """

    verdict: Verdict
    text: str
    remedy: str = ""
    check: str = ""
    after: tuple[str, ...] = ()
    cause: str = ""
    more: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """``look`` returns what it found, or raises the error with which the DRVA would fail. It blocks, and may hang.

    Without what ``is_needed``, a DRVA does not start. If this check hangs or learns nothing, one of those that it
    ``needs`` says why.
    """

    name: str
    look: Callable[[], Finding]
    is_needed: bool = False
    needs: tuple[str, ...] = ()


class NotKnown(Exception):
    """A check needs what another check could not find out, and that other check says why.

    ``needs`` names that other check, unless it is one of those that the check always needs.
    """

    def __init__(self, text: str, *needs: str) -> None:
        super().__init__(text)
        self.needs = needs


def several(findings: Sequence[Finding]) -> Finding:
    """Return the findings of one check as the first of them."""
    return replace(findings[0], more=tuple(findings[1:]))


def good(text: str) -> Finding:
    return Finding(Verdict.GOOD, text)


def unchecked(text: str, remedy: str) -> Finding:
    return Finding(Verdict.UNCHECKED, text, remedy)


def doubtful(text: str, remedy: str) -> Finding:
    return Finding(Verdict.DOUBTFUL, text, remedy)


def wrong(text: str, remedy: str) -> Finding:
    return Finding(Verdict.WRONG, text, remedy)


def finding_of(error: BaseException) -> Finding:
    """Return the finding that an error of a check stands for. What this user may not look at is unchecked."""
    if isinstance(error, PermissionError) and not isinstance(error, JetdrError):
        return unchecked(_told(error), "run this as the DRVA's user, or as root")
    if isinstance(error, NotKnown):
        return unchecked(str(error), "mend that first")
    if isinstance(error, JetdrError):
        return wrong(error.message, error.hint or remedy_of(getattr(error, "errno", None)))
    if isinstance(error, OSError):
        return wrong(_told(error), remedy_of(error.errno))
    return unchecked(f"{type(error).__name__}: {error}", "this is a bug of the doctor: report it")


def _told(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
