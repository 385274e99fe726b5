"""What names a point is understood exactly, or refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core.catalog.at import AtLsn, AtName, AtTime, parse_at
from jetdr_core.catalog.point import iso_time
from jetdr_core.errors import InvalidRequest


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_printed_time_reads_back_to_the_nanosecond(time_ns: int) -> None:
    assert parse_at(iso_time(time_ns)) == AtTime(time_ns)


def test_datetime_is_exact_in_any_zone() -> None:
    here = datetime(2026, 1, 31, 12, 0, 0, 123456, timezone(timedelta(hours=5, minutes=30)))
    assert parse_at(here) == parse_at(here.astimezone(UTC)) == parse_at(here.isoformat())
    assert parse_at(datetime(2001, 9, 9, 1, 46, 40, 1, UTC)) == AtTime(1_000_000_000_000_001_000)


@pytest.mark.parametrize(
    "text", ["2026-01-31T12:00:00,5+01:00", "2026-01-31 11:00:00.5Z", "2026-01-31T11:00:00.500000000000Z"]
)
def test_iso_forms_mean_the_same(text: str) -> None:
    assert parse_at(text) == AtTime(1_769_857_200_500_000_000)


def test_number_is_an_lsn_and_anything_else_a_name() -> None:
    assert parse_at(42) == parse_at("42") == AtLsn(42)
    assert parse_at("before upgrade") == AtName("before upgrade")
    assert parse_at("latest") == AtName("latest")


def test_mark_that_looks_like_a_time_is_a_mark() -> None:
    assert parse_at("2026-01-31", {"2026-01-31"}) == AtName("2026-01-31")


@pytest.mark.parametrize("at", ["2026-01-31T12:00:00", "2026-01-31", "", None, 1.5, True, datetime(2026, 1, 31)])  # noqa: DTZ001
def test_what_names_nothing_is_refused_with_the_remedy(at: object) -> None:
    with pytest.raises(InvalidRequest, match=r"append 'Z'|use an LSN"):
        parse_at(at)
