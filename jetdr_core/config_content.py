"""The content of a configuration file as the text of a control record, and back. Pure.

Control records hold text, and some configuration files do not: a .nvram for example. Such content is encoded, after a
NUL that no file kept as text begins with.

Invariant: every content becomes one text, and that text becomes the same content again.
"""

from __future__ import annotations

import base64
import binascii

__all__ = ["config_bytes", "config_text"]

_ENCODED = "\0base64:"


def config_text(content: bytes) -> str:
    """The text that stands for ``content``: its UTF-8, or an encoding if it is none or has a NUL."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    return _ENCODED + base64.b64encode(content).decode() if "\0" in text else text


def config_bytes(text: str) -> bytes:
    """The content that ``text`` stands for. Text that nothing here made stands for itself."""
    if text.startswith(_ENCODED):
        try:
            return base64.b64decode(text.removeprefix(_ENCODED), validate=True)
        except (ValueError, binascii.Error):
            pass
    return text.encode(errors="replace")
