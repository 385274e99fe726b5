"""A command that waits says what it waits for, and why, long before it gives up."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetdr_core.cli.exits import ExitCode
from jetdr_core.store import RetryPolicy, retry
from jetdr_core.waiting import told_if_long
from tests.cli.jetdr_command import jetdr

COMMANDS = {
    "points": ["points", "{}", "--no-cache"],
    "status": ["status", "{}", "--no-cache"],
    "verify": ["verify", "{}"],
    "inspect": ["inspect", "{}", "--number", "1"],
    "rehydrate": ["rehydrate", "{}", "--at", "latest", "--to", "{to}", "--no-cache"],
}


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """An endpoint that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/account"


@contextlib.contextmanager
def silence() -> Iterator[str]:
    """An endpoint that takes connections, answers nothing, and closes them after a while."""

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                over.wait(0.3)
                connection.close()

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/account"
        over.set()
        listening.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def unknown_name() -> Iterator[str]:
    yield "https://jettset1.invalid"


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry policy of a fraction of a second, and no less patience than a policy of minutes has beside it."""
    monkeypatch.setattr(retry, "AWAY_S", 0.05)
    policy = RetryPolicy(attempts_max=4, delay_base_s=0.3, delay_cap_s=0.3)
    monkeypatch.setattr(retry, "RetryPolicy", lambda: policy)


@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_that_cannot_be_reached_is_told_before_the_command_gives_up(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nobody() as endpoint:
        for name, value in {"ACCOUNT": "account", "KEY": "a2V5", "SERVICE_ENDPOINT": endpoint}.items():
            monkeypatch.setenv(f"AZURE_STORAGE_{name}", value)
        said = jetdr(*(part.format("az://payroll", to=tmp_path / "to") for part in COMMANDS[command]))
    assert said.code == ExitCode.UNREACHABLE
    warnings = [line for line in said.err.splitlines() if line.startswith("jetdr: warning: ")]
    assert "store az://payroll is away, and is tried again: " in warnings[-1]
    assert "check the network and the endpoint" in warnings[-1]


@pytest.mark.usefixtures("briefly")
def test_a_host_name_that_does_not_exist_names_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    with unknown_name() as endpoint:
        for name, value in {"ACCOUNT": "jettset1", "KEY": "a2V5", "SERVICE_ENDPOINT": endpoint}.items():
            monkeypatch.setenv(f"AZURE_STORAGE_{name}", value)
        said = jetdr("points", "az://payroll", "--no-cache")
    assert said.code == ExitCode.UNREACHABLE
    told = "the name of the host 'jettset1.invalid' cannot be resolved; check the name of the account (jettset1)"
    assert said.err.count(told) == 2, "in the warning, and in the error"


@pytest.mark.usefixtures("briefly")
def test_a_store_that_is_silent_is_told_during_the_first_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    with silence() as endpoint:
        for name, value in {"ACCOUNT": "account", "KEY": "a2V5", "SERVICE_ENDPOINT": endpoint}.items():
            monkeypatch.setenv(f"AZURE_STORAGE_{name}", value)
        said = jetdr("points", "az://payroll", "--no-cache")
    assert "has not answered for 0 s, and is waited for" in said.err


def test_a_call_that_takes_long_is_told_once_and_one_that_does_not_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with told_if_long("the target", after_s=60):
        pass
    assert caplog.records == []
    with told_if_long("the target", after_s=0.01):
        while not caplog.records:
            time.sleep(0.005)
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("the target has not answered for 0 s")
    assert last.startswith("the target is waited for no longer")
