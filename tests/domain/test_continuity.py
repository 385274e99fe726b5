"""What a domain owes when it is opened: every combination of what can be found."""

from __future__ import annotations

import itertools

import pytest

from jetdr_core.domain.continuity import (
    NOTHING_OWED,
    Continuity,
    Found,
    HostFound,
    LogFound,
    RingFound,
    decide,
    found_embedded,
)

NO, YES = False, True


def can_be_found(found: Found) -> bool:
    """An embedded domain's ring ended with its process; all else may meet all else."""
    return found.host is not HostFound.EMBEDDED or found == found_embedded(found.log, disks=found.disks)


EVERYTHING = [
    found
    for found in itertools.starmap(
        Found, itertools.product(RingFound, LogFound, HostFound, (NO, YES), (NO, YES), (NO, YES), (NO, YES))
    )
    if can_be_found(found)
]


@pytest.mark.parametrize("found", EVERYTHING, ids=lambda found: "-".join(str(getattr(v, "name", v)) for v in found))
def test_nothing_that_may_differ_is_taken_for_equal(found: Found) -> None:
    owed = decide(found)
    assert sum([bool(owed.gap), bool(owed.stop), owed.replay]) <= 1
    if found.ring is RingFound.APART:
        assert owed.gap  # what lay between ring and log is lost
    elif found.ring is RingFound.KEPT:
        through = found.host is HostFound.DIED and not found.write_back
        assert bool(owed.stop) == (through and found.logging)  # with logging off a gap is owed by that alone
        assert not owed.gap
    elif found.log is LogFound.CLEAN or not found.disks:
        assert owed == NOTHING_OWED
    elif found.write_back and found.log is LogFound.UNCLEAN:
        assert owed.replay != found.bypassed  # replayed, unless writes bypassed the log
        assert bool(owed.gap) == found.bypassed
    else:
        assert owed.gap


def test_every_way_an_embedded_domain_can_be_left_is_in_the_table() -> None:
    embedded = [found for found in EVERYTHING if found.host is HostFound.EMBEDDED]
    assert {(found.log, found.disks): decide(found).gap for found in embedded} == {
        (LogFound.CLEAN, NO): "",
        (LogFound.CLEAN, YES): "",
        (LogFound.UNCLEAN, NO): "",
        (LogFound.UNCLEAN, YES): "unclean stop",
        (LogFound.NEW, NO): "",
        (LogFound.NEW, YES): "unclean stop",
    }


def test_a_domain_goes_on_where_ring_and_host_component_lived() -> None:
    lived = Found(
        RingFound.KEPT, LogFound.UNCLEAN, HostFound.ALIVE, logging=True, write_back=False, bypassed=False, disks=True
    )
    assert decide(lived) == Continuity()
