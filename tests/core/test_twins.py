"""What stands in native code and in Python is the same in both. Limits: replication_log/log.py."""

from __future__ import annotations

import re
from pathlib import Path

from jetdr_core import limits
from jetdr_core._core import NATIVE_FLAGS, NATIVE_KINDS, OffReason
from jetdr_core.domain.hosting.bypass import REASONS
from jetdr_core.record import Kind, RecordFlag

HOST_H = Path(__file__).resolve().parents[2] / "native/host/host.h"


def test_the_host_component_takes_the_disks_that_a_domain_may_have() -> None:
    defined = dict(re.findall(r"#define HOST_(\w+) (.*)", HOST_H.read_text(encoding="utf-8")))
    assert int(defined["DISKS_MAX"]) == limits.DISKS_MAX
    assert int(defined["NAME_MAX"]) == limits.NAME_CHARS_MAX
    assert defined["DISK_BYTES_MAX"] == "(1ull << 50)"
    assert limits.DISK_BYTES_MAX == 1 << 50


def test_kinds_and_flags_of_records_are_those_of_the_native_core() -> None:
    assert {name: Kind[name] for name in NATIVE_KINDS} == NATIVE_KINDS
    assert {name: RecordFlag[name] for name in NATIVE_FLAGS} == NATIVE_FLAGS


def test_every_reason_why_logging_is_off_has_its_words() -> None:
    assert REASONS.keys() == set(OffReason)
