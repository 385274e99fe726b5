"""The lines of the control protocol: packs and unpacks requests and replies. docs/formats/control.md. Pure.

Invariant: whatever bytes arrive, the result is a request whose fields have the right types, or an error that says what
is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from jetdr_core.errors import InvalidRequest, JetdrError, UnsupportedVersion
from jetdr_core.file_making import told
from jetdr_core.json_text import decode_json
from jetdr_core.store.redaction import redacted

__all__ = ["LINE_BYTES_MAX", "VERSION", "ControlRequest", "Json", "decode_reply", "decode_request", "encode"]
__all__ += ["error_reply", "request_line", "result_reply"]

VERSION = 1
LINE_BYTES_MAX = 64 << 10
"""The longest request, newline included."""

REPLY_BYTES_MAX = 16 << 20

Json = dict[str, object]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """One request. The reply repeats ``id``. ``arguments`` are those of the command, not yet checked."""

    id: int | str | None
    command: str
    arguments: Mapping[str, object]

    def text(self, name: str) -> str | None:
        value = self.arguments.get(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value

    def whole(self, name: str) -> int | None:
        value = self.arguments.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63):
            raise self._wrong(name, value, "a whole number")
        return value

    def number(self, name: str, default: float, most: float) -> float:
        value = self.arguments.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise self._wrong(name, value, f"a number from 0 to {most:g}")
        return value

    def extents(self, name: str) -> list[tuple[int, int]]:
        """A list of [offset, length]. What these are is not checked."""
        found: list[tuple[int, int]] = []
        value = self.arguments.get(name)
        for row in value if isinstance(value, list) else [value]:
            match row:
                case [int(offset), int(length)]:
                    found.append((offset, length))
                case _:
                    raise self._wrong(name, value, "a list of [offset, length]")
        return found

    def needed_text(self, name: str) -> str:
        return self._needed(name, self.text(name))

    def needed_whole(self, name: str) -> int:
        return self._needed(name, self.whole(name))

    def _needed(self, name: str, value: T | None) -> T:
        if value is None:
            raise InvalidRequest(f"command {self.command!r} needs {name!r}", hint="see docs/formats/control.md")
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> InvalidRequest:
        return InvalidRequest(f"command {self.command!r}: {name} = {value!r} is not valid", hint=f"give {wanted}")


def decode_request(line: bytes) -> ControlRequest:
    """Return the request on a line. Raises :class:`InvalidRequest` and :class:`UnsupportedVersion`."""
    content = _content(line)
    version, identity, command = content.pop("v", None), content.pop("id", None), content.pop("do", None)
    if not isinstance(version, int) or version < 1:
        raise InvalidRequest(f"the request's version v = {version!r} is not valid", hint=f"write v = {VERSION}")
    if version > VERSION:
        raise UnsupportedVersion(f"the request is of version {version}", hint=f"this DRVA speaks {VERSION}")
    if not isinstance(command, str):
        raise InvalidRequest(f"the request's do = {command!r} is not valid", hint="see docs/formats/control.md")
    if identity is not None and not isinstance(identity, int | str):
        raise InvalidRequest(f"the request's id = {identity!r} is not valid", hint="use a number or a string")
    return ControlRequest(identity, command, content)


def decode_reply(line: bytes) -> Json:
    return _content(line)


def request_line(command: str, arguments: Mapping[str, object], identity: int) -> bytes:
    return encode({"v": VERSION, "id": identity, "do": command, **arguments})


def result_reply(request: ControlRequest, result: Json) -> Json:
    return {"v": VERSION, "id": request.id, "ok": True, "result": result}


def error_reply(request: ControlRequest | None, error: BaseException) -> Json:
    """Return the reply for an error. ``kind`` is the class of a JetdrError, ``OSError``, or ``internal`` for a bug."""
    kind = type(error).__name__ if isinstance(error, JetdrError) else "OSError"
    if not isinstance(error, JetdrError | OSError):
        kind = "internal"
    said = {"kind": kind, "message": redacted(told(error) or type(error).__name__)}
    return {"v": VERSION, "id": request.id if request else None, "ok": False, "error": said}


def encode(content: Json) -> bytes:
    """Return ``content`` as one line."""
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _content(line: bytes) -> Json:
    try:
        content = decode_json(line)
        json.dumps(content, ensure_ascii=False).encode()  # fails for half a surrogate pair, which is not text
    except ValueError:
        raise InvalidRequest(f"not a line of JSON: {line[:40]!r}", hint="see docs/formats/control.md") from None
    if not isinstance(content, dict):
        raise InvalidRequest(f"not a JSON object: {line[:40]!r}", hint="see docs/formats/control.md")
    return content
