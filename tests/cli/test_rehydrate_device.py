"""``jetdr rehydrate --to /dev/DISK``: confirmed by an option, or typed on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetdr_core.cli.exits import ExitCode
from tests.cli.domains import LSN_AFTER, SIZE_BYTES, Payroll
from tests.cli.jetdr_command import environment, jetdr
from tests.peers.loop import loop_device

DEVICE_BYTES = 1 << 20


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    with loop_device(tmp_path / "image", DEVICE_BYTES) as path:
        yield Path(path)


def arguments(payroll: Payroll, device: Path, journal: Path) -> list[str]:
    target = ["--to", str(device), "--format", "raw", "--disk", "db01", "--work", str(journal)]
    return ["rehydrate", payroll.url, "--at", "latest", *target]


def test_option_confirms_for_scripts(payroll: Payroll, tmp_path: Path, device: Path) -> None:
    said = jetdr(*arguments(payroll, device, tmp_path / "journal"), "--confirm", DEVICE_BYTES)
    assert said.code == 0, said.err
    assert str(device) in said.out
    assert device.read_bytes()[:SIZE_BYTES] == payroll.chain.replay(1, SIZE_BYTES, LSN_AFTER)


def test_without_a_terminal_the_option_is_asked_for(payroll: Payroll, tmp_path: Path, device: Path) -> None:
    said = jetdr(*arguments(payroll, device, tmp_path / "journal"))
    assert said.code == ExitCode.USAGE
    assert "is not confirmed; look at the device (lsblk" in said.error
    assert not any(device.read_bytes())


@pytest.mark.parametrize(("typed", "code"), [(str(DEVICE_BYTES), ExitCode.OK), ("yes", ExitCode.USAGE)])
def test_on_a_terminal_it_is_typed(payroll: Payroll, tmp_path: Path, device: Path, typed: str, code: int) -> None:
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-m", "jetdr_core.cli", *arguments(payroll, device, tmp_path / "journal")]
    os.write(keyboard, f"{typed}\n".encode())
    done = subprocess.run(
        command, env=environment(), stdin=terminal, capture_output=True, text=True, timeout=60, check=False
    )
    os.close(keyboard)
    os.close(terminal)
    assert done.returncode == code, done.stderr
    assert f"everything on {device} (1048576 bytes, without serial) will be overwritten" in done.stderr
    assert any(device.read_bytes()) == (code == ExitCode.OK)
