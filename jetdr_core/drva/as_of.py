"""AsOf: a value with the moment at which it was true.

A value that was read once goes on looking like the present, however old it is. So whatever is kept to be shown later is
an :class:`AsOf`. Who shows it has to choose between a value that is present and one that was true some time ago.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["AsOf"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AsOf(Generic[T]):
    """``value`` as it was at ``at_ns`` (UTC), ``age_s`` ago by the monotonic clock.

    ``is_present``: whoever said it is still asked, and has answered lately.
    """

    value: T
    at_ns: int
    age_s: float
    is_present: bool

    def seconds_since(self, then_s: float) -> float:
        """Return an age that was ``then_s`` when the value was taken, as it is now."""
        return then_s if self.is_present else then_s + self.age_s
