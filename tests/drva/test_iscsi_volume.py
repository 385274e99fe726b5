"""A log volume on a LUN with a password: the DRVA logs in, continues after a kill, and reports what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drva.running_drva import Place, end, place, process
from tests.peers.tgt import Lun, Tgt

SECRET = "correct-horse-battery"


@pytest.fixture
def lun(tgt: Tgt) -> Iterator[Lun]:
    made = tgt.add(32 << 20, block_bytes=4096, user="backup", password=SECRET)
    yield made
    tgt.remove(made)


@pytest.fixture
def here(lun: Lun, tmp_path: Path) -> Iterator[Place]:
    password = tmp_path / "password"
    password.write_text(f"{SECRET}\n")
    password.chmod(0o600)
    with place() as found:
        text = found.file.read_text().replace(
            f'path = "{found.path}/log"', f'path = "{lun.url}"\npassword_file = "{password}"'
        )
        found.file.write_text(text)
        yield found


def test_two_domains_share_a_lun_and_go_on_after_a_kill(here: Place) -> None:
    with process(here) as daemon:
        lsn = here.ask("mark", domain="payroll", name="on a LUN")["point"]["lsn"]
        here.until(lambda s: s["state"] == "open", "web")
        daemon.kill()
        daemon.wait(30)
    with process(here) as daemon:
        found = here.until(lambda s: s["consistent"] and s["lsn_uploaded"] == s["lsn_reserved"])
        assert found["lsn_recovered"] >= lsn
        assert "Traceback" not in (logged := end(daemon))
        assert SECRET not in logged


def test_a_wrong_password_is_told_and_the_right_one_taken_without_a_restart(here: Place, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("guessed-in-vain\n")
    with process(here) as daemon:
        found = here.until(lambda s: s["state"] == "waiting")
        assert "user and password" in found["failure"]
        (tmp_path / "password").write_text(SECRET)
        here.until(lambda s: s["state"] == "open")
        end(daemon)
