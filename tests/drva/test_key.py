"""The DRVA makes a key for a domain that it creates, uses it from then on, and alarms if the store is tampered with."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from pathlib import Path

import pytest

import jetdr_core as jetdr
from jetdr_core.catalog import chain_key
from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.config import load_config
from jetdr_core.drva.doctor.place_checks import check_all_places, check_places
from jetdr_core.errors import InvalidRequest
from tests.drva.running_drva import Place, place, running
from tests.segment.tampering import changed

WATCHFUL = "store_check_s = 0.05"


def own_key(here: Place) -> Path:
    return here.path / "state" / "payroll" / "domain.key"


def chain_files(here: Place) -> list[Path]:
    folder = Path(urllib.parse.urlparse(here.store("payroll")).path)
    return sorted(path for path in (folder / "chain").rglob("*") if path.is_file())


def forge(path: Path) -> bytes:
    """Change the content of the object, make its checksums right, and return what it was."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(changed(data, 70))
    return data


def test_a_created_domain_gets_a_key_of_its_own_and_keeps_it(caplog: pytest.LogCaptureFixture) -> None:
    with place("payroll") as here:
        with running(here) as drva:
            drva.disk().write(0, b"a" * 512)
        assert f"domain payroll: its key is in {own_key(here)}; keep a copy" in caplog.text
        key = KeyFile(own_key(here)).read()
        caplog.clear()
        here.write(create=False)
        with running(here) as drva:
            assert here.until(lambda s: s["consistent"])["epoch"] == 2
            drva.disk().write(0, b"b" * 512)
        assert "its key is in" not in caplog.text
        assert KeyFile(own_key(here)).read() == key
        report = asyncio.run(jetdr.verify(here.store("payroll"), domain_key=key))
        assert (report.is_sound, report.authenticity) == (True, "checked")


def test_the_key_file_of_the_configuration_is_used_instead() -> None:
    with place("payroll") as here:
        file = here.path / "keys"
        key = KeyFile(file).make()
        here.write(domain=f'key_file = "{file}"')
        with running(here) as drva:
            drva.disk().write(0, b"a" * 512)
        assert not own_key(here).exists()
        assert KeyFile(file).read().key_id == key.key_id
        assert asyncio.run(jetdr.verify(here.store("payroll"), domain_key=KeyFile(file).read())).is_sound


def test_a_domain_whose_key_is_lost_stays_closed_and_says_why() -> None:
    with place("payroll") as here:
        with running(here) as drva:
            drva.disk().write(0, b"a" * 512)
        kept = own_key(here).read_bytes()
        own_key(here).unlink()
        with running(here):
            found = here.until(lambda s: s["restarts"])
            assert "has a key, and none was given" in found["failure"]
            own_key(here).write_bytes(kept)
            own_key(here).chmod(0o600)
            here.until(lambda s: s["state"] == "open")


def test_a_domain_from_before_keys_goes_on_without_one() -> None:
    """Only a domain that is created gets a key."""
    with place("payroll") as here:
        asyncio.run(without_key(here))
        with running(here):
            assert here.until(lambda s: s["state"] == "open")["epoch"] == 2
            assert not own_key(here).exists()


async def without_key(here: Place) -> None:
    config = load_config(here.file).domains[0]
    domain = jetdr.ProtectedDomain.create(
        "payroll", log=config.volume.path, log_bytes=8 << 20, store=config.store, options=config.options
    )
    async with domain:
        await domain.protect("db01", here.disk("payroll"), size_bytes=1 << 20)


def alarms(status: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {alarm["name"]: alarm["text"] for alarm in status["alarms"]}


def test_a_forged_object_is_an_alarm_of_its_own_until_it_is_gone() -> None:
    with place("payroll") as here:
        here.write(options=WATCHFUL)
        with running(here) as drva:
            drva.disk().write(0, b"a" * 4096)
            here.until(lambda _: len(chain_files(here)) > 1)
            drva.disk().write(0, b"b" * 4096)
            here.until(lambda _: len(chain_files(here)) > 2)
            path = chain_files(here)[1]
            genuine = forge(path)
            found = here.until(lambda s: "forged" in alarms(s))
            assert chain_key(2) in alarms(found)["forged"]
            assert found["state"] == "open"
            path.write_bytes(genuine)
            here.until(lambda s: "forged" not in alarms(s))


def test_a_store_that_was_tampered_with_while_the_drva_was_down_is_not_opened() -> None:
    with place("payroll") as here:
        with running(here) as drva:
            drva.disk().write(0, b"a" * 4096)
        path = chain_files(here)[-1]
        genuine = forge(path)
        with running(here):
            found = here.until(lambda s: s["restarts"] > 0)
            assert {"closed", "forged"} <= alarms(found).keys()
            assert path.name in alarms(found)["forged"]
            path.write_bytes(genuine)
            here.until(lambda s: s["state"] == "open" and not s["alarms"])


def test_the_check_of_a_configuration_reads_its_key_files() -> None:
    with place("payroll") as here:
        file = here.path / "keys"
        here.write(domain=f'key_file = "{file}"')
        with pytest.raises(InvalidRequest, match=f"key file {file} does not exist"):
            check_all_places(load_config(here.file))
        KeyFile(file).make()
        check_all_places(load_config(here.file))
        file.write_text(json.dumps({"format": "other"}))
        with pytest.raises(InvalidRequest, match="is no key file"):
            check_all_places(load_config(here.file))


def test_a_key_file_that_is_missing_holds_up_its_own_domain_only() -> None:
    with place() as here:
        file = here.path / "keys" / "both"
        here.write(domain=f'key_file = "{file}"')
        text = here.file.read_text()
        first, second = text.split('name = "web"')
        here.file.write_text('name = "web"'.join((first, second.replace(f'key_file = "{file}"', ""))))
        check_places(load_config(here.file))
        with running(here):
            assert "does not exist" in here.until(lambda s: s["restarts"])["failure"]
            assert here.until(lambda s: s["state"] == "open", "web")["state"] == "open"
