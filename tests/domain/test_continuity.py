"""What a hosted domain owes when it is opened: every combination of what can be found."""

from __future__ import annotations

import itertools

import pytest

from jetdr_core.domain.hosting.continuity import Continuity, Found, HostFound, LogFound, RingFound, decide

NO, YES = False, True
EVERYTHING = [
    Found(*found) for found in itertools.product(RingFound, LogFound, HostFound, (NO, YES), (NO, YES), (NO, YES))
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
    elif found.log is LogFound.CLEAN:
        assert owed == Continuity()
    elif found.write_back and found.log is LogFound.UNCLEAN:
        assert owed.replay != found.marker  # replayed, unless writes went past the log
        assert bool(owed.gap) == found.marker
    else:
        assert owed.gap


def test_a_domain_goes_on_where_ring_and_host_component_lived() -> None:
    lived = Found(RingFound.KEPT, LogFound.UNCLEAN, HostFound.ALIVE, logging=True, write_back=False, marker=False)
    assert decide(lived) == Continuity()
