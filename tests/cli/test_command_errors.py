"""Every error at the command line is one line that names the remedy, with its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jetdr_core.catalog import heartbeat
from jetdr_core.cli import points_command
from jetdr_core.cli.exits import MEANINGS, ExitCode
from tests.cli.domains import LSN_LAST, Payroll
from tests.cli.jetdr_command import environment, jetdr, jetdr_process
from tests.peers.azurite import Azurite
from tests.rehydrate.chains import EPOCH_NS

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["points"], "Missing argument 'URL'. See 'jetdr points --help'."),
        (["points", "/srv/dr/payroll"], "'/srv/dr/payroll' is not a URL; use file:///PATH"),
        (["points", "ftp://host/x"], "unknown scheme 'ftp'; use file:///PATH"),
        (["points", "file://relative"], "is relative; use an absolute path"),
        (["points", "file:///no/such/directory"], "does not exist; mount its file system, create it, or"),
        (["points", "az://payroll"], "no Azure storage account is named for 'az://payroll'; set AZURE_STORAGE_"),
        (["points", "memory://empty", "--colour"], "No such option"),
        (["verify", "memory://empty"], "holds no protected domain; check the URL, container and prefix"),
        (["inspect", "memory://empty"], "name one with --number N or --key KEY"),
        (["inspect", "x", "--number", "1", "--key", "y"], "give one of them"),
        (["inspect", "memory://empty", "--key", "../x"], "is not the key of a chain object"),
        (["rehydrate", "memory://empty", "--at", "1"], "Missing option '--to'"),
        (["rehydrate", "memory://empty", "--at", "1", "--to", "x", "--format", "qcow2"], "'qcow2' is not one of"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_wrong_usage_is_told_in_one_line(arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_STORAGE_")]:
        monkeypatch.delenv(name)
    said = jetdr(*arguments)
    assert (said.code, said.out) == (ExitCode.USAGE, "")
    assert told in said.error


@pytest.mark.parametrize("command", ["points", "verify", "status"])
def test_an_empty_container_holds_no_domain(command: str, tmp_path: Path) -> None:
    said = jetdr(command, tmp_path.as_uri())
    assert said.code == ExitCode.USAGE
    assert "holds no protected domain" in said.error


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("after upgrad", "has no mark 'after upgrad'; similar marks: 'after upgrade'"),
        ("0", "lies before the first recovery point; after it: LSN 1"),
        ("99", "lies after the last recovery point: the last known is LSN 12"),
        ("2001-01-01T00:00:00Z", "lies before the first recovery point"),
        ("2099-01-01T00:00:00Z", "lies after the last recovery point"),
        (
            "9",
            "was not consistent (unclean stop); before it: LSN 7 at 2023-11-14T22:13:27.000000000Z; after it: LSN 10",
        ),
    ],
)
def test_an_instant_that_is_no_point_is_refused(payroll: Payroll, tmp_path: Path, at: str, told: str) -> None:
    said = jetdr("rehydrate", payroll.url, "--at", at, "--to", tmp_path / "out")
    assert said.code == ExitCode.NO_POINT
    assert told in said.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--at", "2023-11-14T22:13:27"], "has no zone; append 'Z' for UTC"),
        (["--at", "latest", "--disk", "db02"], "disk 'db02' is not part of LSN 12"),
    ],
)
def test_a_wrong_choice_is_refused(payroll: Payroll, tmp_path: Path, options: list[str], told: str) -> None:
    said = jetdr("rehydrate", payroll.url, *options, "--to", tmp_path / "out")
    assert said.code == ExitCode.USAGE
    assert told in said.error


def test_a_target_that_exists_is_left_alone(payroll: Payroll, tmp_path: Path) -> None:
    (tmp_path / "db01.vmdk").write_text("mine")
    said = jetdr("rehydrate", payroll.url, "--at", "latest", "--to", tmp_path)
    assert said.code == ExitCode.TARGET
    assert "db01.vmdk exists; choose another target or remove it" in said.error
    assert (tmp_path / "db01.vmdk").read_text() == "mine"


def test_a_target_without_room_is_refused(payroll: Payroll, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=1, f_frsize=4096))
    said = jetdr("rehydrate", payroll.url, "--at", "latest", "--to", tmp_path / "out")
    assert said.code == ExitCode.TARGET
    assert "has 4096 bytes free" in said.error


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_damaged_frame_is_named_and_the_points_that_survive_told(payroll: Payroll) -> None:
    payroll.flip(3, 70)
    said = jetdr("verify", payroll.url)
    assert said.code == ExitCode.DAMAGED
    assert f"DAMAGED {payroll.chain.keys[2]}: frame 0" in said.out
    assert "1 part damaged or missing, 2 of 3 recovery points can be recovered whole" in said.error
    found = jetdr("verify", payroll.url, "--json").json
    assert [point["survives"] for point in found["points"]] == [True, True, False]
    assert found["damage"][0]["key"] == payroll.chain.keys[2]
    assert found["damage"][0]["extents"][0]["disk"] == "db01"


def test_a_damaged_frame_ends_a_recovery_that_needs_it_unless_told_to_keep_going(
    payroll: Payroll, tmp_path: Path
) -> None:
    payroll.flip(3, 70)
    said = jetdr("rehydrate", payroll.url, "--at", "latest", "--to", tmp_path / "out", "--format", "raw")
    assert said.code == ExitCode.DAMAGED
    assert payroll.chain.keys[2] in said.error
    said = jetdr(
        "rehydrate", payroll.url, "--at", "latest", "--to", tmp_path / "out", "--format", "raw", "--keep-going"
    )
    assert said.code == ExitCode.DAMAGED
    assert "the disks are not whole: disk 'db01'" in said.error
    assert (tmp_path / "out" / "web01.raw").is_file()
    assert jetdr("rehydrate", payroll.url, "--at", "before upgrade", "--to", tmp_path / "old").code == 0


def test_a_damaged_footer_ends_history_there(payroll: Payroll, tmp_path: Path) -> None:
    payroll.flip(3, -260)
    for command in ("points", "status", "verify"):
        said = jetdr(command, payroll.url)
        assert said.code == ExitCode.DAMAGED
        assert payroll.chain.keys[2] in said.error + said.out
        assert said.out
    said = jetdr("rehydrate", payroll.url, "--at", "after upgrade", "--to", tmp_path / "out")
    assert said.code == ExitCode.NO_POINT
    assert f"has no mark 'after upgrade' up to LSN 6, where its chain ends: {payroll.chain.keys[2]}" in said.error
    assert jetdr("rehydrate", payroll.url, "--at", "6", "--to", tmp_path / "out").code == 0


def test_a_missing_segment_in_the_middle_is_named(
    payroll: Payroll, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points_command, "SETTLE_S", 0.0)
    payroll.object(3).unlink()
    said = jetdr("points", payroll.url, "--json")
    assert said.code == ExitCode.DAMAGED
    assert set(said.json["hole"]) == {"number", "key", "problem", "objects_after"}
    assert said.json["hole"]["key"] == payroll.chain.keys[2]
    assert f"the chain ends at LSN 6: {payroll.chain.keys[2]} is missing (1 objects after it)" in said.error
    assert "if the domain is uploading at this moment, look again" in said.error
    said = jetdr("rehydrate", payroll.url, "--at", "12", "--to", tmp_path / "out")
    assert said.code == ExitCode.DAMAGED
    assert "LSN 12 lies after a break in the chain" in said.error
    assert "LSN 6 is the last that can be recovered" in said.error


def test_lost_newest_objects_that_a_heartbeat_vouches_for_are_told_by_every_command(payroll: Payroll) -> None:
    key, data = heartbeat(1, lsn=LSN_LAST, time_ns=EPOCH_NS)
    path = payroll.object(1).parents[2] / key
    path.parent.mkdir()
    path.write_bytes(data)
    assert [jetdr(command, payroll.url).code for command in ("points", "status", "verify")] == [0, 0, 0]
    payroll.object(len(payroll.chain.keys)).unlink()
    for command in ("points", "status", "verify"):
        said = jetdr(command, payroll.url)
        assert said.code == ExitCode.DAMAGED
        assert f"the newest objects are lost: {key} says that the store held LSN {LSN_LAST} at " in said.out + said.err
    found = jetdr("points", payroll.url, "--json").json["tail_loss"]
    assert (found["key"], found["lsn_last"]) == (key, LSN_LAST)
    assert key in jetdr("verify", payroll.url, "--json").json["tail_problem"]


def test_inspecting_a_pipe_or_a_device_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        said = jetdr("inspect", place)
        assert said.code == ExitCode.USAGE
        assert f"{place} is no file and no disk; name a log volume" in said.error


def test_inspect_shows_what_is_left_of_a_damaged_segment(payroll: Payroll) -> None:
    payroll.flip(2, 70)
    said = jetdr("inspect", payroll.object(2), payroll.object(4))
    assert said.code == ExitCode.DAMAGED
    assert "DAMAGED frame 0: " in said.out
    assert "'after upgrade'" in said.out, "the next one is shown too"
    assert f"damage in {payroll.object(2)}; 'jetdr verify URL' shows" in said.error


@pytest.mark.parametrize("number", [1, 3])
def test_a_newer_format_is_refused_and_not_called_damage(payroll: Payroll, number: int) -> None:
    payroll.renew(number)
    for said in (jetdr("points", payroll.url), jetdr("inspect", payroll.object(number))):
        assert said.code == ExitCode.NEWER
        assert "format 99; this engine reads up to 2; use a newer engine" in said.error


# -- logs --------------------------------------------------------------------------------------------------------------


def test_what_is_no_log_volume_is_refused(payroll: Payroll, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("a note")
    (tmp_path / "blank").write_bytes(bytes(2 << 20))
    for name, told in (("note", "is neither a log volume nor a segment"), ("blank", "")):
        said = jetdr("inspect", tmp_path / name)
        assert said.code == ExitCode.USAGE
        assert told in said.error
    assert jetdr("status", payroll.url, "--log", tmp_path / "blank").code == ExitCode.USAGE
    for arguments in (["inspect", tmp_path / "absent"], ["status", payroll.url, "--log", tmp_path / "absent"]):
        said = jetdr(*arguments)
        assert said.code == ExitCode.UNREACHABLE
        assert "absent" in said.error


# -- credentials, access, interruption ---------------------------------------------------------------------------------


def test_access_denied_is_told_apart(payroll: Payroll) -> None:
    child = """
import os, sys
from jetdr_core.cli import main
main(["points", "--no-cache", "memory://x"])  # imports now what this account may read and the other may not
os.chmod(sys.argv[1], 0)
if os.geteuid() == 0:  # whom nothing is denied
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
sys.exit(main(["points", "--no-cache", "file://" + sys.argv[1]]))
"""
    command = [sys.executable, "-c", child, str(payroll.path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    payroll.path.chmod(0o700)
    assert done.returncode == ExitCode.UNREACHABLE
    first, second = done.stderr.splitlines()
    assert "holds no protected domain" in first
    assert "Permission denied; check owner and mode of the store's directory" in second


def test_wrong_credentials_are_one_line_without_the_secret(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "d3Jvbmcga2V5LCBidXQgYmFzZTY0"
    for name, value in (azurite.environment() | {"AZURE_STORAGE_KEY": wrong}).items():
        monkeypatch.setenv(name, value)
    said = jetdr("points", "az://payroll")
    assert said.code == ExitCode.UNREACHABLE
    assert "check the credentials" in said.error
    assert wrong not in said.out + said.err


def test_secrets_on_the_command_line_are_not_repeated() -> None:
    for arguments in (
        ["points", "https://example.com/c?sv=1&sig=TOPSECRET"],
        ["points", "memory://x", "https://acct.blob.core.windows.net/c?sig=TOPSECRET"],
        ["--debug", "points", "ftp://h/c?sig=TOPSECRET"],
    ):
        said = jetdr(*arguments)
        assert said.code == ExitCode.USAGE
        assert "TOPSECRET" not in said.out + said.err


def test_a_traceback_comes_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in jetdr("points", "file:///no/such").err
    assert "Traceback" in jetdr("--debug", "points", "file:///no/such").err
    monkeypatch.setenv("JETDR_DEBUG", "1")
    assert "Traceback" in jetdr("points", "file:///no/such").err


IMPATIENT = """
import signal, sys
from jetdr_core.cli import main
class Impatient:
    left = int(sys.argv[1])
    def write(self, text):
        while "%" in text and Impatient.left:
            Impatient.left -= 1
            signal.raise_signal(signal.SIGINT)
        return sys.__stderr__.write(text)
    def __getattr__(self, name):
        return getattr(sys.__stderr__, name)
sys.stderr = Impatient()
sys.exit(main(sys.argv[2:]))
"""
"""Answers the first line of progress with SIGINT from inside the process, so that it is neither early nor late."""


@pytest.mark.parametrize(
    ("times", "told"),
    [
        (1, "interrupted; run the same command again, and it continues where it stopped"),
        (2, "interrupted twice, so it ended at once"),
    ],
)
def test_a_recovery_ended_by_ctrl_c_is_continued(payroll: Payroll, tmp_path: Path, times: int, told: str) -> None:
    arguments = ["rehydrate", payroll.url, "--at", "latest", "--to", str(tmp_path / "out"), "--format", "raw"]
    command = [sys.executable, "-c", IMPATIENT, str(times), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.INTERRUPTED
    assert done.stderr.splitlines()[-1] == f"jetdr: error: {told}"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "db01.raw").exists()
    assert jetdr(*arguments).code == 0
    assert (tmp_path / "out" / "db01.raw").read_bytes() == payroll.chain.replay(1, 256 << 10, 12)


# -- help --------------------------------------------------------------------------------------------------------------


COMMANDS = [
    "demo",
    "points",
    "rehydrate",
    "verify",
    "scrub",
    "repair",
    "inspect",
    "status",
    "drva",
    "mark",
    "protect",
    "unprotect",
    "move-disk",
    "grow-disk",
    "pause",
    "resume",
    "watch",
]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_every_command_has_help(command: list[str]) -> None:
    said = jetdr(*command, "--help")
    assert (said.code, said.err) == (0, "")
    assert "Usage: jetdr" in said.out


def test_help_and_documentation_name_every_exit_code() -> None:
    said, written = jetdr("--help").out, DOCUMENTATION.read_text(encoding="utf-8")
    for code, meaning in MEANINGS.items():
        assert f"{code:>5}  {meaning}" in said
        assert f"| {code} | {meaning}" in written


def test_version_is_told() -> None:
    done = jetdr_process("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("jetdr ")
