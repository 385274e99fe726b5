"""AsOf: a value with the moment at which it was true.

A value that was read once goes on looking like the present, however old it is. So whatever is kept to be shown later is
an :class:`AsOf`. Who shows it has to choose between a value that is present and one that was true some time ago.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["PRESENT_S", "AsOf", "is_present"]

PRESENT_S = 5.0
"""An older value is not the present one. What answers gives a new one every second."""

T = TypeVar("T")


def is_present(age_s: float | None) -> bool:
    """Return whether a value of that age may be told as the present one. None: there is no value."""
    return age_s is not None and age_s <= PRESENT_S


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
