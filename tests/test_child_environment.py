"""What child processes inherit: no credential, wherever one is started."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetdr_core.child_environment import child_environment

PACKAGE = Path(__file__).resolve().parents[1] / "jetdr_core"
STARTERS = {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"}


def test_what_is_not_on_the_list_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        monkeypatch.delenv(name)
    kept = {"PATH": "/usr/bin", "LANG": "C.UTF-8", "TMPDIR": "/var/tmp"}
    secrets = {
        "AZURE_STORAGE_KEY": "key",
        "AZURE_CLIENT_SECRET": "secret",
        "JETDR_ISCSI_PASSWORD": "hunter2",
        "JETDR_ISCSI_PASSWORD_FILE": "/etc/jetdr/password",
        "https_proxy": "http://user:password@proxy",
        "HTTPS_PROXY": "http://user:password@proxy",
        "SOME_TOKEN_OF_SOMEBODY": "x",
    }
    for name, value in (kept | secrets).items():
        monkeypatch.setenv(name, value)
    assert child_environment(LC_ALL="C") == kept | {"LC_ALL": "C"}


def calls_that_start_a_process() -> Iterator[tuple[str, ast.Call]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            of, name = ast.unparse(node.func.value), node.func.attr
            is_of_os = of == "os" and name.startswith(("exec", "spawn", "posix_spawn", "fork", "system", "popen"))
            if is_of_os or (of == "subprocess" and name in STARTERS) or name.startswith("create_subprocess"):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def test_every_process_is_started_with_that_environment() -> None:
    found = dict(calls_that_start_a_process())
    assert {where.partition(":")[0] for where in found} == {
        "host/component.py",
        "demo/programs.py",
        "drva/doctor/machine_checks.py",
        "store/tree_process.py",
    }
    for where, call in found.items():
        given = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "env"]
        assert [text.partition("(")[0] for text in given] == ["child_environment"], where
