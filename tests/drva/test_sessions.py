"""A DRVA keeps each domain open, opens it again after a failure, and gives it up only if it was fenced."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest

import jetdr_core as jetdr
from jetdr_core.catalog import chain_key
from jetdr_core.domain import ProtectedDomain
from jetdr_core.drva import kept_files
from jetdr_core.drva.config import DomainConfig, load_config
from jetdr_core.drva.configured_domain import AnyDomain, store_is_empty
from jetdr_core.drva.daemon import Drva
from jetdr_core.drva.errors import ControlError, DrvaBusy
from jetdr_core.drva.pause import Pause, PausedFile
from jetdr_core.errors import InvalidRequest
from jetdr_core.store.tree_call import TreeCall, TreeStep
from jetdr_core.store.tree_process import TreeProcess
from tests.drva.running_drva import DISK_BYTES, InProcess, embedded, place, running
from tests.faults.device import CrashDevice


def test_two_domains_on_one_volume_are_created_protected_and_go_on_after_a_restart() -> None:
    with place() as here:
        with running(here) as drva:
            for name in here.domains:
                drva.disk(name).write(0, name.encode().ljust(512))
            assert here.status("web")["disks"][0]["path"] == str(here.disk("web"))
        here.write(create=False)
        with running(here) as drva:
            found = here.until(lambda s: s["consistent"])
            assert (found["state"], found["epoch"], found["restarts"]) == ("open", 2, 0)
            assert drva.disk("web").read(0, 512) == b"web".ljust(512)
            assert [alarm["name"] for alarm in found["alarms"]] == []


def test_a_domain_that_does_not_exist_is_not_created_unasked() -> None:
    with place("payroll") as here:
        here.write(create=False)
        (here.path / "store-payroll").mkdir()
        with running(here):
            found = here.until(lambda s: s["restarts"] > 1)
            assert "holds no protected domain" in found["failure"]
            assert [alarm["name"] for alarm in found["alarms"]] == ["closed"]
        assert not any((here.path / "store-payroll").iterdir())
        with running(here, create=True):
            here.until(lambda s: s["state"] == "open")


def test_a_log_left_behind_by_its_store_is_not_used_for_a_new_domain() -> None:
    with place("payroll") as here:
        with running(here) as drva:
            drva.disk().write(0, b"a" * 512)
        shutil.rmtree(here.path / "store-payroll")
        with running(here):
            assert "does not exist; mount its file system" in here.until(lambda s: s["restarts"])["failure"]
            assert not (here.path / "store-payroll").exists()
            (here.path / "store-payroll").mkdir()
            here.until(lambda s: "its log has a history" in s["failure"])


def test_a_domain_whose_log_is_lost_is_taken_over_when_somebody_says_so_and_then_once() -> None:
    with place("payroll") as here:
        with running(here) as drva:
            drva.disk().write(0, b"a" * 512)
        (here.path / "log").rename(here.path / "log-lost")
        here.write(create=False)
        with running(here):
            found = here.until(lambda s: s["restarts"] > 1 and s["state"] == "waiting")
            assert "log" in found["failure"]
        with running(here, take_over=("payroll",)) as drva:
            found = here.until(lambda s: s["state"] == "open" and s["consistent"])
            assert found["epoch"] == 2
            session = drva.drva.sessions["payroll"]
            session.run(drva.domain().close(upload=False)).result(20)
            here.until(lambda s: s["restarts"] == 1 and s["state"] == "open" and s["epoch"] == 3)
            assert drva.disk().read(0, 512) == b"a" * 512
        with pytest.raises(InvalidRequest, match="has no domain 'web' to take over"):
            Drva(load_config(here.file), take_over=["web"])


def test_what_a_take_over_gives_up_is_chosen_as_its_error_says() -> None:
    """A lost object in mid-chain, walked to the end from the error of the DRVA."""
    with place("payroll") as here:
        with running(here) as drva:
            for n in range(14):
                here.ask("mark", domain="payroll", name=f"mark {n}")
                here.until(lambda s: s["lsn_uploaded"] >= s["lsn_reserved"])
            drva.disk().write(0, b"a" * 512)
        (here.path / "store-payroll" / chain_key(5)).unlink()
        with running(here, take_over=("payroll",)):
            failure = here.until(lambda s: s["restarts"] and s["failure"])["failure"]
        assert "--take-over payroll --give-up-from payroll=5" in failure
        with running(here, take_over=("payroll",), give_up_from={"payroll": 5}):
            here.until(lambda s: s["state"] == "open" and s["consistent"])
        with running(here) as drva:
            here.until(lambda s: s["state"] == "open" and s["consistent"])
            assert drva.disk().read(0, 512) == b"a" * 512


def test_a_sound_log_is_given_up_only_when_it_is_named() -> None:
    with place("payroll") as here:
        with running(here) as drva:
            here.ask("pause", domain="payroll")
            drva.disk().write(0, b"a" * 512)
            drva.disk().flush()
        with running(here, take_over=("payroll",)):
            failure = here.until(lambda s: s["restarts"] and s["failure"])["failure"]
        (named,) = re.findall(r"--discard-log payroll=(\w{16})", failure)
        with running(here, take_over=("payroll",), discard_log={"payroll": named}):
            here.until(lambda s: s["state"] == "open" and s["consistent"])
        with pytest.raises(InvalidRequest, match="nothing of domain 'payroll' is given up"):
            Drva(load_config(here.file), give_up_from={"payroll": 5})


def test_a_domain_that_cannot_be_opened_disturbs_no_other_and_is_opened_when_it_can_be() -> None:
    with place() as here:
        with running(here):
            pass
        away = here.path / "away"
        (here.path / "store-web").rename(away)
        here.write(create=False)
        with running(here) as drva:
            found = here.until(lambda s: s["restarts"] > 2, "web")
            assert "does not exist" in found["failure"]
            with pytest.raises(ControlError, match=r"domain 'web' is not open .*does not exist") as caught:
                here.ask("mark", domain="web", name="m")
            assert caught.value.kind == "DomainClosed"
            drva.disk("payroll").write(0, b"p" * 512)
            here.until(lambda s: s["state"] == "open" and s["lsn_uploaded"] == s["lsn_reserved"])
            away.rename(here.path / "store-web")
            here.until(lambda s: s["state"] == "open", "web")


def test_a_store_that_is_lost_while_the_domain_runs_stops_no_write_and_is_gone_on_with() -> None:
    with place("payroll") as here, running(here) as drva:
        here.until(lambda s: s["lsn_uploaded"] == s["lsn_reserved"])
        store = here.path / "store-payroll"
        away = shutil.copytree(store, here.path / "away")
        shutil.rmtree(store)
        lsn = drva.disk().write(0, b"a" * 512)
        found = here.until(lambda s: any(alarm["name"] == "upload_stopped" for alarm in s["alarms"]))
        assert found["state"] == "open"
        drva.disk().write(512, b"b" * 512)
        away.rename(store)
        here.until(lambda s: s["restarts"] == 1 and s["state"] == "open" and s["lsn_uploaded"] > lsn)


def test_a_fenced_domain_stays_closed_and_the_others_go_on() -> None:
    with place() as here, running(here) as drva:
        here.until(lambda s: s["lsn_uploaded"] == s["lsn_reserved"] > 0)

        async def take_over() -> None:
            async with jetdr.ProtectedDomain.take_over(
                "payroll",
                log=here.path / "other-log",
                log_bytes=4 << 20,
                store=here.store("payroll"),
                disks={"db01": _copy(here.disk("payroll"))},
                key_file=here.path / "state" / "payroll" / "domain.key",
            ) as domain:
                await domain.wait_consistent()

        asyncio.run(take_over())
        drva.disk().write(0, b"late" * 128)
        found = here.until(lambda s: s["state"] == "fenced")
        assert [alarm["name"] for alarm in found["alarms"]] == ["fenced"]
        assert "was fenced by epoch 2" in found["failure"]
        drva.disk("web").write(0, b"w" * 512)
        here.until(lambda s: s["lsn_uploaded"] == s["lsn_reserved"], "web")
        assert here.status()["restarts"] == 0


def _copy(disk: Path) -> Path:
    """Return what a machine that takes over has: the same disk in another place."""
    return Path(shutil.copy(disk, disk.with_suffix(".copy")))


def test_a_disk_that_is_not_there_is_an_alarm_and_the_other_disks_are_protected() -> None:
    with place("payroll") as here:
        text = here.file.read_text()
        here.file.write_text(f'{text}\n[[domain.disk]]\nname = "db02"\npath = "{here.path}/absent"\n')
        with running(here) as drva:
            found = here.until(lambda s: s["alarms"])
            (alarm,) = found["alarms"]
            assert (alarm["name"], "db02" in alarm["text"]) == ("disk_not_protected", True)
            drva.disk().write(0, b"a" * 512)
            assert here.status()["state"] == "open"


def test_a_log_that_fails_is_opened_again_when_it_is_whole() -> None:
    device = CrashDevice(16 << 20, block_bytes=4096)

    async def opener(config: DomainConfig) -> AnyDomain:
        if config.name == "web":
            return await embedded(config)
        if await store_is_empty(config.store, create=True):
            return ProtectedDomain.create(
                config.name, log=device, log_bytes=8 << 20, store=config.store, options=config.options
            )
        return ProtectedDomain.open(
            config.name, log=device, store=config.store, options=config.options, trust_stored_paths=True
        )

    with place() as here, running(here, opener=opener) as drva:
        here.until(lambda s: s["lsn_uploaded"] == s["lsn_reserved"] > 0)
        device.fail_at(1, "permanent")
        drva.disk().write(0, b"a" * 512)
        found = here.until(lambda s: s["restarts"] > 1)
        assert [alarm["name"] for alarm in found["alarms"]] == ["closed", "log_away", "upload_stopped"]
        assert "(as of " in found["alarms"][-1]["text"], "its log may be away still"
        assert here.status("web")["restarts"] == 0
        device.heal()
        here.until(lambda s: s["state"] == "open" and s["consistent"])
        drva.disk().write(512, b"b" * 512)
        here.until(lambda s: s["lsn_uploaded"] == s["lsn_reserved"])


def test_a_bug_in_one_domain_is_survived_and_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    failures = [KeyError("oops"), RecursionError("deep")]

    async def opener(config: DomainConfig) -> AnyDomain:
        if config.name == "payroll" and failures:
            raise failures.pop()
        return await embedded(config)

    with place() as here, running(here, opener=opener):
        found = here.until(lambda s: s["state"] == "open")
        assert found["restarts"] == 2
    assert sum(record.exc_info is not None for record in caplog.records) == 2


def test_a_domain_that_hangs_is_an_alarm_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetdr_core.drva.alarms.NO_ANSWER_S", 0.5)
    monkeypatch.setattr("jetdr_core.drva.last_status.ANSWER_S", 0.2)
    with place() as here, running(here) as drva:
        lock = drva.domain()._opened.control_log.lock  # type: ignore[union-attr]
        with lock:
            found = here.until(lambda s: s["alarms"])
            assert [alarm["name"] for alarm in found["alarms"]] == ["no_answer"]
            started = time.monotonic()
            here.ask("mark", domain="web", name="meanwhile")
            assert time.monotonic() - started < 5
        here.until(lambda s: not s["alarms"])


def test_stopping_uploads_what_is_left_and_closes_cleanly() -> None:
    with place("payroll") as here:
        here.write(options="heartbeat_s = 600")
        with running(here) as drva:
            here.ask("pause", domain="payroll")
            drva.disk().write(0, b"a" * 512)
            here.ask("resume", domain="payroll")
            lsn = here.status()["lsn_reserved"]
        assert asyncio.run(_lsn_stored(here.store("payroll"))) >= lsn


async def _lsn_stored(url: str) -> int:
    async with await jetdr.Catalog.open(url) as catalog:
        return catalog.lsn_last


def test_a_pause_outlives_a_failure_of_the_domain_and_every_restart_until_somebody_resumes() -> None:
    with place("payroll") as here:
        with running(here) as drva:
            pause = here.ask("pause", domain="payroll", reason="the line is needed for a restore")
            session = drva.drva.sessions["payroll"]
            session.run(drva.domain().close(upload=False)).result(20)
            found = here.until(lambda s: s["restarts"] == 1 and s["state"] == "open")
            assert found["paused"] is True
            drva.disk().write(0, b"a" * 512)
            found = here.until(lambda s: s["rpo_s"] > 0.2)
            assert found["lsn_uploaded"] < found["lsn_reserved"]
            assert "paused" in [alarm["name"] for alarm in found["alarms"]]
            again = here.ask("pause", domain="payroll")
            assert (again["since_ns"], again["reason"]) == (pause["since_ns"], pause["reason"])
        with running(here) as drva:
            drva.disk().write(512, b"b" * 512)
            found = here.until(lambda s: s["condition"]["state"] == "paused" and s["rpo_s"] > 0.2)
            (alarm,) = [one for one in found["alarms"] if one["name"] == "paused"]
            assert found["lsn_uploaded"] < found["lsn_reserved"]
            assert found["pause"] == {"since": pause["since"], "since_ns": pause["since_ns"], "reason": pause["reason"]}
            assert found["condition"]["since_ns"] == alarm["since_ns"] == pause["since_ns"]
            told = f"since {pause['since']} an operator paused uploading: the line is needed for a restore"
            assert told in alarm["text"]
            assert found["condition"]["why"] in told
            here.ask("resume", domain="payroll")
            here.until(lambda s: not s["paused"] and s["lsn_uploaded"] == s["lsn_reserved"])
        with running(here):
            here.until(lambda s: s["pause"] is None and s["lsn_uploaded"] == s["lsn_reserved"])


def test_a_pause_that_cannot_be_kept_is_refused_and_one_that_cannot_be_read_goes_on(tmp_path: Path) -> None:
    file = PausedFile(tmp_path, "payroll")
    assert file.read() is None
    file.write(Pause(7, "why"))
    assert file.read() == Pause(7, "why")
    for content in (b"", b"{}", b'{"version": 2}', b'{"version": 1, "since_ns": true, "reason": ""}'):
        file.path.write_bytes(content)
        found = file.read()
        assert found is not None
        assert "does not say since when uploading is paused" in found.why
        assert "'jetdr resume payroll'" in found.why
    file.remove()
    file.remove()
    assert file.read() is None
    with pytest.raises(InvalidRequest, match="is not one line"):
        Pause(7, "two\nlines")
    with place("payroll") as here, running(here):
        folder = here.path / "state" / "payroll"
        (folder / "paused.new").mkdir()  # so the file cannot be made
        with pytest.raises((ControlError, OSError)):
            here.ask("pause", domain="payroll")
        assert not here.status()["paused"]


def test_a_second_drva_in_the_same_directory_is_refused() -> None:
    with place("payroll") as here, running(here):
        second = InProcess(Drva(load_config(here.file), opener=embedded))
        with pytest.raises(DrvaBusy, match="another DRVA runs in"):
            second.join()
        assert here.status()["state"] == "open"


def test_a_runtime_directory_that_others_may_enter_is_refused() -> None:
    with place("payroll") as here:
        here.run.mkdir()
        os.chmod(here.run, 0o755)
        with pytest.raises(InvalidRequest, match=r"mode 0755: it is a folder on \w+; chown \d+ and chmod 0700 /"):
            InProcess(Drva(load_config(here.file), opener=embedded)).join()


def test_stopping_while_a_domain_is_being_opened_ends_it() -> None:
    with place("payroll") as here:
        (here.path / "state").mkdir()
        started = time.monotonic()
        drva = InProcess(Drva(load_config(here.file), opener=embedded))
        while not here.socket.exists():
            time.sleep(0.001)
        drva.stop()
        drva.join()
        assert time.monotonic() - started < 30
        assert here.disk("payroll").stat().st_size == DISK_BYTES if here.disk("payroll").exists() else True


def test_a_store_without_room_is_an_alarm_that_says_so_and_uploading_goes_on_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full, call = threading.Event(), TreeProcess.call

    async def call_if_there_is_room(tree: TreeProcess, asked: TreeCall, views: list[memoryview]) -> bytes:
        if full.is_set() and asked.step is TreeStep.CREATE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return await call(tree, asked, views)

    monkeypatch.setattr(TreeProcess, "call", call_if_there_is_room)
    with place("payroll") as here, running(here) as drva:
        here.until(lambda s: s["lsn_uploaded"] == s["lsn_reserved"])
        full.set()
        lsn = drva.disk().write(0, b"a" * 512)
        found = here.until(lambda s: any(alarm["name"] == "store_away" for alarm in s["alarms"]))
        assert "No space left on device" in str(found["alarms"])
        assert found["store_away_s"] >= 3
        full.clear()
        found = here.until(lambda s: s["lsn_uploaded"] >= lsn and not s["store_away"])
        assert "store_away" not in str(found["alarms"])


def test_configuration_files_are_kept_as_they_change_and_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_files, "LOOK_EVERY_S", 0.0)
    vmx, nvram, missing = tmp_path / "SQL Server 01.vmx", tmp_path / "größe.nvram", tmp_path / "missing.vmx"
    vmx.write_text("memsize = 1")
    nvram.write_bytes(b"\xff\0")
    with place("payroll") as here:
        files = json.dumps([str(path) for path in (vmx, nvram, missing)], ensure_ascii=False)
        here.write(domain=f"config_files = {files}")
        with running(here):
            found = here.until(lambda found: found["consistent"] and found["alarms"])
            assert [alarm["name"] for alarm in found["alarms"]] == ["config_not_kept"]
            assert f"{missing}: opening it failed: No such file or directory" in found["alarms"][0]["text"]
            vmx.write_text("memsize = 2")
            kept = here.ask("keep_config", domain="payroll", path=str(nvram), name="other.nvram")
            assert (kept["name"], kept["size_bytes"]) == ("other.nvram", 2)
            for path, told in ((tmp_path, "Is a directory|no regular file"), (tmp_path / "none", "No such file")):
                with pytest.raises((InvalidRequest, ControlError, OSError), match=told):
                    here.ask("keep_config", domain="payroll", path=str(path))
            missing.write_text("there")
            here.until(lambda found: not found["alarms"])
        target = tmp_path / "out"
        asyncio.run(jetdr.rehydrate(here.store("payroll"), at="latest", target=target, format="raw"))
        read = {path.name: path.read_bytes() for path in target.iterdir() if path.suffix != ".raw"}
        assert read == {
            vmx.name: b"memsize = 2",
            nvram.name: b"\xff\0",
            "other.nvram": b"\xff\0",
            missing.name: b"there",
        }
