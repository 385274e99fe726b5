"""Errors of the appliance process and of its control socket."""

from __future__ import annotations

from jetdr_core import errors
from jetdr_core.errors import JetdrError, SystemFailure

__all__ = ["ControlError", "DomainClosed", "DrvaBusy", "DrvaUnreachable"]


class DomainClosed(JetdrError):
    """The domain is not open now: it is opening, has failed, or was fenced."""


class DrvaBusy(JetdrError):
    """Another DRVA runs with the same runtime directory."""


class DrvaUnreachable(SystemFailure):
    """No DRVA answers at the control socket, or not in time."""


class ControlError(JetdrError):
    """The error that the DRVA returned. ``kind`` is the name of its class."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message, kind=kind)
        self.kind = kind

    @property
    def error_type(self) -> type[BaseException]:
        """The class that ``kind`` names. ``Exception`` stands for a class unknown here."""
        if self.kind == "OSError":
            return OSError
        found = globals().get(self.kind) or getattr(errors, self.kind, None)
        return found if isinstance(found, type) and issubclass(found, JetdrError) else Exception
