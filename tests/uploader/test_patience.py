"""What a store refuses is tried again, one call at a time, until it is granted. Everything else is raised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from jetdr_core.errors import (
    ChainBroken,
    JetdrError,
    ObjectExists,
    ObjectNotFound,
    ObjectUnavailable,
    StoreAccessDenied,
    StoreError,
    StoreLost,
)
from tests.uploader.listed_source import patience

REFUSALS = [
    StoreAccessDenied("put", "key", "HTTP 403 AuthorizationPermissionMismatch"),
    StoreAccessDenied("put", "key", "HTTP 403 AuthorizationFailure"),
    StoreError("put", "key", "Read-only file system", transient=False),
    StoreError("put", "key", "HTTP 409 ContainerQuotaExceeded", transient=False),
    StoreError("list", "", "HTTP 400", transient=False),
]
RAISED: list[JetdrError] = [
    StoreError("put", "key", "no answer", transient=True),
    ObjectExists("put", "key"),
    ObjectNotFound("get", "key"),
    ObjectUnavailable("get", "key", "cannot be read"),
    StoreLost("put", "key", "another object has taken its place"),
    ChainBroken("other bytes"),
]


def failing(*errors: JetdrError) -> Callable[[], Awaitable[str]]:
    """A call that raises each of ``errors``, and then returns."""
    rest = list(errors)

    async def attempt() -> str:
        if rest:
            raise rest.pop(0)
        return "done"

    return attempt


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.cause)
def test_a_refusal_is_waited_for_and_told(error: StoreError, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        waiting = patience()
        doing = asyncio.ensure_future(waiting.until_granted(failing(error, error)))
        await asyncio.sleep(0)
        assert waiting.refusal is not None
        since_ns = waiting.refusal.since_ns
        assert str(error) == waiting.refusal.why
        await asyncio.sleep(0.15)
        assert waiting.refusal is not None
        assert waiting.refusal.since_ns == since_ns, "it is one refusal"
        waiting.hurry()
        assert await doing == "done"
        assert waiting.refusal is None

    asyncio.run(scenario())
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        f"puts are refused, and tried again: {error}"
    ]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_else_goes_wrong_is_raised_at_once_and_after_a_refusal(error: JetdrError) -> None:
    async def scenario() -> None:
        waiting = patience()
        with pytest.raises(type(error)):
            await waiting.until_granted(failing(error))
        assert waiting.refusal is None
        with pytest.raises(type(error)):
            await waiting.until_granted(failing(REFUSALS[0], error))
        assert waiting.refusal is None, "it is over"

    asyncio.run(scenario())


def test_one_refused_call_is_tried_at_a_time_and_all_are_granted_at_the_end() -> None:
    async def scenario() -> None:
        waiting, refusing, running, most = patience(), True, 0, 0

        async def attempt() -> None:
            nonlocal running, most
            running += 1
            if attempts > 4:
                most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            if refusing:
                raise REFUSALS[0]

        attempts = 0
        calls = [asyncio.ensure_future(waiting.until_granted(attempt)) for _ in range(4)]
        await asyncio.sleep(0.01)
        attempts = 5
        await asyncio.sleep(0.15)
        refusing = False
        waiting.hurry()
        await asyncio.gather(*calls)
        assert most == 1
        assert waiting.refusal is None

    asyncio.run(scenario())


def test_a_call_that_is_cancelled_leaves_its_turn_to_the_next() -> None:
    async def scenario() -> None:
        waiting = patience()
        first = asyncio.ensure_future(waiting.until_granted(failing(*REFUSALS * 9)))
        second = asyncio.ensure_future(waiting.until_granted(failing(REFUSALS[0])))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0)
        waiting.hurry()
        assert await second == "done"

    asyncio.run(scenario())
