"""A DRVA that starts while its store, or its log's device, is away: guests have their disks, and nothing is hidden."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jetdr_core.domain.known_file import KnownFile
from tests.cli.jetdr_command import jetdr
from tests.domain.fixture import recovered
from tests.drva.running_drva import Place, end, place, process
from tests.host.nbd_client import NbdClient

pytestmark = pytest.mark.usefixtures("nbdkit")

MODES = {"write-through": "", "write-back": 'mode = "write-back"'}


@pytest.fixture
def nbdkit(peer: Callable[[str], str]) -> str:
    return peer("nbdkit")


@pytest.fixture(params=MODES)
def here(request: pytest.FixtureRequest) -> Iterator[Place]:
    with place("payroll") as made:
        made.write(domain=MODES[request.param])
        yield made


def guest(here: Place) -> NbdClient:
    return NbdClient(str(here.run / "payroll/nbd.sock"), "db01")


def write(here: Place, text: bytes) -> None:
    with guest(here) as client:
        client.write(0, text * 512)
        client.flush()


def read(here: Place) -> bytes:
    with guest(here) as client:
        return client.read(0, 512)[:1]


def is_consistent(status: Any) -> bool:
    return bool(status["state"] == "open" and status["consistent"])


def alarms(status: Any) -> dict[str, str]:
    return {alarm["name"]: alarm["text"] for alarm in status["alarms"]}


def gaps(here: Place) -> list[Any]:
    found: list[Any] = jetdr("points", here.store("payroll"), "--json", "--no-cache").json["gaps"]
    return found


def assert_whole(here: Place, text: bytes) -> None:
    """Everything is uploaded, and replica and primary are equal."""
    status = here.until(is_consistent)
    here.ask("mark", domain="payroll", name="whole")
    lsn = here.status()["lsn_reserved"]
    assert here.ask("await_upload", domain="payroll", lsn=lsn, limit_s=20)["uploaded"], status
    held = here.disk("payroll").read_bytes()
    assert held[:1] == text
    assert asyncio.run(recovered(here.store("payroll"), "whole"))["db01"] == held


def test_a_drva_that_starts_without_its_store_serves_and_logs(here: Place) -> None:
    store, aside = here.path / "store-payroll", here.path / "aside"
    with process(here) as first:
        here.until(is_consistent)
        write(here, b"A")
        store.rename(aside)
        end(first, signal.SIGKILL)
    with process(here) as second:
        status = here.until(lambda s: s["state"] == "open")
        assert not status["joined"]
        assert not store.exists()  # 'create = true' makes no store for a domain that has a history
        assert "does not exist" in alarms(status)["store_away"]
        write(here, b"B")
        point = here.ask("mark", domain="payroll", name="away")["point"]
        assert not here.ask("await_upload", domain="payroll", lsn=1, limit_s=0.2)["uploaded"]
        assert "NOT joined" in jetdr("status", "--socket", here.socket).out
        aside.rename(store)
        here.until(lambda s: s["joined"] and s["lsn_uploaded"] >= point["lsn"])
        assert "store_away" not in alarms(here.status())
        assert_whole(here, b"B")
        assert not gaps(here)
        end(second)


def test_an_empty_directory_where_the_store_was_is_no_new_domain(here: Place) -> None:
    store, aside = here.path / "store-payroll", here.path / "aside"
    with process(here) as first:
        here.until(is_consistent)
        write(here, b"A")
        end(first)
    store.rename(aside)
    store.mkdir()
    with process(here) as second:
        status = here.until(lambda s: s["state"] == "waiting")
        assert "its log has a history" in status["failure"]
        assert read(here) == b"A"
        store.rmdir()
        aside.rename(store)
        here.until(is_consistent)
        assert_whole(here, b"A")
        assert not gaps(here)
        end(second)


def test_guests_have_their_disks_while_the_log_is_away_and_their_host_component_dies(here: Place) -> None:
    """In write-through they go on unprotected. In write-back the log may hold what the disks lack, but a ring lives."""
    log, aside = here.path / "log", here.path / "log-aside"
    with process(here) as first:
        here.until(is_consistent)
        write(here, b"A")
        end(first, signal.SIGKILL)
    os.kill(here.component("payroll").pid, signal.SIGKILL)
    log.rename(aside)
    with process(here) as second:
        here.until(lambda s: s["state"] == "waiting" and _reads(here, b"A"))
        if "write-back" not in here.file.read_text():
            assert "unprotected since" in alarms(here.until(lambda s: "logging_off" in alarms(s)))["logging_off"]
        write(here, b"B")
        os.kill(here.component("payroll").pid, signal.SIGKILL)
        here.until(lambda _: _reads(here, b"B"))
        aside.rename(log)
        assert_whole(here, b"B")
        end(second)


def _reads(here: Place, text: bytes) -> bool:
    try:
        return read(here) == text
    except OSError:
        return False


def lose_runtime_folder(here: Place) -> None:
    for path in (here.run / "payroll").iterdir():
        path.unlink()


def test_after_an_orderly_end_guests_have_their_disks_without_ring_and_log(here: Place) -> None:
    here.write(domain=_mode(here), drva='hosts_on_stop = "stop"')
    log, aside = here.path / "log", here.path / "log-aside"
    with process(here) as first:
        here.until(is_consistent)
        write(here, b"A")
        end(first)
    lose_runtime_folder(here)
    log.rename(aside)
    with process(here) as second:
        here.until(lambda s: "unprotected since" in alarms(s).get("logging_off", ""))
        write(here, b"B")
        end(second, signal.SIGKILL)
    here.component("payroll").stop()  # in order, so that only the state folder knows that the log was bypassed
    lose_runtime_folder(here)
    aside.rename(log)
    with process(here) as third:
        here.until(is_consistent)
        assert gaps(here)
        assert_whole(here, b"B")
        assert not (here.path / "state/payroll/served").exists()
        end(third)
    with process(here) as fourth:
        count = len(gaps(here))
        assert_whole_again(here, count)
        end(fourth)


def assert_whole_again(here: Place, count: int) -> None:
    """The gap is not owed a second time."""
    here.until(is_consistent)
    assert len(gaps(here)) == count


def _mode(here: Place) -> str:
    return MODES["write-back"] if "write-back" in here.file.read_text() else ""


def test_in_write_back_guests_wait_if_the_log_may_hold_what_their_disks_lack() -> None:
    with place("payroll") as here:
        here.write(domain=MODES["write-back"])
        log, aside = here.path / "log", here.path / "log-aside"
        with process(here) as first:
            here.until(is_consistent)
            write(here, b"A")
            end(first, signal.SIGKILL)
        os.kill(here.component("payroll").pid, signal.SIGKILL)
        _until_gone(here)
        lose_runtime_folder(here)
        log.rename(aside)
        with process(here) as second:
            status = here.until(lambda s: "host_away" in alarms(s))
            assert "may hold what its disks lack" in alarms(status)["host_away"]
            assert not here.component("payroll").running()
            aside.rename(log)
            assert_whole(here, b"A")
            end(second)


def _until_gone(here: Place) -> None:
    while here.component("payroll").running():
        pass


def test_the_state_folder_is_told_of_a_disk_at_once() -> None:
    with place("payroll") as here, process(here) as drva:
        here.until(is_consistent)
        record = KnownFile(Path(here.path / "state"), "payroll").read()
        assert record is not None
        here.ask("protect", domain="payroll", disk="db02", path=str(here.path / "db02.img"), size_bytes=1 << 20)
        record = KnownFile(Path(here.path / "state"), "payroll").read()
        assert record is not None
        assert [state.name for state in record.folded_history().disks] == ["db01", "db02"]
        end(drva)


def lose_power(here: Place, disk_before: bytes) -> None:
    """Nothing that runs survives, and the disk lacks what its guest's flush made durable in the log."""
    os.kill(here.component("payroll").pid, signal.SIGKILL)
    _until_gone(here)
    lose_runtime_folder(here)
    stamp = os.getxattr(here.disk("payroll"), "user.jetdr")
    here.disk("payroll").write_bytes(disk_before)
    os.setxattr(here.disk("payroll"), "user.jetdr", stamp)


def test_a_configuration_that_turns_to_write_through_serves_no_disk_that_lacks_what_the_log_has() -> None:
    with place("payroll") as here:
        here.write(domain=MODES["write-back"])
        with process(here) as first:
            here.until(is_consistent)
            before = here.disk("payroll").read_bytes()
            write(here, b"A")
            end(first, signal.SIGKILL)
        lose_power(here, before)
        here.write(domain=MODES["write-through"])
        with process(here) as second:
            status = here.until(lambda s: s["state"] == "waiting" and "host_away" in alarms(s))
            assert "ran in write-back mode" in status["failure"]
            assert "may hold what its disks lack" in alarms(status)["host_away"]
            assert not here.component("payroll").running()
            end(second)
        here.write(domain=MODES["write-back"])
        with process(here) as third:
            here.until(is_consistent)
            assert_whole(here, b"A")
            assert not gaps(here)
            end(third)


def test_an_older_copy_of_the_state_folder_does_not_vouch_for_disks_that_were_served_since() -> None:
    """It says that nothing was pending when the domain was closed, which was before guests wrote again."""
    with place("payroll") as here:
        here.write(domain=MODES["write-back"], drva='hosts_on_stop = "stop"')
        log, aside, state = here.path / "log", here.path / "log-aside", here.path / "state"
        with process(here) as first:
            here.until(is_consistent)
            end(first)
        shutil.copytree(state, here.path / "older")
        with process(here) as second:
            here.until(is_consistent)
            before = here.disk("payroll").read_bytes()
            while os.getxattr(here.disk("payroll"), "user.jetdr").startswith(b"1."):
                pass
            write(here, b"A")
            end(second, signal.SIGKILL)
        lose_power(here, before)
        shutil.rmtree(state)
        (here.path / "older").rename(state)
        log.rename(aside)
        with process(here) as third:
            status = here.until(lambda s: "host_away" in alarms(s))
            assert "older copy" in alarms(status)["host_away"]
            assert not here.component("payroll").running()
            end(third)


def test_a_domain_whose_log_and_store_are_both_away_is_no_new_one(here: Place) -> None:
    """As on a machine that starts without its mounts."""
    places = [here.path / "store-payroll", here.path / "log"]
    with process(here) as first:
        here.until(is_consistent)
        write(here, b"A")
        end(first)
    for path in places:
        path.rename(path.with_suffix(".aside"))
    with process(here) as second:
        status = here.until(lambda s: s["state"] == "waiting")
        assert "its state folder has a history" in status["failure"]
        assert not any(path.exists() for path in places)
        assert read(here) == b"A"
        for path in places:
            path.with_suffix(".aside").rename(path)
        here.until(is_consistent)
        assert_whole(here, b"A")
        assert not gaps(here)
        end(second)
