"""What tests of the ways out of a state share: a domain of a DRVA in this process, and what there is of it."""

from __future__ import annotations

import asyncio
import shutil
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID, uuid4

import jetdr_core as jetdr
from jetdr_core.domain_key import DomainKey, KeyFile
from jetdr_core.replication_log import describe_volume
from tests.drva.running_drva import Place, running


def own_key(here: Place) -> Path:
    return here.path / "state" / "payroll" / "domain.key"


def domain_key(here: Place) -> DomainKey | None:
    return KeyFile(own_key(here)).read() if own_key(here).exists() else None


def store_folder(here: Place) -> Path:
    return Path(urllib.parse.urlparse(here.store("payroll")).path)


def chain_files(here: Place) -> list[Path]:
    return sorted(file for file in (store_folder(here) / "chain").rglob("*") if file.is_file())


def empty_store(here: Place) -> None:
    for thing in store_folder(here).iterdir():
        shutil.rmtree(thing)


def section_uuid(here: Place) -> UUID:
    (section,) = [one for one in describe_volume(here.path / "log").sections if one.name == "payroll"]
    return section.domain_uuid


def is_whole(status: Mapping[str, object]) -> bool:
    """Whether the domain is open and consistent, and the store has everything."""
    whole = status["state"] == "open" and status["consistent"] and status["lsn_uploaded"] == status["lsn_reserved"]
    return bool(whole)


def assert_recovered(here: Place) -> None:
    target = here.path / f"recovered-{uuid4()}"
    report = asyncio.run(
        jetdr.rehydrate(here.store("payroll"), at="latest", target=target, format="raw", domain_key=domain_key(here))
    )
    assert Path(report.disks[0].path).read_bytes() == here.disk("payroll").read_bytes()


def assert_lasts(here: Place) -> None:
    """Two restarts without any option: protected and consistent, and what is recovered is what the disk holds."""
    for n in range(2):
        with running(here) as drva:
            here.until(is_whole)
            drva.disk().write(0, bytes([n]) * 512)
            here.until(is_whole)
    assert_recovered(here)
