"""The DRVA opens a disk only where an operator says that it is, and one disk's fault stops no other one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from jetdr_core.drva.added_disks import AddedDisks
from jetdr_core.drva.config import DiskConfig
from jetdr_core.drva.configured_disks import ConfiguredDisks
from jetdr_core.drva.errors import ControlError
from jetdr_core.drva.given_up_disks import GivenUpDisks
from jetdr_core.errors import InvalidRequest
from tests.drva.running_drva import DISK_BYTES, Place, end, place, process
from tests.host.nbd_client import NbdClient

pytestmark = pytest.mark.usefixtures("nbdkit")


@pytest.fixture
def nbdkit(peer: Callable[[str], str]) -> str:
    return peer("nbdkit")


def alarms(here: Place) -> dict[str, str]:
    return {alarm["name"]: alarm["text"] for alarm in here.status()["alarms"]}


def can_read(here: Place, disk: str) -> bool:
    with suppress(OSError), NbdClient(str(here.run / "payroll" / "nbd.sock"), disk) as guest:
        return len(guest.read(0, 512)) == 512
    return False


def lose_power(here: Place, drva: subprocess.Popen[str]) -> None:
    """End everything at once. The ring is in memory, and lost."""
    host = here.component("payroll").pid
    drva.kill()
    drva.wait()
    os.kill(host, signal.SIGKILL)
    wait_for_end(host)
    (here.run / "payroll" / "ring").unlink()


def test_what_a_command_has_answered_holds_although_the_machine_loses_power_at_once() -> None:
    with place("payroll") as here:
        file = here.path / "db01.vmx"
        file.write_text("memsize = 1")
        with process(here, "--create") as drva:
            here.until(lambda s: s["state"] == "open" and s["consistent"])
            os.truncate(here.disk("payroll"), 2 * DISK_BYTES)
            pause = here.ask("pause", domain="payroll", reason="a test")
            here.ask("mark", domain="payroll", name="before")
            here.ask("keep_config", domain="payroll", path=str(file))
            here.ask("grow_disk", domain="payroll", disk="db01")
            here.ask("protect", domain="payroll", disk="new", path=str(here.path / "new.img"), size_bytes=DISK_BYTES)
            lose_power(here, drva)
        with process(here) as drva:
            found = here.until(lambda s: s["state"] == "open" and s["consistent"])
            assert {disk["name"]: disk["size_bytes"] for disk in found["disks"]} == {
                "db01": 2 * DISK_BYTES,
                "new": DISK_BYTES,
            }
            assert can_read(here, "new")
            assert "disk_not_configured" not in alarms(here)
            assert found["pause"]["since_ns"] == pause["since_ns"]
            with pytest.raises(ControlError, match="has a mark 'before' already"):
                here.ask("mark", domain="payroll", name="before")
            here.ask("resume", domain="payroll")
            here.ask("unprotect", domain="payroll", disk="new")
            lose_power(here, drva)
        with process(here) as drva:
            found = here.until(lambda s: s["state"] == "open" and s["consistent"] and not s["alarms"])
            assert [disk["name"] for disk in found["disks"]] == ["db01"]
            assert (found["pause"], found["given_up"]) == (None, [])
            end(drva)


def test_without_the_file_that_names_it_an_added_disk_is_an_alarm_with_a_way_on() -> None:
    with place("payroll") as here:
        with process(here, "--create") as drva:
            here.until(lambda s: s["state"] == "open")
            here.ask("protect", domain="payroll", disk="new", path=str(here.path / "new.img"), size_bytes=DISK_BYTES)
            end(drva)
        here.component("payroll").stop()
        next(here.path.rglob("added-disks")).unlink()
        with process(here) as drva:
            here.until(lambda s: s["state"] == "open")
            text = alarms(here)["disk_not_configured"]
            assert "disk 'new'" in text
            assert f"the store says that it lies at '{here.path / 'new.img'}'" in text
            assert "unprotect" in text
            assert can_read(here, "db01")
            assert not can_read(here, "new")
            here.ask("unprotect", domain="payroll", disk="new")
            here.until(lambda s: s["consistent"] and not s["alarms"])
            end(drva)


def protect_and_move(here: Place, name: str) -> Path:
    """Create the domain, end everything in order, and rename its disk. Returns where the disk is now."""
    with process(here, "--create") as drva:
        here.until(lambda s: s["state"] == "open" and s["consistent"])
        end(drva)
    here.component("payroll").stop()
    return here.disk("payroll").rename(here.path / name)


def test_a_disk_that_is_gone_is_an_alarm_that_ends_when_it_is_back() -> None:
    with place("payroll") as here:
        aside = protect_and_move(here, "aside")
        with process(here) as drva:
            here.until(lambda s: s["state"] == "open")
            text = alarms(here)["disk_failed"]
            assert f"disk 'db01' at {here.disk('payroll')}, since 2" in text
            assert "there is nothing at its path" in text
            assert "bring it back" in text
            assert not here.status()["consistent"]
            aside.rename(here.disk("payroll"))
            here.until(lambda s: s["consistent"] and not s["alarms"])
            assert can_read(here, "db01")
            end(drva)


def move_disk(here: Place, path: Path, disk: str = "db01") -> dict[str, object]:
    answer: dict[str, object] = here.ask("move_disk", domain="payroll", disk=disk, path=str(path))
    return answer


def test_a_disk_that_was_moved_is_used_there_after_restarts_until_the_configuration_is_corrected() -> None:
    with place("payroll") as here:
        moved = protect_and_move(here, "moved.img")
        with process(here) as drva:
            here.until(lambda s: s["state"] == "open")
            assert "jetdr move-disk" in alarms(here)["disk_failed"]
            answer = move_disk(here, moved)
            assert answer["resync"]
            assert answer["configured_elsewhere"]
            here.until(lambda s: s["consistent"] and not s["alarms"])
            assert can_read(here, "db01")
            end(drva)
        here.component("payroll").stop()
        with process(here) as drva:
            here.until(lambda s: s["state"] == "open" and s["consistent"] and not s["alarms"])
            assert here.status()["disks"][0]["path"] == str(moved)
            again = moved.rename(here.path / "again.img")
            here.file.write_text(here.file.read_text().replace(str(here.disk("payroll")), str(again)))
            drva.send_signal(signal.SIGHUP)
            here.until(lambda s: s["disks"][0]["path"] == str(again))
            assert "disk_not_protected" not in alarms(here)
            assert can_read(here, "db01")
            end(drva)


def test_a_path_that_is_corrected_in_the_configuration_is_used_at_once() -> None:
    with place("payroll") as here:
        moved = protect_and_move(here, "moved.img")
        with process(here) as drva:
            here.until(lambda s: s["state"] == "open")
            assert "disk_failed" in alarms(here)
            here.file.write_text(here.file.read_text().replace(str(here.disk("payroll")), str(moved)))
            drva.send_signal(signal.SIGHUP)
            here.until(lambda s: s["consistent"] and not s["alarms"])
            assert can_read(here, "db01")
            end(drva)


def test_a_disk_that_grew_is_an_alarm_until_an_operator_takes_the_rest() -> None:
    with place("payroll") as here, process(here, "--create") as drva:
        here.until(lambda s: s["state"] == "open" and s["consistent"])
        os.truncate(here.disk("payroll"), 2 * DISK_BYTES)
        here.until(lambda s: "disk_grown" in {alarm["name"] for alarm in s["alarms"]})
        assert "'jetdr grow-disk payroll db01'" in alarms(here)["disk_grown"]
        answer = here.ask("grow_disk", domain="payroll", disk="db01")
        assert (answer["before_bytes"], answer["size_bytes"]) == (DISK_BYTES, 2 * DISK_BYTES)
        found = here.until(lambda s: s["consistent"] and not s["alarms"])
        assert found["disks"][0]["size_bytes"] == 2 * DISK_BYTES
        with NbdClient(str(here.run / "payroll" / "nbd.sock"), "db01") as guest:
            assert guest.size_bytes == 2 * DISK_BYTES
        end(drva)


def test_files_that_a_host_component_has_open_and_that_are_renamed_are_alarms_until_they_are_back() -> None:
    with place("payroll") as here, process(here, "--create") as drva:
        here.until(lambda s: s["state"] == "open" and s["consistent"])
        files = [here.disk("payroll"), here.run / "payroll" / "ring"]
        for file in files:
            file.rename(f"{file}.aside")
        found = here.until(lambda s: [alarm["name"] for alarm in s["alarms"]] == ["file_lost", "file_lost"])
        told = "\n".join(alarm["text"] for alarm in found["alarms"])
        assert f"disk 'db01' at {files[0]}, since" in told
        assert f"it is {files[0]}.aside now: move it back" in told
        assert f"the ring at {files[1]}, since" in told
        for file in files:
            Path(f"{file}.aside").rename(file)
        here.until(lambda s: not s["alarms"])
        files[0].unlink()
        (alarm,) = here.until(lambda s: s["alarms"])["alarms"]
        assert f"until process {here.component('payroll').pid} ends" in alarm["text"]
        end(drva)


@pytest.mark.parametrize("remedy", ["move_disk", "unprotect"])
def test_a_closed_domain_that_waits_for_a_disk_opens_with_the_disk_elsewhere_or_without_it(remedy: str) -> None:
    with place("payroll") as here:
        here.write(domain='mode = "write-back"')
        with process(here, "--create") as drva:
            here.ask("protect", domain="payroll", disk="new", path=str(here.path / "new.img"), size_bytes=DISK_BYTES)
            here.until(lambda s: s["state"] == "open" and s["consistent"])
            with NbdClient(str(here.run / "payroll" / "nbd.sock"), "new") as guest:
                guest.write(0, b"acknowledged".ljust(512))
                guest.flush()
            lose_power(here, drva)
        moved = (here.path / "new.img").rename(here.path / "moved.img")
        moved.write_bytes(bytes(DISK_BYTES))  # the write had not reached it
        with process(here, opened=False) as drva:
            found = here.until(lambda s: s["failure"])
            assert "lacks writes that only the log of domain 'payroll' has" in found["failure"]
            more = {"path": str(moved)} if remedy == "move_disk" else {}
            assert not here.ask(remedy, domain="payroll", disk="new", **more)["open"]
            here.until(lambda s: s["state"] == "open" and s["consistent"])
            assert moved.read_bytes()[:12] == (b"acknowledged" if remedy == "move_disk" else bytes(12))
            assert can_read(here, "db01")
            assert [disk["name"] for disk in here.status()["disks"]] == ["db01", "new"][: 1 + (remedy == "move_disk")]
            end(drva)


def test_a_disk_of_a_closed_domain_that_is_well_where_it_was_is_not_moved_to_its_copy(tmp_path: Path) -> None:
    """Its guest goes on while the domain is closed, and what it writes would be at the old place alone."""
    old, new = tmp_path / "old.img", tmp_path / "new.img"
    for path in (old, new):
        path.write_bytes(bytes(4096))
    added = AddedDisks(tmp_path / "state", "payroll")
    disks = ConfiguredDisks(
        [DiskConfig(name="db01", path=str(old))], added, GivenUpDisks(tmp_path / "state", "payroll")
    )
    with pytest.raises(InvalidRequest, match=f"is well at {old}, .*move the file to {new}"):
        asyncio.run(disks.move_closed("db01", str(new)))
    assert added.known() == ()
    os.truncate(old, 8192)  # another disk, so the domain waits for the right one
    asyncio.run(disks.move_closed("db01", str(new)))
    old.unlink()
    asyncio.run(disks.move_closed("db01", str(new)))
    (found,) = added.known()
    assert (found.path, found.instead_of) == (str(new), str(old))


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.01)
