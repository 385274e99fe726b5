"""verify_payloads and zero_runs against one-line models."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core._kernels import verify_payloads, zero_runs
from jetdr_core.record import RECORD

pytestmark = pytest.mark.native


def headers_of(payloads: list[bytes]) -> npt.NDArray[np.void]:
    headers = np.zeros(len(payloads), RECORD)
    for row, payload in zip(headers, payloads, strict=True):
        row["payload_bytes"] = len(payload)
        row["payload_checksum"] = xxhash.xxh3_64_intdigest(payload) if payload else 0
    return headers


@given(st.lists(st.binary(max_size=600), max_size=20))
def test_intact_payloads_all_pass(payloads: list[bytes]) -> None:
    assert verify_payloads(headers_of(payloads), b"".join(payloads)) == -1


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=12), st.data())
def test_first_damaged_record_is_named(payloads: list[bytes], data: st.DataObject) -> None:
    headers = headers_of(payloads)
    victim = data.draw(st.integers(0, len(payloads) - 1))
    at = sum(map(len, payloads[:victim])) + data.draw(st.integers(0, len(payloads[victim]) - 1))
    damaged = bytearray(b"".join(payloads))
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    assert verify_payloads(headers, damaged) == victim


def test_payload_that_leaves_the_buffer_is_named() -> None:
    headers = headers_of([b"a" * 512, b"b" * 512])
    assert verify_payloads(headers, b"a" * 512 + b"b" * 511) == 1


def test_record_without_payload_must_carry_checksum_zero() -> None:
    headers = headers_of([b""])
    headers["payload_checksum"] = 7
    assert verify_payloads(headers, b"") == 0


def test_headers_of_another_row_size_are_refused() -> None:
    with pytest.raises(ValueError, match="64 expected"):
        verify_payloads(np.zeros(4, np.uint64), b"")


@given(
    st.lists(st.sampled_from([b"\0" * 512, b"\0" * 511 + b"x", b"x" + b"\0" * 511, b"y" * 512]), max_size=40),
    st.integers(1, 5000),
)
def test_zero_flags_match_the_bytes(parts: list[bytes], block_bytes: int) -> None:
    payload = b"".join(parts)
    expected = [not any(payload[at : at + block_bytes]) for at in range(0, len(payload), block_bytes)]
    assert zero_runs(payload, block_bytes).tolist() == expected


def test_block_size_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        zero_runs(b"abc", 0)
