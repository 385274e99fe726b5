"""A short soak of each kind, and tests of what a soak relies on. ``./check soak`` runs for as long as one likes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.soak.model import BLOCK_BYTES, Model
from tests.soak.soak import soak
from tests.soak.soak_plan import ENDS_STOP, UNDONE_BY, Act, plan

SECONDS = 5
"""A new episode begins until this time has passed. With the start and the last checks, a soak takes about 25 s."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [0, 3])
def test_a_domain_under_load_kills_and_outages_loses_nothing(
    seed: int, peer: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 0 runs write-through with the log in a file, seed 3 runs write-back with the log on a LUN."""
    peer("nbdkit")
    peer("tgtd")
    report = soak(seed, SECONDS)
    print(report)
    assert report.requests.total() > 0
    assert report.acts


def test_the_same_seed_gives_the_same_plan_and_every_episode_ends_well() -> None:
    for seed in range(40):
        assert plan(seed) == plan(seed)
        for number in range(10):
            steps = plan(seed).episode(number)
            assert steps == plan(seed).episode(number)
            assert_undone([step.act for step in steps])


def assert_undone(acts: list[Act]) -> None:
    away: set[Act] = set()
    for act in acts:
        assert not (act is Act.CONTINUE_DRVA and Act.KILL_DRVA in away)
        assert not (act is Act.CONTINUE_TARGET and Act.KILL_TARGET in away)
        away -= {begun for begun, end in UNDONE_BY.items() if end is act}
        away -= {begun for begun, end in UNDONE_BY.items() if end is ENDS_STOP.get(act)}
        if act in UNDONE_BY:
            away.add(act)
    assert not away


def test_the_model_knows_a_lost_write_a_foreign_block_and_a_torn_one() -> None:
    model = Model(1, 4)
    first, second = (model.begin(0, 1, zeros=False) for _ in range(2))
    for write in (first, second):
        model.acknowledged(write)
        model.read(0, model.reading(0, 1), model.data(write))  # both were in flight at once
    third = model.begin(0, 1, zeros=False)
    model.acknowledged(third)
    before = model.reading(0, 1)
    model.read(0, before, model.data(third))
    for wrong in (model.data(first), model.data(second), bytes(BLOCK_BYTES), model.data(third)[:-8] + bytes(8)):
        with pytest.raises(AssertionError, match="disk 1"):
            model.read(0, before, wrong)
    with pytest.raises(AssertionError, match="disk 1"):
        model.read(1, model.reading(1, 1), model.data(third))


def test_the_model_lets_a_broken_write_come_about_or_not_but_never_later() -> None:
    model = Model(1, 1)
    kept, broken = model.begin(0, 1, zeros=False), model.begin(0, 1, zeros=False)
    model.acknowledged(kept)
    model.broken(broken)
    model.read(0, model.reading(0, 1), model.data(broken))
    model.settled(model.data(kept))
    with pytest.raises(AssertionError, match="disk 1"):
        model.settled(model.data(broken))
