"""SIGHUP reloads: what may change is taken over and named, and what may not is refused, with an alarm."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.drva.config import DrvaConfig, load_config
from jetdr_core.drva.reload import reload_of
from tests.drva.running_drva import LIMIT_S, InProcess, end, place, process, running
from tests.peers.azurite import Azurite
from tests.store.azure_stores import signature
from tests.store.test_azure_credentials import write_credential


def reload(drva: InProcess) -> None:
    asyncio.run_coroutine_threadsafe(drva.drva.reload(), drva._loop).result(LIMIT_S)


def changed(config: DrvaConfig, of_drva: dict[str, Any], of_domain: dict[str, Any]) -> DrvaConfig:
    first, *rest = config.domains
    domains = (dataclasses.replace(first, **of_domain), *rest)
    return dataclasses.replace(config, domains=domains, **of_drva)


def test_every_difference_is_taken_over_or_refused() -> None:
    """Whatever field is added to a configuration is one or the other."""
    with place() as here:
        config = load_config(here.file)
    for field in dataclasses.fields(config):
        if field.name not in {"domains", "file"}:
            found = reload_of(config, changed(config, {field.name: "another"}, {}))
            assert len(found.changed + found.refused) == 1
            assert (found.config == config) == bool(found.refused)
    of_commands = {"take_over", "give_up_from", "discard_log", "on_mismatch", "begin_anew", "given_up_disks"}
    for field in dataclasses.fields(config.domains[0]):
        if field.name not in {"name", *of_commands}:
            found = reload_of(config, changed(config, {}, {field.name: "another"}))
            assert len(found.changed + found.refused) == 1
            assert (found.config == config) == bool(found.refused)
    assert reload_of(config, config) == reload_of(config, dataclasses.replace(config, file="moved"))


def test_nothing_is_created_in_the_old_store_because_of_what_was_written_for_another() -> None:
    with place() as here:
        config = changed(load_config(here.file), {}, {"create": False})
    new = {"store": "file:///srv/right", "create": True, "credential_file": "/etc/jetdr/right"}
    found = reload_of(config, changed(config, {}, new))
    assert (found.config, found.changed, len(found.refused)) == (config, (), 3)


def test_domains_that_come_and_go_are_refused_by_name() -> None:
    with place("payroll", "web") as here:
        config = load_config(here.file)
        here.domains = ("web", "mail")
        here.write()
        found = reload_of(config, load_config(here.file))
    assert found.refused == ("domain 'mail' is new", "domain 'payroll' is no longer named")
    assert found.config == config


def test_reload_takes_over_what_may_change_and_tells_the_rest() -> None:
    with place("payroll") as here, running(here) as drva:
        here.until(lambda found: found.get("consistent"))
        more = here.path / "more.img"
        here.write(drva='nbdkit = "another"', domain="rpo_alarm_s = 0.1")
        disk = f'[[domain.disk]]\nname = "more"\npath = "{more}"\nsize_bytes = 1048576\n'
        here.file.write_text(here.file.read_text() + disk)
        reload(drva)
        here.until(lambda found: len(found["disks"]) == 2)
        assert drva.drva.sessions["payroll"].config.rpo_alarm_s == 0.1
        alarm, of_domain = here.ask("status")["drva"]["alarms"]
        assert alarm["name"] == of_domain["name"] == "config_not_applied"
        assert of_domain["text"] == "domain 'payroll': host: restart the DRVA for it"
        assert "nbdkit 'nbdkit' -> 'another': restart the DRVA for it" in alarm["text"]
        here.file.write_text("[drva\n")
        reload(drva)
        (alarm,) = here.ask("status")["drva"]["alarms"]
        assert "is not TOML" in alarm["text"]
        assert here.status()["state"] == "open"
        here.write()
        reload(drva)
        assert here.ask("status")["drva"]["alarms"] == []


def test_disk_that_waits_to_be_protected_waits_after_a_reload_too() -> None:
    with place("payroll") as here, running(here) as drva:
        text = here.file.read_text()
        for name in ("absent", "other"):
            text += f'[[domain.disk]]\nname = "{name}"\npath = "{here.path}/{name}.img"\n'
            here.file.write_text(text)
            reload(drva)
        here.until(lambda found: any("'other'" in alarm["text"] for alarm in found["alarms"]))
        assert any("'absent'" in alarm["text"] for alarm in here.status()["alarms"])
        here.write()
        reload(drva)
        here.until(lambda found: not found["alarms"])


def test_sighup_reloads_and_does_not_stop(peer: Callable[[str], str]) -> None:
    peer("nbdkit")
    with place("payroll") as here, process(here) as daemon:
        here.until(lambda found: found.get("consistent"))
        here.write(domain="rpo_alarm_s = 7.5")
        daemon.send_signal(signal.SIGHUP)
        here.write(domain='rpo_alarm_s = "soon"')
        daemon.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + LIMIT_S
        while not here.ask("status")["drva"]["alarms"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert here.status()["state"] == "open"
        logged = end(daemon)
        assert "rpo_alarm_s = 'soon' is not valid" in logged
        assert daemon.returncode == 0


def test_credential_that_expires_is_renewed_without_a_gap(
    azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container, file = f"c{uuid.uuid4().hex}", tmp_path / "credential"
    for name, value in azurite.environment().items():
        if name != "AZURE_STORAGE_KEY":
            monkeypatch.setenv(name, value)
    write_credential(file, AZURE_STORAGE_KEY=azurite.key)
    with place("payroll") as here:
        text = here.file.read_text().replace(here.store("payroll"), f"az://{container}")
        here.file.write_text(text.replace("create = true", f'create = true\ncredential_file = "{file}"'))
        with running(here) as drva:
            here.until(lambda found: found.get("consistent"))
            marked = here.ask("mark", domain="payroll", name="before")["point"]["lsn"]
            here.until(lambda found: (found.get("lsn_uploaded") or 0) >= marked)
        write_credential(file, AZURE_STORAGE_SAS_TOKEN=signature(azurite, container, "rwl", timedelta(seconds=3)))
        with running(here) as drva:
            here.until(lambda found: found.get("consistent"))
            number = 0
            while not any(alarm["name"] == "store_refuses" for alarm in here.status()["alarms"]):
                drva.disk().write(0, os.urandom(4096))
                number += 1
                time.sleep(0.05)
            drva.disk().write(4096, b"written while the credential was expired".ljust(512))
            lsn = here.ask("mark", domain="payroll", name="while")["point"]["lsn"]
            write_credential(file, AZURE_STORAGE_SAS_TOKEN=signature(azurite, container, "rwl", timedelta(hours=1)))
            reload(drva)
            here.until(lambda found: (found.get("lsn_uploaded") or 0) >= lsn)
            assert here.status()["restarts"] == 0
        monkeypatch.setenv("AZURE_STORAGE_KEY", azurite.key)
        assert not asyncio.run(gaps(f"az://{container}"))


async def gaps(url: str) -> int:
    async with await jetdr.Catalog.open(url) as catalog:
        assert "while" in catalog.marks
        return len(catalog.gaps)
