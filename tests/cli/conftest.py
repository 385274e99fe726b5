"""The domain under test, and a cache directory for every test."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cli.domains import Payroll, build_payroll


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("JETDR_DEBUG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def payroll(tmp_path: Path) -> Payroll:
    return asyncio.run(build_payroll(tmp_path / "store"))
