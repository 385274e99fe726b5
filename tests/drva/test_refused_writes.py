"""A store that answers and refuses: the domain stays open, its log takes writes, and uploading goes on by itself."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jetdr_core.drva.configured_domain import open_domain
from jetdr_core.store.tree_call import TreeCall, TreeStep
from jetdr_core.store.tree_process import TreeProcess
from tests.cli.jetdr_command import jetdr
from tests.drva.running_drva import Place, place, running
from tests.drva.walks import assert_recovered, is_whole, own_key, store_folder
from tests.host.nbd_client import NbdClient


def refusal(status: Any) -> str:
    """What the alarm says, if the domain is open and says so everywhere."""
    texts = [alarm["text"] for alarm in status["alarms"] if alarm["name"] == "store_refuses"]
    is_told = status["state"] == "open" and status["condition"]["state"] == "store_refuses"
    return texts[0] if texts and is_told else ""


def gaps(here: Place) -> list[Any]:
    found: list[Any] = jetdr("points", here.store("payroll"), "--json", "--no-cache", "--key-file", own_key(here)).json[
        "gaps"
    ]
    return found


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_uploads_that_are_refused_are_an_alarm_and_go_on_when_they_are_granted(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuses, call = threading.Event(), TreeProcess.call

    async def call_if_granted(tree: TreeProcess, asked: TreeCall, views: list[memoryview]) -> bytes:
        if refuses.is_set() and asked.step is TreeStep.CREATE:
            raise OSError(code, os.strerror(code))
        return await call(tree, asked, views)

    monkeypatch.setattr(TreeProcess, "call", call_if_granted)
    with place("payroll") as here, running(here) as drva:
        here.until(is_whole)
        refuses.set()
        lsn = drva.disk().write(0, b"a" * 512)
        status = here.until(refusal)
        assert os.strerror(code) in refusal(status)
        assert "REFUSED" in jetdr("status", "--socket", here.socket).out
        assert not any(alarm["name"] in {"upload_stopped", "store_away"} for alarm in status["alarms"])
        lsn = drva.disk().write(512, b"b" * 512)
        drva.disk().flush()
        assert here.status()["lsn_uploaded"] < lsn
        refuses.clear()
        here.until(lambda status: is_whole(status) and not status["alarms"])
        assert here.status()["restarts"] == 0


@contextmanager
def own_mount(folder: Path) -> Iterator[Callable[[str], None]]:
    """Give what mounts the folder ``rw`` or ``ro``, as a share is mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    folder.mkdir()
    subprocess.run(["mount", "--bind", folder, folder], check=True)

    def mounted(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,bind,{how}", folder], check=True)

    try:
        yield mounted
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("mode", ["write-through", "write-back"])
def test_a_share_that_is_read_only_also_when_the_drva_starts_costs_no_gap(
    peer: Callable[[str], str], mode: str
) -> None:
    peer("nbdkit")
    with place("payroll") as here, own_mount(store_folder(here)) as mounted:
        here.write(domain=f'mode = "{mode}"')

        def write(text: bytes) -> None:
            with NbdClient(str(here.run / "payroll/nbd.sock"), "db01") as guest:
                guest.write(0, text * 512)
                guest.flush()

        with running(here, opener=open_domain):
            here.until(is_whole)
            mounted("ro")
            write(b"A")
            assert "Read-only file system" in refusal(here.until(refusal))
            assert here.status()["host"]["logging"]
        with running(here, opener=open_domain):
            status = here.until(refusal)
            assert "Read-only file system" in refusal(status)
            assert not status["joined"]
            assert "NOT joined" in jetdr("status", "--socket", here.socket).out
            write(b"B")
            assert here.status()["host"]["logging"]
            mounted("rw")
            here.ask("resume", domain="payroll")
            here.until(lambda status: is_whole(status) and status["joined"] and not status["alarms"])
            assert here.status()["restarts"] == 0
            assert here.disk("payroll").read_bytes()[:512] == b"B" * 512
        assert_recovered(here)
        assert not gaps(here)
