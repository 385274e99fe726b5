"""What the retrying store promises: only transient failures are retried, within the policy, and nothing is hidden."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest

from jetdr_core.errors import InvalidRequest, ObjectExists, ObjectNotFound, StoreAccessDenied, StoreError
from jetdr_core.store import MemoryStore, ObjectRange, RetryingStore, RetryPolicy
from tests.faults.store import Fault, FaultyStore, Plan, on, scripted


class Scene:
    """A retrying store over a faulty one. Only waits move its clock, and chance always gives the upper bound."""

    def __init__(self, plan: Plan, policy: RetryPolicy | None = None) -> None:
        self.waits: list[float] = []
        self.now = 0.0
        self.faulty = FaultyStore(MemoryStore(), plan)
        self.store = RetryingStore(
            self.faulty, policy, sleep=self._sleep, uniform=lambda _low, high: high, clock=lambda: self.now
        )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def play(scene: Scene, scenario: Callable[[RetryingStore], Awaitable[None]]) -> Scene:
    async def run() -> None:
        await scenario(scene.store)

    asyncio.run(run())
    return scene


def test_transient_failure_is_retried_until_it_succeeds() -> None:
    async def scenario(store: RetryingStore) -> None:
        await store.put_if_absent("k", [b"x"])
        assert await store.get("k") == b"x"

    scene = play(Scene(scripted(Fault.FAIL, Fault.THROTTLED, None, Fault.FAIL)), scenario)
    assert scene.faulty.keys("put") == ["k"] * 3
    assert scene.store.retries == {"put": 2, "get": 1}


def test_waits_double_up_to_the_cap() -> None:
    async def scenario(store: RetryingStore) -> None:
        await store.get_range("k", 0, 1)

    scene = Scene(scripted(*[Fault.FAIL] * 6), RetryPolicy(delay_base_s=0.5, delay_cap_s=4.0))
    with pytest.raises(ObjectNotFound):
        play(scene, scenario)
    assert scene.waits == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_jitter_is_uniform_from_zero_to_the_bound() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.0

    async def run() -> None:
        faulty = FaultyStore(MemoryStore(), scripted(Fault.FAIL, Fault.FAIL))
        store = RetryingStore(faulty, RetryPolicy(delay_base_s=0.5), uniform=uniform)
        await store.delete("k")

    asyncio.run(run())
    assert asked == [(0.0, 0.5), (0.0, 1.0)]


def test_attempts_end_with_the_last_error() -> None:
    async def scenario(store: RetryingStore) -> None:
        with pytest.raises(StoreError, match="busy") as caught:
            await store.replace("k", [b"x"])
        assert caught.value.transient

    scene = play(Scene(on("replace", Fault.THROTTLED), RetryPolicy(attempts_max=4)), scenario)
    assert scene.faulty.keys("replace") == ["k"] * 4
    assert scene.store.retries == {"replace": 3}


def test_no_attempt_begins_after_the_deadline() -> None:
    async def scenario(store: RetryingStore) -> None:
        with pytest.raises(StoreError):
            await store.get("k")

    policy = RetryPolicy(attempts_max=1000, deadline_s=10.0, delay_base_s=1.0, delay_cap_s=4.0)
    scene = play(Scene(on("get", Fault.FAIL), policy), scenario)
    assert scene.waits == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("operation", ["put", "replace", "get", "get range", "list", "delete"])
def test_lasting_failure_is_not_retried(operation: str) -> None:
    async def scenario(store: RetryingStore) -> None:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "put": lambda: store.put_if_absent("k", [b"x"]),
            "replace": lambda: store.replace("k", [b"x"]),
            "get": lambda: store.get("k"),
            "get range": lambda: store.get_range("k", 0, 1),
            "list": lambda: anext(store.list_prefix("")),
            "delete": lambda: store.delete("k"),
        }
        with pytest.raises(StoreAccessDenied):
            await calls[operation]()

    scene = play(Scene(on(operation, Fault.DENIED)), scenario)
    assert len(scene.faulty.calls) == 1
    assert scene.waits == []


def test_put_whose_answer_was_lost_meets_its_own_object() -> None:
    async def scenario(store: RetryingStore) -> None:
        with pytest.raises(ObjectExists):
            await store.put_if_absent("k", [b"mine"])
        assert await store.get("k") == b"mine"

    scene = play(Scene(on("put", Fault.LOST_RESPONSE, times=1)), scenario)
    assert scene.store.retries == {"put": 1}


def test_lost_answers_do_not_harm_what_may_be_repeated() -> None:
    async def scenario(store: RetryingStore) -> None:
        await store.replace("k", [b"x"])
        assert await store.get("k") == b"x"
        await store.delete("k")
        assert [row async for row in store.list_prefix("")] == []

    lost, fine = Fault.LOST_RESPONSE, None
    scene = play(Scene(scripted(lost, fine, lost, fine, lost, fine, lost, fine)), scenario)
    assert scene.store.retries == {"replace": 1, "get": 1, "delete": 1, "list": 1}


def test_cut_listing_goes_on_without_a_row_missing_or_doubled() -> None:
    names = [f"k/{number:02d}" for number in range(20)]

    async def scenario(store: RetryingStore) -> None:
        for name in names:
            await store.put_if_absent(name, [b""])
        assert [row.key async for row in store.list_prefix("k/")] == names

    scene = play(Scene(on("list", Fault.HALF_LISTING, times=1), RetryPolicy(attempts_max=2)), scenario)
    assert scene.store.retries == {"list": 1}


def test_silent_corruption_is_not_the_retries_business() -> None:
    async def scenario(store: RetryingStore) -> None:
        await store.put_if_absent("k", [b"abcd"])
        assert await store.get("k") == b"ab"
        assert await store.get_range("k", 0, 4) not in {b"abcd", b""}

    scene = play(Scene(scripted(None, Fault.HALF_BODY, Fault.WRONG_BYTES)), scenario)
    assert scene.waits == []


def test_cancellation_ends_the_waiting() -> None:
    async def run() -> None:
        waiting = asyncio.Event()

        async def sleep(_seconds: float) -> None:
            waiting.set()
            await asyncio.Event().wait()

        store = RetryingStore(FaultyStore(MemoryStore(), on("get", Fault.FAIL)), sleep=sleep)
        call = asyncio.ensure_future(store.get("k"))
        await waiting.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(run())


@pytest.mark.parametrize(
    "bad",
    [
        {"attempts_max": 0},
        {"deadline_s": -1.0},
        {"deadline_s": math.nan},
        {"delay_base_s": -0.1},
        {"delay_base_s": 5.0, "delay_cap_s": 1.0},
    ],
)
def test_impossible_policy_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest):
        RetryPolicy(**bad)  # type: ignore[arg-type]


def test_endless_policy_never_overflows() -> None:
    policy = RetryPolicy(attempts_max=10**9, deadline_s=math.inf)
    assert policy.delay_max_s(10**8) == policy.delay_cap_s


def test_a_store_that_fails_for_long_says_since_when_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    scene = Scene(on("put", Fault.FAIL, times=12), RetryPolicy(100, math.inf, 1.0, 1.0))
    seen: list[tuple[float, str]] = []

    async def scenario(store: RetryingStore) -> None:
        async def look(_seconds: float) -> None:
            scene.now += 1.0
            seen.append(store.away)
            with pytest.raises(ObjectNotFound):
                await store.get("k")  # other operations go on, and end no outage

        store._sleep = look
        await store.put_if_absent("k2", [b"x"])

    play(scene, scenario)
    assert [seconds for seconds, _ in seen] == [float(n) for n in range(1, 13)]
    assert all("put 'k2'" in cause for _, cause in seen)
    assert scene.store.away == (0.0, "")
    texts = [record.getMessage() for record in caplog.records if record.name == "jetdr_core.store.retry"]
    assert len(texts) == 2
    assert "is away, and is tried again: put 'k2'" in texts[0]
    assert "its outage of 12 s is over" in texts[1]


def test_an_operation_that_is_given_up_is_no_outage_any_more() -> None:
    async def scenario(store: RetryingStore) -> None:
        with pytest.raises(StoreError):
            await store.get("k")

    scene = play(Scene(on("get", Fault.FAIL), RetryPolicy(attempts_max=4)), scenario)
    assert scene.store.away == (0.0, "")


def test_only_ranges_that_failed_are_got_again() -> None:
    async def scenario(store: RetryingStore) -> None:
        for key in "abc":
            await store.put_if_absent(key, [key.encode()])
        wanted = [ObjectRange(key, 0, 1) for key in "abcd"]
        a, b, c, d = await store.get_ranges(wanted)
        assert (a, b, c) == (b"a", b"b", b"c")
        assert isinstance(d, ObjectNotFound)

    plan = scripted(None, None, None, None, Fault.FAIL, None, None, Fault.THROTTLED, None)
    scene = play(Scene(plan), scenario)
    assert scene.faulty.keys("get range") == ["a", "b", "c", "d", "b", "b"]
    assert scene.store.retries == {"get range": 2}


def test_ranges_that_never_come_keep_their_errors_beside_those_that_came() -> None:
    def plan(operation: str, key: str, _number: int) -> Fault | None:
        return Fault.THROTTLED if operation == "get range" and key == "b" else None

    async def scenario(store: RetryingStore) -> None:
        for key in "ab":
            await store.put_if_absent(key, [key.encode()])
        a, b = await store.get_ranges([ObjectRange("a", 0, 1), ObjectRange("b", 0, 1)])
        assert a == b"a"
        assert isinstance(b, StoreError)
        assert b.transient
        assert store.away == (0.0, "")

    scene = play(Scene(plan, RetryPolicy(attempts_max=3)), scenario)
    assert scene.faulty.keys("get range") == ["a", "b", "b", "b"]


def test_attempts_are_counted_anew_after_a_round_that_got_something() -> None:
    failures = {"a": 2, "b": 4}

    def plan(operation: str, key: str, _number: int) -> Fault | None:
        if operation != "get range" or not failures[key]:
            return None
        failures[key] -= 1
        return Fault.FAIL

    async def scenario(store: RetryingStore) -> None:
        for key in "ab":
            await store.put_if_absent(key, [key.encode()])
        assert await store.get_ranges([ObjectRange("a", 0, 1), ObjectRange("b", 0, 1)]) == [b"a", b"b"]

    play(Scene(plan, RetryPolicy(attempts_max=3)), scenario)
