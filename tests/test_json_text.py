"""JSON from outside: a value or ValueError, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jetdr_core
from jetdr_core.json_text import DEPTH_MAX, decode_json

DEEP = 100_000


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"NaN",
        b'{"a": Infinity}',
        b"[-Infinity]",
        b"\xff\xfe{\0}\0",  # UTF-16
        b'"\xff"',
        b"1" * 5000,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b"[" * DEEP,
        b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        decode_json(text)


def test_what_nests_as_deep_as_it_may_is_decoded() -> None:
    assert str(decode_json(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX)) == "[" * DEPTH_MAX + "]" * DEPTH_MAX


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_what_is_json_is_decoded(value: object) -> None:
    assert decode_json(json.dumps(value).encode()) == value
    assert decode_json(json.dumps(value, ensure_ascii=False).encode()) == value


def test_no_module_decodes_json_by_itself() -> None:
    package = Path(jetdr_core.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"\bjson\.loads?\(|JSONDecoder|import loads?\b", path.read_text(encoding="utf-8"))
    }
    assert found == {"json_text.py", "demo/checks.py"}  # the demonstration reads what a program that it runs prints
