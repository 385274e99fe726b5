"""The demo does what it says, fails loudly if a check fails, and leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jetdr_core.cli.exits import ExitCode
from tests.cli.jetdr_command import environment, jetdr, jetdr_process

PROGRAMS = ("mke2fs", "debugfs", "e2fsck", "qemu-img")


@pytest.fixture(autouse=True)
def programs(peer: Callable[[str], str]) -> None:
    for program in PROGRAMS:
        peer(program)


def test_the_demo_recovers_three_moments_and_leaves_nothing(tmp_path: Path) -> None:
    done = jetdr_process("demo", env=environment(TMPDIR=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("83 of 83") == 3
    assert "mark 'month closed': Ledger 2026 | January: closed, 24 invoices booked" in done.stdout
    assert "(noise)" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_the_demo_keeps_can_be_recovered_again(tmp_path: Path) -> None:
    place = tmp_path / "demo"  # beside the cache
    place.mkdir()
    said = jetdr("demo", "--keep", "--dir", place)
    assert said.code == 0, said.err
    (folder,) = place.iterdir()
    assert f"kept in {folder}" in said.out
    url = (folder / "store").as_uri()
    assert jetdr("verify", url).code == 0
    names = [point["name"] for point in jetdr("points", url, "--json").json["points"]]
    assert names[-3:] == ["installed", "month closed", "files attacked"]
    assert jetdr("status", url, "--log", folder / "log", "--json").json["log_ahead"] == {"lsns": 0, "meet": True}


def test_a_demo_ended_by_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """Send SIGINT from inside, at the line that announces the attack: in the middle of live writes."""
    child = """
import signal, sys
from jetdr_core.cli import main
class Impatient:
    def write(self, text):
        if "an attack" in text:
            signal.raise_signal(signal.SIGINT)
        return sys.__stdout__.write(text)
    def __getattr__(self, name):
        return getattr(sys.__stdout__, name)
sys.stdout = Impatient()
sys.exit(main(["demo", "--dir", sys.argv[1]]))
"""
    command = [sys.executable, "-c", child, str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.INTERRUPTED
    assert done.stderr == "jetdr: error: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["e2fsck", "debugfs", "qemu-img"])
def test_a_check_that_fails_fails_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    work, wrong = tmp_path / "work", tmp_path / "wrong"
    work.mkdir()
    wrong.mkdir()
    (wrong / program).write_text("#!/bin/sh\necho something is wrong\nexit 4\n")
    (wrong / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrong}{os.pathsep}{os.environ['PATH']}")
    said = jetdr("demo", "--dir", work)
    assert said.code == ExitCode.INTERNAL
    (line,) = said.err.splitlines()
    assert line.startswith(f"jetdr: error: {program} ")
    assert "ended with status 4: something is wrong" in line
    assert list(work.iterdir()) == []


def test_a_missing_program_is_named_with_its_debian_package(tmp_path: Path) -> None:
    done = jetdr_process("demo", "--dir", tmp_path, env=environment(PATH=str(tmp_path)))
    assert done.returncode == ExitCode.USAGE
    assert "the demo needs qemu-img; install the Debian packages: apt-get install qemu-utils" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    said = jetdr("demo", "--dir", tmp_path / "absent")
    assert said.code == ExitCode.USAGE
    assert "is not a directory; name one that exists" in said.error
