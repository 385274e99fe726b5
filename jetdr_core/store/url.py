"""StoreUrl: the URL of a store, taken apart. Pure.

Invariant: ``str`` and ``repr`` of a StoreUrl leave out user, query and fragment, because secrets stand there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from jetdr_core.errors import InvalidRequest

__all__ = ["StoreUrl"]


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """``host`` is what stands between ``//`` and the path, without a user. ``path`` is still percent-encoded."""

    text: str = field(repr=False)
    scheme: str
    host: str
    path: str
    query: str = field(repr=False)
    fragment: str = field(repr=False)
    has_user: bool

    @classmethod
    def of(cls, text: str) -> StoreUrl:
        """Take ``text`` apart. Raises ``ValueError`` if it is no URL at all."""
        parts = urlsplit(text)
        _, user, host = parts.netloc.rpartition("@")
        return cls(text, parts.scheme, host, parts.path, parts.query, parts.fragment, bool(user))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}"

    def refuse_extras(self) -> None:
        """Raise :class:`InvalidRequest` if there is a query, a fragment or a user."""
        if self.query or self.fragment or self.has_user:
            raise InvalidRequest(
                f"store URL {str(self)!r} has a query, a fragment or a user",
                hint="leave it out; if the path has a '?' or '#', write %3F or %23",
            )
