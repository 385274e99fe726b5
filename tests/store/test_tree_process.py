"""The process that does a directory store's I/O: it may hang, die and be given up, and the store says so."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core.errors import InvalidRequest, ObjectExists, StoreError, StoreLost
from jetdr_core.store import DirectoryStore, RetryingStore
from jetdr_core.store.tree import FileSystemAway, PathMoved
from jetdr_core.store.tree_call import CallAnswer, CallRequest, TreeCall, TreeStep
from jetdr_core.store.tree_process import CALLS_MAX
from tests.host.guest import pause
from tests.peers.sick_disk import children, hanging_threads, sick_disk

LIMIT_S = 30.0


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``limit(0.5)``: from now on a call is given up after so many seconds."""
    return lambda seconds: monkeypatch.setattr("jetdr_core.store.tree_process.ANSWER_LIMIT_S", seconds)


def on_store(path: Path, scenario: Callable[[DirectoryStore], Awaitable[None]]) -> None:
    async def scene() -> None:
        store = DirectoryStore(path, create=True, apart=True)
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(scene())


def worker() -> int:
    """Return the one process that does I/O for this one."""
    (pid,) = (pid for pid in children(os.getpid()) if b"tree_worker" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return pid


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    return pid not in children(os.getpid())


def test_a_process_that_hangs_is_a_transient_error_and_its_answer_is_still_taken(
    limit: Callable[[float], None], tmp_path: Path
) -> None:
    async def scenario(store: DirectoryStore) -> None:
        await store.put_if_absent("a", [b"1"])
        pause(worker())
        limit(0.5)
        with pytest.raises(StoreError, match="file system has not answered for") as caught:
            await store.put_if_absent("b", [b"2"])
        assert caught.value.transient
        assert str(tmp_path) in caught.value.cause
        with pytest.raises(StoreError, match="has not answered"):
            await store.get("a")
        limit(LIMIT_S)
        again = asyncio.gather(store.put_if_absent("b", [b"other"]), store.get("a"), return_exceptions=True)
        os.kill(worker(), signal.SIGCONT)
        put, got = await again
        assert isinstance(put, ObjectExists)  # the call that was given up has happened, and it came first
        assert got == b"1"
        assert await store.get("b") == b"2"

    on_store(tmp_path / "c", scenario)


def test_however_often_a_hanging_store_is_tried_only_so_many_calls_wait_in_it(
    limit: Callable[[float], None], tmp_path: Path
) -> None:
    async def scenario(store: DirectoryStore) -> None:
        await store.put_if_absent("a", [b"1"])
        pause(worker())
        limit(0.5)
        puts = [store.put_if_absent(f"k/{number}", [b"x"]) for number in range(4 * CALLS_MAX)]
        assert all(isinstance(error, StoreError) for error in await asyncio.gather(*puts, return_exceptions=True))
        limit(LIMIT_S)
        os.kill(worker(), signal.SIGCONT)
        await store.put_if_absent("b", [b"2"])
        assert len(list((tmp_path / "c/k").iterdir())) <= CALLS_MAX

    on_store(tmp_path / "c", scenario)


def test_a_file_system_that_is_only_slow_is_read_in_the_end(limit: Callable[[float], None], tmp_path: Path) -> None:
    """A read that is tried again does not begin anew: it takes the answer of the read that was given up."""

    async def scenario(store: DirectoryStore) -> None:
        await store.put_if_absent("a", [b"1"])
        pause(worker())
        (tmp_path / "c/a").rename(tmp_path / "c/gone")
        first, again = store.get("gone"), store.get("gone")
        limit(0.5)
        with pytest.raises(StoreError, match="has not answered"):
            await first
        limit(LIMIT_S)
        reading = asyncio.ensure_future(again)
        os.kill(worker(), signal.SIGCONT)
        assert await reading == b"1"

    on_store(tmp_path / "c", scenario)


def test_a_cancelled_call_and_a_close_do_not_wait_for_a_process_that_hangs(tmp_path: Path) -> None:
    async def scenario(store: DirectoryStore) -> None:
        await store.put_if_absent("a", [b"1"])
        pid = worker()
        pause(pid)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.put_if_absent("b", [b"2"]), 0.1)
        await store.close()
        assert time.monotonic() - started < 10
        await until(lambda: is_gone(pid))

    on_store(tmp_path / "c", scenario)


def test_after_a_process_has_died_the_next_call_has_another_one(tmp_path: Path) -> None:
    async def scenario(store: DirectoryStore) -> None:
        await store.put_if_absent("a", [b"1"])
        pid = worker()
        pause(pid)
        calls = [asyncio.ensure_future(store.get(key)) for key in ("a", "b")]
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        for call in calls:
            with pytest.raises(StoreError, match="the process that does its I/O has ended") as caught:
                await call
            assert caught.value.transient
        assert await store.get("a") == b"1"
        assert worker() != pid

    on_store(tmp_path / "c", scenario)


@pytest.mark.parametrize("made_anew", [False, True])
def test_another_process_takes_no_other_directory_for_the_store_and_makes_none(made_anew: bool, tmp_path: Path) -> None:
    async def scenario(store: DirectoryStore) -> None:
        await store.put_if_absent("a", [b"1"])
        pid = worker()
        (tmp_path / "c").rename(tmp_path / "moved")
        if made_anew:
            (tmp_path / "c").mkdir()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: is_gone(pid))
        with pytest.raises(StoreLost):
            await RetryingStore(store).put_if_absent("b", [b"2"])

    on_store(tmp_path / "c", scenario)
    assert list(tmp_path.glob("*/b")) == []
    assert (tmp_path / "c").exists() == made_anew


def test_a_missing_directory_is_refused_by_the_first_call(tmp_path: Path) -> None:
    async def scenario(place: Path, said: str) -> None:
        store = DirectoryStore(place, apart=True)
        for _ in range(2):
            with pytest.raises(InvalidRequest, match=said):
                await store.get("a")
        await store.close()

    (tmp_path / "file").touch()
    asyncio.run(scenario(tmp_path / "missing", "does not exist"))
    asyncio.run(scenario(tmp_path / "file", "is not a directory"))


OWNER = """
import asyncio, os, pathlib, sys
from jetdr_core.store import DirectoryStore

async def main():
    store = DirectoryStore(pathlib.Path(sys.argv[1]), create=True, apart=True)
    await store.put_if_absent("a", [b"1"])
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_the_process_ends_with_its_owner_ignores_the_owners_signals_and_knows_no_secret(tmp_path: Path) -> None:
    safe_path = ["-P"] if sys.flags.safe_path else []
    command = [sys.executable, *safe_path, "-c", OWNER, str(tmp_path / "c")]
    environment = os.environ | {"AZURE_STORAGE_KEY": "c2VjcmV0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        (pid,) = children(owner.pid)
        assert b"AZURE" not in Path(f"/proc/{pid}/environ").read_bytes()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        assert children(owner.pid) == [pid]
        owner.kill()
    deadline = time.monotonic() + LIMIT_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_while_a_process_that_was_given_up_hangs_no_other_one_is_started(
    peer: Callable[[str], str], limit: Callable[[float], None], tmp_path: Path
) -> None:
    with sick_disk(peer, tmp_path) as disk:

        async def scene() -> None:
            path = disk.folder / "c"
            first = DirectoryStore(path, create=True, apart=True)
            await first.put_if_absent("a", [b"1"])
            pid = worker()
            disk.hang()
            limit(0.5)
            with pytest.raises(StoreError, match="has not answered"):
                await first.put_if_absent("b", [b"2"])
            await first.close()
            processes = children(os.getpid())
            second = DirectoryStore(path, apart=True)
            with pytest.raises(StoreError, match="the process that last used it") as caught:
                await second.get("a")
            assert caught.value.transient
            assert hanging_threads(pid)
            assert children(os.getpid()) == processes  # and no other
            limit(LIMIT_S)
            disk.go_on()
            assert await RetryingStore(second).get("a") == b"1"
            await second.close()

        asyncio.run(scene())


# -- messages ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**64 - 1), st.sampled_from(TreeStep), st.text("abc/.-", max_size=512), st.integers(0, 2**63))
def test_a_request_is_what_was_sent(number: int, step: TreeStep, key: str, offset: int) -> None:
    request = CallRequest(number, TreeCall(step, key, offset, offset // 2))
    assert CallRequest.decoded(request.encoded()) == request


def noted(error: OSError, *notes: str) -> OSError:
    for note in notes:
        error.add_note(note)
    return error


ERRORS = [
    noted(OSError(28, "No space left on device"), "writing 5 bytes", "making a file"),
    PathMoved(),
    FileSystemAway(),
    EOFError("k"),
    RuntimeError("bug " * 5000),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_kind_code_and_text(error: Exception) -> None:
    got = CallAnswer.decoded(CallAnswer(7, error).encoded())
    assert got.number == 7
    assert type(got.error) is type(error)
    if isinstance(error, OSError):
        assert isinstance(got.error, OSError)
        assert (got.error.errno, got.error.strerror) == (error.errno, error.strerror)
        assert got.error.__notes__ == error.__notes__
    assert CallAnswer.decoded(CallAnswer(8).encoded()) == CallAnswer(8)


@given(st.binary(max_size=5000))
def test_no_bytes_are_decoded_to_more_than_they_are(message: bytes) -> None:
    for kind in (CallRequest, CallAnswer):
        try:
            got = kind.decoded(message)
        except ValueError:
            continue
        assert len(got.encoded()) <= len(message) + 64
