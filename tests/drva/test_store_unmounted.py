"""The file system of a store is unmounted under a running DRVA: that is no loss, and nothing is put where it was."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.drva.running_drva import place, running
from tests.drva.walks import is_whole, store_folder


def mount(share: Path, point: Path) -> None:
    subprocess.run(["mount", "--bind", share, point], check=True)


def unmount(point: Path) -> None:
    subprocess.run(["umount", "-l", point], check=True)  # the DRVA has it open, as it would have a share that is gone


@pytest.mark.parametrize("below", ["", "/below"], ids=["mount point", "folder below it"])
def test_uploads_wait_for_the_mount_and_go_on_by_themselves(below: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    with place("payroll") as here, tempfile.TemporaryDirectory(dir="/var/tmp") as share:
        if Path(share).stat().st_dev == here.path.stat().st_dev:
            pytest.skip("/var/tmp and /dev/shm are one file system")
        url, point = here.store("payroll"), store_folder(here)
        here.file.write_text(here.file.read_text().replace(url, url + below))
        point.mkdir()
        mount(Path(share), point)
        with running(here) as drva:
            here.until(is_whole)
            unmount(point)
            drva.disk().write(0, b"a" * 512)
            status = here.until(lambda status: status["alarms"])
            assert [alarm["name"] for alarm in status["alarms"]] == ["store_away"]
            assert "is not mounted" in status["alarms"][0]["text"]
            assert (status["state"], status["condition"]["state"]) == ("open", "store_away")
            drva.disk().write(512, b"b" * 512)
            assert not list(point.iterdir())
            mount(Path(share), point)
            here.until(lambda status: is_whole(status) and not status["alarms"])
        unmount(point)
        assert not list(point.iterdir())
