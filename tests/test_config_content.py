"""A configuration file's content survives its way through a control record."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jetdr_core.config_content import config_bytes, config_text


@given(st.binary() | st.text().map(str.encode))
def test_every_content_reads_back(content: bytes) -> None:
    assert config_bytes(config_text(content)) == content


@given(st.text())
def test_text_is_kept_as_it_is(text: str) -> None:
    assert config_text(text.encode()) == text or "\0" in text


@given(st.text(alphabet=st.characters(codec=None)))
def test_planted_text_has_some_content(text: str) -> None:
    config_bytes(text)
    config_bytes("\0base64:" + text)
