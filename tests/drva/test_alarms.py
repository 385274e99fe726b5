"""Alarms are states: each begins with its cause and ends with it."""

from __future__ import annotations

import errno
import os

import pytest

from jetdr_core._core import FilterStats
from jetdr_core.domain import DiskTrouble

SINCE_NS = 1_700_000_000_000_000_000


@pytest.mark.parametrize(("trouble", "calls"), [(1, "flushes"), (2, "writes"), (3, "reads")])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_trouble_of_a_disk_says_which_calls_fail_why_and_since_when(trouble: int, calls: str, number: int) -> None:
    stats = FilterStats(trouble=trouble, trouble_errno=number, trouble_since_ns=SINCE_NS, failed_writes=7)
    found = DiskTrouble.of(stats)
    is_full = calls == "writes" and number in {errno.ENOSPC, errno.EDQUOT}
    assert found == DiskTrouble(calls, os.strerror(number), SINCE_NS, is_full)


def test_a_disk_that_failed_once_and_answers_rightly_is_in_no_trouble() -> None:
    assert DiskTrouble.of(FilterStats(failed_writes=7)) is None
