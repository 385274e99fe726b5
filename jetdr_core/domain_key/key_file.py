"""KeyFile: keeps a domain key in a file. docs/formats/key-file.md has its format.

Whoever reads the file can forge the domain's history, and whoever changes it can lock the domain's owner out. So the
file has mode 0600, belongs to this user or to root, and lies where nobody else can put another in its place.

Invariants: a key file is never overwritten by another key. Its content is checked whole before it is used. Neither a
message nor ``repr`` shows the key.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from jetdr_core.domain_key.key import SECRET_BYTES, DomainKey, KeyMode
from jetdr_core.durable import new_file, replace_file, sync_folder
from jetdr_core.errors import InvalidRequest
from jetdr_core.file_making import making, trying
from jetdr_core.json_text import decode_json
from jetdr_core.ownership import check_guarded

__all__ = ["KeyFile"]

_FORMAT = "jetdr-domain-key"
_VERSION = 1
_BYTES_MAX = 4096
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The file at ``path``, which may not exist yet."""

    path: Path

    def make(self, *, mode: KeyMode = KeyMode.AUTHENTICATE) -> DomainKey:
        """Create the file with a new key, durably. :class:`InvalidRequest` if anything has its name."""
        check_guarded("key file", self.path)
        key = DomainKey.new(mode=mode, source=self._source)
        try:
            with making(self.path, "making a key file"), new_file(self.path) as file:
                file.write(_encode(key))
        except FileExistsError:
            raise InvalidRequest(
                f"{self.path} exists, and a key is never overwritten", hint="name another file for the new key"
            ) from None
        sync_folder(self.path.parent)
        return key

    def read(self) -> DomainKey:
        """Read and check the file. :class:`InvalidRequest` if it is no key file, or if others may read or change it."""
        check_guarded("key file", self.path)
        return replace(_decode(self._content(), self.path), source=self._source)

    def bind(self, domain_uuid: UUID) -> DomainKey:
        """Write into the file which domain the key is for, durably, unless it says so. Returns the bound key."""
        key = self.read()
        bound = key.bound_to(domain_uuid)
        if bound != key:
            with making(self.path, "binding the key to its domain"):
                replace_file(self.path, self.path.with_name(f"{self.path.name}.partial"), _encode(bound))
        return bound

    @property
    def _source(self) -> str:
        return f"key file {self.path}"

    def _content(self) -> bytes:
        try:
            with trying(self.path, "opening the key file"):
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise InvalidRequest(
                f"key file {self.path} does not exist", hint="name the file that holds the domain's key"
            ) from None
        try:
            with trying(self.path, "looking at the key file"):
                status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidRequest(f"{self.path} is no key file", hint="name the file that holds the domain's key")
            if status.st_uid not in {0, os.geteuid()} or status.st_mode & _OTHERS:
                raise InvalidRequest(
                    f"key file {self.path} belongs to user {status.st_uid} with mode "
                    f"{stat.S_IMODE(status.st_mode):04o}: others may read it",
                    hint=f"chown {os.geteuid()} and chmod 0600 it; if others may have read it, the key is no secret",
                )
            with trying(self.path, "reading the key file"):
                return os.read(fd, _BYTES_MAX + 1)
        finally:
            os.close(fd)


def _encode(key: DomainKey) -> bytes:
    fields = {
        "format": _FORMAT,
        "version": _VERSION,
        "mode": str(key.mode),
        "key": key.secret.hex(),
        "domain_uuid": None if key.domain_uuid is None else str(key.domain_uuid),
        "number_first": key.number_first,
    }
    return json.dumps(fields, indent=1).encode() + b"\n"


def _decode(data: bytes, path: Path) -> DomainKey:
    """The key, or :class:`InvalidRequest`, which does not quote the file."""
    try:
        fields = decode_json(data) if len(data) <= _BYTES_MAX else None
        if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
            raise ValueError("it is something else")
        if fields["version"] != _VERSION:
            raise ValueError(f"its version is {fields['version']!r}, and this engine reads {_VERSION}")
        secret, number_first = bytes.fromhex(fields["key"]), fields["number_first"]
        if len(secret) != SECRET_BYTES or type(number_first) is not int or number_first < 1:
            raise ValueError("a value is out of range")
        uuid = fields["domain_uuid"]
        return DomainKey(secret, None if uuid is None else UUID(uuid), number_first, KeyMode(fields["mode"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (
            str(error) if type(error) is ValueError and "fromhex" not in str(error) else "a field is missing or odd"
        )
        raise InvalidRequest(
            f"{path} is no key file of this engine: {reason}", hint="name the file that 'jetdr key new' made"
        ) from None
