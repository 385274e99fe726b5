"""Commands that ask a running DRVA: their text, the JSON that programs rely on, and how they fail."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetdr_core.cli.appliance_commands import _size_bytes
from jetdr_core.cli.exits import ExitCode
from jetdr_core.errors import InvalidRequest
from tests.cli.jetdr_command import environment, jetdr, jetdr_process
from tests.drva.running_drva import DISK_BYTES, InProcess, Place, place, running

DRVA = {
    "version",
    "pid",
    "started",
    "started_ns",
    "stopping",
    "metrics",
    "alarms",
    "alarms_ended",
    "hosts_not_configured",
}
DOMAIN = {
    *(
        "name",
        "state",
        "since",
        "since_ns",
        "restarts",
        "paused",
        "failure",
        "alarms",
        "condition",
        "alarms_ended",
        "verified",
        "status",
        "status_age_s",
    ),
    *("rpo_s", "as_of", "as_of_ns", "last_known", "given_up", "pause"),
}


@pytest.fixture(scope="module")
def appliance() -> Iterator[tuple[Place, InProcess]]:
    with place() as here, running(here) as drva:
        yield here, drva


@pytest.fixture
def here(appliance: tuple[Place, InProcess], monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("JETDR_SOCKET", str(appliance[0].socket))
    return appliance[0]


def test_status_tells_how_every_domain_stands(here: Place, appliance: tuple[Place, InProcess]) -> None:
    appliance[1].disk().write(0, b"x" * 512)
    said = jetdr("status")
    assert (said.code, said.err) == (0, "")
    assert "domain payroll: open" in said.out
    assert "domain web: open" in said.out
    assert f"db01 (1.0 MiB) {here.disk('payroll')}: 1 write" in said.out
    assert "domain payroll: open" not in jetdr("status", "web").out


def test_status_as_json_has_its_documented_keys(here: Place) -> None:
    found = jetdr("status", "payroll", "--json").json
    assert set(found) == {"drva", "domains"}
    assert set(found["drva"]) == DRVA
    (domain,) = found["domains"]
    assert set(domain) == DOMAIN
    assert domain["failure"] is None
    assert domain["status"]["disks"][0]["size_bytes"] == DISK_BYTES


def test_a_mark_is_in_the_store_when_it_was_waited_for(here: Place) -> None:
    said = jetdr("mark", "payroll", "before upgrade", "--wait")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("marked 'before upgrade' at LSN ")
    assert said.out.endswith(", in the store\n")
    assert "before upgrade" in jetdr("points", here.store("payroll")).out
    found = jetdr("mark", "payroll", "after upgrade", "--json").json
    assert set(found) == {"domain", "point", "uploaded"}
    assert set(found["point"]) == {"lsn", "time", "time_ns", "name", "timeline"}
    assert found["uploaded"] is None


def test_a_disk_is_protected_and_let_go(here: Place) -> None:
    image = here.path / "db02.img"
    said = jetdr("protect", "payroll", "db02", image, "--size", "2M")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"disk db02 of 2.0 MiB is protected: {image}\n"
    assert image.stat().st_size == 2 << 20
    here.until(lambda s: all(disk["ready"] for disk in s["disks"]))
    said = jetdr("unprotect", "payroll", "db02")
    assert (said.code, said.err) == (0, "")
    assert re.fullmatch(r"disk db02 is no longer protected, since 2\S+Z\n", said.out)


def test_a_disk_that_the_configuration_names_is_let_go_until_somebody_protects_it(here: Place) -> None:
    found = jetdr("unprotect", "web", "db01", "--json")
    assert set(found.json) == {"domain", "disk", "open", "configured", "since", "since_ns"}
    assert "'jetdr protect web db01 PATH' protects it again" in found.err
    said = jetdr("mark", "web", "of nothing")
    assert said.code == ExitCode.NO_POINT
    assert "domain 'web' is not consistent: it protects no disk" in said.err
    assert jetdr("protect", "web", "db01", here.disk("web")).code == 0
    here.until(lambda s: s["consistent"], "web")


def test_a_path_is_meant_from_where_it_is_typed(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here.path)
    found = jetdr("protect", "payroll", "db03", "db03.img", "--size", "1048576", "--json").json
    assert found["disk"] == {"name": "db03", "path": str(here.path / "db03.img"), "size_bytes": 1 << 20}
    assert jetdr("unprotect", "payroll", "db03").code == 0


def test_pause_and_resume(here: Place, appliance: tuple[Place, InProcess]) -> None:
    said = jetdr("pause", "payroll")
    assert (said.code, said.err) == (0, "")
    assert "its log takes writes until it is full" in said.out
    lsn = appliance[1].disk().write(0, b"y" * 512)
    assert "ALARM         paused: " in jetdr("status", "payroll").out
    assert here.status()["lsn_uploaded"] < lsn
    assert jetdr("resume", "payroll").out == "domain payroll uploads again\n"
    here.until(lambda s: s["lsn_uploaded"] >= lsn)


def test_watch_prints_a_line_for_each_domain_where_there_is_no_terminal(here: Place) -> None:
    said = jetdr("watch", "--once")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["payroll", "web"]
    assert "state open, RPO " in lines[0]
    assert len(jetdr("watch", "web", "--once").out.splitlines()) == 1


def test_watch_repeats_until_its_reader_has_gone(here: Place) -> None:
    command = [sys.executable, "-m", "jetdr_core.cli", "watch", "--every", "0.1"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        names = [watching.stdout.readline().split(":")[0] for _ in range(4)]
        watching.stdout.close()
        assert watching.wait(30) == ExitCode.PIPE_CLOSED
    assert names == ["payroll", "web"] * 2


def test_watch_draws_a_table_on_a_terminal_until_ctrl_c(here: Place) -> None:
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "jetdr_core.cli", "watch", "--every", "0.1"]
    env = environment(TERM="xterm", COLUMNS="150")
    with subprocess.Popen(
        command, env=env, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    ) as watching:
        try:
            os.close(terminal)
            shown = b""
            while shown.count(b"payroll") < 3:
                shown += os.read(controller, 4096)
            watching.send_signal(2)
            rest = _rest(controller)
            assert watching.wait(30) == ExitCode.INTERRUPTED
        finally:
            watching.kill()
    assert b"alarms" in shown
    assert b"Traceback" not in rest
    os.close(controller)


def _rest(controller: int) -> bytes:
    rest = b""
    try:
        while data := os.read(controller, 4096):
            rest += data
    except OSError:  # the other side of the terminal is closed
        pass
    return rest


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["status", "other"], ExitCode.USAGE, "this DRVA has no domain 'other'; it has: payroll, web"),
        (["mark", "payroll", "latest"], ExitCode.USAGE, "mark name 'latest' would be read as a point"),
        (["protect", "payroll", "db9", "/absent"], ExitCode.UNREACHABLE, "there is no /absent"),
        (["protect", "payroll", "db9", "/absent", "--size", "1X"], ExitCode.USAGE, "--size '1X' is not a size"),
        (["protect", "payroll", "a/b", "/absent"], ExitCode.USAGE, "disk name 'a/b' is not valid"),
        (["unprotect", "payroll", "nodisk"], ExitCode.USAGE, "protects no disk 'nodisk'; it protects db01"),
        (["status", "payroll", "--log", "/x"], ExitCode.USAGE, "--log needs a store to compare with"),
        (["status", "--socket", "/absent/sock"], ExitCode.UNREACHABLE, "no DRVA at /absent/sock: No such file"),
        (["pause", "payroll", "--socket", "/dev/null"], ExitCode.UNREACHABLE, "no DRVA at /dev/null"),
        (["drva", "/absent.toml"], ExitCode.UNREACHABLE, "/absent.toml: opening it failed: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_code(
    here: Place, arguments: list[str], code: ExitCode, told: str
) -> None:
    said = jetdr(*arguments)
    assert (said.code, said.out) == (code, "")
    assert told in said.error


def test_a_mark_used_twice_is_a_wrong_name(here: Place) -> None:
    assert jetdr("mark", "web", "twice").code == 0
    said = jetdr("mark", "web", "twice")
    assert said.code == ExitCode.USAGE
    assert "has a mark 'twice' already" in said.error


def test_nothing_but_a_name_asks_the_drva(tmp_path: Path, here: Place) -> None:
    assert "is not a URL" in jetdr("status", tmp_path / "store").error
    assert "holds no protected domain" in jetdr("status", tmp_path.as_uri()).error


def test_the_daemon_s_errors_before_it_starts_are_one_line() -> None:
    with place("payroll") as here:
        here.run.mkdir(mode=0o755)
        here.run.chmod(0o755)
        done = jetdr_process("drva", here.file)
        assert done.returncode == ExitCode.USAGE
        assert "so that it is this user's alone" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("size", "size_bytes"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("1.5G", 3 << 29),
        ("20GB", 20 * 10**9),
        ("20GiB", 20 << 30),
        ("0.5 TiB", 1 << 39),
        ("512m", 512 << 20),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_are_read_as_people_write_them(size: str, size_bytes: int) -> None:
    assert _size_bytes(size) == size_bytes


@pytest.mark.parametrize("size", ["1X", "-1G", "G", "1.G", "0.0001K", "1e9", "1,5G", "1PB", "٣G"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(InvalidRequest, match=r"is not a size|is no whole number of bytes"):
        _size_bytes(size)


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (["status", "other"], "InvalidRequest", ExitCode.USAGE),
        (["mark", "payroll", "latest"], "InvalidRequest", ExitCode.USAGE),
        (["status", "--socket", "/absent/sock"], "DrvaUnreachable", ExitCode.UNREACHABLE),
        (["points", "file:///absent"], "StoreMissing", ExitCode.USAGE),
        (["points", "memory://nothing-here"], "DomainMissing", ExitCode.USAGE),
        (["inspect", "/absent"], "FileNotFoundError", ExitCode.UNREACHABLE),
        (["points"], "InvalidRequest", ExitCode.USAGE),
        (["rehydrate", "file:///absent", "--at", "x", "--to", "/tmp/x"], "StoreMissing", ExitCode.USAGE),
    ],
)
def test_error_is_json_where_json_was_asked_for(here: Place, arguments: list[str], kind: str, code: ExitCode) -> None:
    said = jetdr(*arguments, "--json")
    assert said.code == code
    assert said.json == {"error": {"type": kind, "message": said.error, "exit_code": int(code)}}


def test_configuration_that_is_a_pipe_is_refused_at_once() -> None:
    with place("payroll") as here:
        here.file.unlink()
        os.mkfifo(here.file, 0o600)
        for arguments in (["drva", here.file, "--check"], ["inspect", here.file]):
            done = jetdr_process(*arguments)
            assert done.returncode == ExitCode.USAGE
            assert str(here.file) in done.stderr
