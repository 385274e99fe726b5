"""A credential that a file holds, so that it can be renewed while its store is open.

The file has lines ``NAME=value`` with the variables that the environment would have, as a systemd EnvironmentFile has
them. Its store reads the file at each opening, and again when the service refuses the credential.

Invariants: the file is private. No message quotes a value of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jetdr_core.errors import InvalidRequest
from jetdr_core.file_making import read_regular_file
from jetdr_core.ownership import check_guarded

__all__ = ["UrlWithCredential", "check_credential_file", "credential_secrets", "credential_variables"]

_SECRET_CHARS_MIN = 40
_BYTES_MAX = 64 << 10


class UrlWithCredential(str):
    """The URL of a store whose credential is in ``credential_file``. Otherwise a text like any other."""

    __slots__ = ("credential_file",)
    credential_file: Path

    def __new__(cls, url: str, credential_file: Path) -> UrlWithCredential:
        place = super().__new__(cls, url)
        place.credential_file = credential_file
        return place


def credential_variables(
    place: str, known: frozenset[str], secret: frozenset[str], environment: Mapping[str, str]
) -> Mapping[str, str]:
    """The variables with which to open ``place``: those of its credential file, and the environment's others.

    ``known`` are the names that a file may have. None of the environment's ``secret`` ones counts beside a file, since
    it would belong to another store.
    """
    if not isinstance(place, UrlWithCredential):
        return environment
    given = _read(place.credential_file, known)
    return {name: value for name, value in environment.items() if name not in secret} | given


def check_credential_file(path: Path, known: frozenset[str]) -> None:
    """Raise what the opening of a store with this credential file, of ``known`` variables, would raise."""
    _read(path, known)


def credential_secrets(path: Path) -> list[str]:
    """The values in the file that look like secrets, for a log that hides them. Nothing if it cannot be read."""
    try:
        lines = read_regular_file(path, _BYTES_MAX).decode("utf-8-sig", "replace").splitlines()
    except (InvalidRequest, OSError):
        return []
    values = [line.partition("=")[2].strip().strip("\"'") for line in lines]
    return [value for value in values if len(value) >= _SECRET_CHARS_MIN]


def _read(path: Path, known: frozenset[str]) -> dict[str, str]:
    """The file's variables. Raises :class:`InvalidRequest` if others may read it, or it has other lines."""
    check_guarded("credential_file", path)
    text = read_regular_file(path, _BYTES_MAX, private=True).decode("utf-8-sig", "replace")
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or name.strip() not in known:
            raise InvalidRequest(
                f"credential_file {path}: line {number} is not understood",
                hint=f"write NAME=value; the names are {', '.join(sorted(known))}",
            )
        found[name.strip()] = value.strip().strip("\"'")
    if not found:
        raise InvalidRequest(f"credential_file {path} is empty", hint=f"write {min(known)}=...")
    return found
