"""Logs: one event is one line that a program can read, without credentials."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path

import pytest

from jetdr_core.drva.logs import LineFormatter, logging_to_stderr
from jetdr_core.store.redaction import redacted
from tests.drva.running_drva import end, place, process

SECRETS = (
    "https://acct.blob.core.windows.net/c?sv=2022&sig=AbC%2Fdef%3D",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=c2VjcmV0c2VjcmV0;EndpointSuffix=x",
    "SharedAccessSignature=sv=2020&sig=topsecret",
    "iscsi://chapuser%chappass@10.0.0.1:3260/iqn.2026-01.a/1",
    "https://user:hunter2@host/container",
)
HIDDEN = ("AbC", "c2VjcmV0c2VjcmV0", "topsecret", "chappass", "chapuser", "hunter2")


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("jetdr_core.x", logging.WARNING, "f", 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_a_json_line_has_its_documented_keys() -> None:
    event = json.loads(LineFormatter(as_json=True).format(record("no\nnews", domain="payroll")))
    assert list(event) == ["time", "level", "logger", "domain", "message"]
    assert (event["level"], event["domain"], event["message"]) == ("warning", "payroll", "no\nnews")


def test_a_console_line_is_one_line_whatever_the_message() -> None:
    line = LineFormatter(as_json=False).format(record('a "b"\nlevel=error \x1b[31m'))
    assert "\n" not in line
    assert "\x1b" not in line
    assert line.endswith(r'message="a \"b\"\nlevel=error \u001b[31m"')
    assert " level=warning logger=jetdr_core.x message=" in line


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_stays_on_its_line_and_keeps_no_secret(as_json: bool) -> None:
    formatter = LineFormatter(as_json=as_json, secrets=["opensesame"])
    try:
        raise ValueError(f"{SECRETS[0]} opensesame")
    except ValueError:
        made = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    line = formatter.format(made)
    assert "\n" not in line
    assert "ValueError" in line
    assert "opensesame" not in line
    assert "AbC" not in line


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_passes(secret: str) -> None:
    for as_json in (True, False):
        line = LineFormatter(as_json=as_json).format(record(f"store {secret} failed"))
        assert not any(hidden in line for hidden in HIDDEN)
        assert "[hidden]" in line
    assert redacted("plain text, a=b, file:///x@y") == "plain text, a=b, file:///x@y"


def test_logging_goes_to_one_place_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with logging_to_stderr("info", as_json=True):
        logging.getLogger("jetdr_core.y").info("one")
        logging.getLogger("jetdr_core.y").debug("two")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["one"]
    assert root.handlers == before


def test_a_drva_logs_its_life_as_json_without_what_its_environment_holds(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("chapsecret\n")
    (tmp_path / "password").chmod(0o600)
    lun = '[[volume]]\nname = "lun"\npath = "iscsi://u@127.0.0.1/iqn.2026-01.a/1"\n'
    with place("payroll") as here:
        here.write(drva='log_format = "json"\nlog_level = "debug"\n')
        here.file.write_text(f'{here.file.read_text()}\n{lun}password_file = "{tmp_path}/password"\n')
        with process(here, AZURE_STORAGE_KEY="azuresecret") as daemon:
            logged = end(daemon)
        assert daemon.returncode == 0
    events = [json.loads(line) for line in logged.splitlines()]
    messages = [event["message"] for event in events]
    assert "ready: 1 of 1 domains open" in messages
    assert messages[-1] == "stopped"
    assert {"domain payroll: open", "domain payroll: closed"} <= set(messages)
    assert all(event["domain"] == "payroll" for event in events if event["message"].startswith("domain payroll: open"))
    assert "azuresecret" not in logged
    assert "chapsecret" not in logged
