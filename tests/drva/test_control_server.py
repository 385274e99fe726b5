"""The control socket answers or drops garbage, giants, strangers and clients that hang, and they disturb nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import stat
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jetdr_core.drva.client import ControlClient
from jetdr_core.drva.control_server import ControlLimits, ControlServer
from jetdr_core.drva.errors import ControlError, DrvaUnreachable
from jetdr_core.drva.wire import LINE_BYTES_MAX, ControlRequest, Json
from jetdr_core.errors import InvalidRequest, LogFailed
from tests.drva.running_drva import LIMIT_S, place, running


async def echo(request: ControlRequest) -> Json:
    match request.command:
        case "sleep":
            await asyncio.sleep(60)
        case "refuse":
            raise InvalidRequest("no", hint="never sig=abc")
        case "log":
            raise LogFailed("the log device is gone")
        case "bug":
            raise KeyError("oops")
        case "big":
            return {"text": "x" * (8 << 20)}
    return dict(request.arguments)


@contextmanager
def serving(
    limits: ControlLimits | None = None, answer: Callable[[ControlRequest], Awaitable[Json]] = echo
) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="jc-") as folder:
        path = Path(folder) / "control.sock"
        loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

        async def serve() -> None:
            server = ControlServer(path, answer, limits)
            await server.start()
            ready.set()
            await stop.wait()
            await server.stop()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        try:
            assert ready.wait(10)
            yield path
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()


@pytest.mark.parametrize("in_the_way", [False, True], ids=["removed", "something else has its path"])
def test_a_socket_that_was_removed_is_made_again_and_nothing_else_is_touched(
    in_the_way: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(path: Path) -> None:
        server = ControlServer(path, echo)
        await server.start()
        await server.keep()
        opened = await asyncio.open_unix_connection(path)
        os.unlink(path)
        if in_the_way:
            os.mkdir(path)
            for _ in range(2):
                await server.keep()
            os.rmdir(path)
        await server.keep()
        for reader, writer in (opened, await asyncio.open_unix_connection(path)):
            writer.write(b'{"v": 1, "id": 1, "do": "echo"}\n')
            assert b'"id":1' in (await reader.readline()).replace(b" ", b"")
            writer.close()
            await writer.wait_closed()
        while server._conversations:
            await asyncio.sleep(0)
        await server.stop()
        await asyncio.sleep(0)

    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="jc-") as folder:
        asyncio.run(scenario(Path(folder) / "control.sock"))
        assert not list(Path(folder).iterdir())
    told = [record.message for record in caplog.records if "was removed" in record.message]
    assert [("is made again" in text) for text in told] == ([False, True] if in_the_way else [True])


def talk(path: Path, sent: bytes, *, ends: bool = False) -> list[Any]:
    """Send bytes, and return every reply until the server closes the connection, or the first one without ``ends``."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LIMIT_S)
        client.connect(str(path))
        with contextlib.suppress(BrokenPipeError):  # refused before the request was read
            client.sendall(sent)
        replies = client.makefile("rb")
        return [json.loads(line) for line in replies] if ends else [json.loads(replies.readline())]


def asked(path: Path, command: str, **arguments: object) -> Json:
    with ControlClient(path) as client:
        return client.ask(command, **arguments)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"hello\n", "not a line of JSON: b'hello\\n'"),
        (b"\x00\xff\xfe\n", "not a line of JSON"),
        (b"[1, 2]\n", "not a JSON object"),
        (b"[" * 60_000 + b"\n", "not a line of JSON"),
        (b'{"v": 1, "do": "x", "a": "\\ud800"}\n', "not a line of JSON"),
        (b"GET / HTTP/1.1\r\n\r\n", "not a line of JSON"),
        (b'{"do": "status"}\n', "version v = None is not valid"),
        (b'{"v": "1", "do": "status"}\n', "version v = '1' is not valid"),
        (b'{"v": 2, "do": "status"}\n', "the request is of version 2; this DRVA speaks 1"),
        (b'{"v": 1}\n', "do = None is not valid"),
        (b'{"v": 1, "do": "status", "id": [1]}\n', "id = [1] is not valid"),
        (b"x" * (LINE_BYTES_MAX + 2) + b"\n", "a request has more than 65536 bytes"),
    ],
)
def test_what_is_no_request_gets_an_error_and_the_end(sent: bytes, told: str) -> None:
    with serving() as path:
        (reply,) = talk(path, sent, ends=True)
        assert (reply["v"], reply["ok"]) == (1, False)
        assert told in reply["error"]["message"]
        assert asked(path, "echo", a=1) == {"a": 1}


def test_a_request_without_its_end_is_told_so() -> None:
    with serving() as path, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b'{"v": 1')
        client.shutdown(socket.SHUT_WR)
        reply = json.loads(client.makefile("rb").readline())
        assert "a request has no end" in reply["error"]["message"]


def test_a_reply_carries_the_identity_of_its_request() -> None:
    with serving() as path:
        assert talk(path, b'{"v":1,"id":"seven","do":"echo","a":[1]}\n') == [
            {"v": 1, "id": "seven", "ok": True, "result": {"a": [1]}}
        ]


def test_errors_come_back_by_kind_without_secrets_and_the_conversation_goes_on() -> None:
    with serving() as path, ControlClient(path) as client:
        for command, kind, code in (("refuse", "InvalidRequest", InvalidRequest), ("log", "LogFailed", LogFailed)):
            with pytest.raises(ControlError) as caught:
                client.ask(command)
            assert (caught.value.kind, caught.value.error_type) == (kind, code)
            assert "abc" not in str(caught.value)
        assert client.ask("echo", b=2) == {"b": 2}


def test_a_bug_is_told_as_one_and_the_conversation_goes_on() -> None:
    with serving() as path, ControlClient(path) as client:
        with pytest.raises(ControlError, match="oops") as caught:
            client.ask("bug")
        assert (caught.value.kind, caught.value.error_type) == ("internal", Exception)
        assert client.ask("echo") == {}


def test_clients_that_hang_hold_up_nobody_and_are_dropped() -> None:
    limits = ControlLimits(request_s=2, answer_s=2, taking_s=2)
    with serving(limits) as path, socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as greedy:
        for client in (silent, greedy):
            client.settimeout(LIMIT_S)
            client.connect(str(path))
        silent.sendall(b'{"v": 1,')
        greedy.sendall(b'{"v": 1, "do": "big"}\n')
        assert asked(path, "echo", a=1) == {"a": 1}
        assert silent.recv(100) == b"", "dropped without an answer to what it never asked"
        hung_up = select.poll()
        hung_up.register(greedy, select.POLLHUP)
        assert hung_up.poll(LIMIT_S * 1000), "dropped, though it has taken nothing"


def test_a_command_that_takes_too_long_is_told_so() -> None:
    with serving(ControlLimits(answer_s=0.1)) as path, ControlClient(path) as client:
        with pytest.raises(ControlError, match=r"took more than 0.1 s; it may still succeed") as caught:
            client.ask("sleep")
        assert caught.value.error_type is DrvaUnreachable
        assert client.ask("echo") == {}


def test_one_client_too_many_is_told_so_and_served_when_another_has_gone() -> None:
    with serving(ControlLimits(connections=2)) as path:
        with ControlClient(path) as first, ControlClient(path) as second:
            assert (first.ask("echo"), second.ask("echo")) == ({}, {})
            (reply,) = talk(path, b'{"v":1,"do":"echo"}\n', ends=True)
            assert reply["error"]["kind"] == "DrvaBusy"
        for _ in range(1000):
            (reply,) = talk(path, b'{"v":1,"do":"echo"}\n')
            if reply["ok"]:
                break
        assert reply["ok"]


def test_a_stranger_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes itself for another user's. The client is neither that user nor root."""
    with serving() as path:
        monkeypatch.setattr("jetdr_core.drva.control_server.PRIVILEGED", -1)
        monkeypatch.setattr("jetdr_core.drva.control_server.os.getuid", lambda: 4711)
        (reply,) = talk(path, b'{"v":1,"do":"echo"}\n', ends=True)
        assert "may not control this DRVA; use the DRVA's account, or root" in reply["error"]["message"]


def test_the_socket_is_for_its_owner_only_and_goes_away_with_the_drva() -> None:
    with place("payroll") as here:
        with running(here):
            mode = here.socket.stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
            assert stat.S_IMODE(here.run.stat().st_mode) == 0o700
        assert not here.socket.exists()
        with pytest.raises(DrvaUnreachable, match=r"no DRVA at .*control.sock: No such file.*start the DRVA, or name"):
            here.ask("status")


def test_what_a_killed_drva_left_is_replaced() -> None:
    with place("payroll") as here:
        here.run.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(here.socket))
        with running(here):
            assert here.status()["state"] == "open"
        assert os.listdir(here.run) == ["drva.lock"]


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (
            {"command": "dance"},
            "there is no command 'dance'; there are: acknowledge, await_upload, copy_extents, grow_disk, keep_config",
        ),
        ({"command": "mark"}, "command 'mark' needs 'domain'"),
        ({"command": "mark", "domain": "other", "name": "m"}, "this DRVA has no domain 'other'; it has: payroll"),
        ({"command": "mark", "domain": "payroll"}, "command 'mark' needs 'name'"),
        ({"command": "mark", "domain": "payroll", "name": 7}, "name = 7 is not valid; give a string"),
        (
            {"command": "mark", "domain": "payroll", "name": "m", "force": True},
            "command 'mark' has no argument 'force'",
        ),
        ({"command": "mark", "domain": "payroll", "name": "latest"}, "mark name 'latest' would be read as a point"),
        ({"command": "status", "verbose": True}, "command 'status' has no argument 'verbose'"),
        ({"command": "await_upload", "domain": "payroll", "lsn": -1}, "lsn = -1 is not valid; give a whole number"),
        ({"command": "await_upload", "domain": "payroll", "lsn": 99999}, "LSN 99999 has not been written"),
        ({"command": "await_upload", "domain": "payroll", "lsn": 1, "limit_s": 1e9}, "a number from 0 to 30"),
        ({"command": "protect", "domain": "payroll", "disk": "d", "path": "rel"}, "path 'rel' is not absolute"),
        ({"command": "protect", "domain": "payroll", "disk": "d", "path": "/no\0"}, "is not absolute"),
        ({"command": "protect", "domain": "payroll", "disk": "d", "path": "/absent"}, "there is no /absent"),
        ({"command": "protect", "domain": "payroll", "disk": "db01", "path": "/x"}, "'db01' is protected already"),
        ({"command": "unprotect", "domain": "payroll", "disk": "d"}, "protects no disk 'd'; it protects db01"),
    ],
)
def test_what_a_command_cannot_do_is_told_and_changes_nothing(
    drva_socket: Path, request_: dict[str, Any], told: str
) -> None:
    arguments = dict(request_)
    with ControlClient(drva_socket) as client:
        with pytest.raises(ControlError) as caught:
            client.ask(arguments.pop("command"), **arguments)
        assert told in str(caught.value)
        found: Any = client.ask("status")
        assert found["domains"][0]["status"]["lsn_reserved"] == 1


@pytest.fixture(scope="module")
def drva_socket() -> Iterator[Path]:
    with place("payroll") as here, running(here):
        yield here.socket
