"""Table: reads one table of a TOML file. An error names the table, the key, the value and the remedy.

Invariants: every key is read once. After :meth:`finish`, nothing in the table was ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from jetdr_core.errors import InvalidRequest

__all__ = ["Table"]

T = TypeVar("T")
Toml = dict[str, object]


class Table:
    """``place`` is how errors name the table: ``drva.toml: domain 'payroll': disk 'db01'``."""

    def __init__(self, place: str, values: Toml) -> None:
        self.place = place
        self._left = dict(values)
        self._known: list[str] = []

    # -- values ------------------------------------------------------------------------------------------------------

    def text(self, key: str, default: str | None = None) -> str:
        """Return printable text. It may be empty only if that is the default."""
        value = self._take(key, default)
        if not isinstance(value, str) or not value.isprintable() or (not value and default != ""):
            raise self.wrong(key, value, "write printable text in quotes")
        return value

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        value = self._take(key, default)
        if value not in choices:
            raise self.wrong(key, value, f"use {' or '.join(repr(choice) for choice in choices)}")
        return str(value)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "use true or false")
        return value

    def whole(self, key: str, default: int | None = None, *, least: int, most: int) -> int:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key, value, f"use a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float, *, least: float, most: float) -> float:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.wrong(key, value, f"use a number from {least} to {most}")
        return value

    def path(self, key: str, default: str | None = None) -> str:
        """Return an absolute path."""
        value = self.text(key, default)
        if value and not Path(value).is_absolute():
            raise self.wrong(key, value, "write an absolute path")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item.isprintable() for item in value):
            raise self.wrong(key, value, "write a list of strings")
        return tuple(value)

    # -- tables ------------------------------------------------------------------------------------------------------

    def table(self, key: str) -> Table:
        """Return the table of that name, or an empty one."""
        value = self._take(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, value, f"write it as a table, [{key}]")
        return Table(f"{self.place}: {key}", value)

    def tables(self, key: str) -> Iterator[Table]:
        """Return the tables that are written as ``[[key]]``."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(key, value, f"write each as its own table, [[{key}]]")
        for item in value:
            name = item.get("name")
            named = f" {name!r}" if isinstance(name, str) else ""
            yield Table(f"{self.place}: {key}{named}", item)

    # -- errors ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Raise :class:`InvalidRequest` if a key was not read."""
        if self._left:
            key = min(self._left)
            raise InvalidRequest(
                f"{self.place}: the key {key!r} (= {self._left[key]!r}) is unknown",
                hint=f"the keys here are: {', '.join(sorted(self._known))}",
            )

    def wrong(self, key: str, value: object, remedy: str) -> InvalidRequest:
        return InvalidRequest(f"{self.place}: {key} = {_toml(value)} is not valid", hint=remedy)

    def _take(self, key: str, default: object) -> object:
        self._known.append(key)
        if key in self._left:
            return self._left.pop(key)
        if default is None:
            raise InvalidRequest(f"{self.place}: the key {key!r} is missing", hint=f"write {key} = ...")
        return default


def _toml(value: object) -> str:
    """Return the value as TOML writes it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
