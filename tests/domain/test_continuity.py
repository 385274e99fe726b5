"""What a domain owes when it is opened: every combination of what can be found."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from jetdr_core.domain.continuity import (
    NOTHING_OWED,
    Continuity,
    Found,
    HostFound,
    LogFound,
    OnMismatch,
    RingFound,
    check_not_refused,
    decide,
    found_embedded,
)
from jetdr_core.domain.generation import Generation, Word
from jetdr_core.errors import GenerationMismatch, StoreAway

NO, YES = False, True
SILENT = (Word.SILENT, Word.SILENT, Word.SILENT)
AGREEING = {Word.SILENT, Word.AGREES}
DOUBTFUL = {Word.NEWER, Word.OLDER, Word.APART, Word.MISSING}
Owing = list[tuple[Found, Continuity]]


def can_be_found(found: Found) -> bool:
    """An embedded domain's ring ended with its process, and it is opened with its store only."""
    if found.host is not HostFound.EMBEDDED:
        return True
    if found.chain is Word.AWAY:
        return False
    embedded = found_embedded(found.log, disks=found.disks, chain=found.chain, changed=found.changed)
    return found == embedded._replace(on_mismatch=found.on_mismatch)


def places() -> Iterator[Found]:
    """Everything that may have survived, with every combination of flags, and no witness."""
    flags = itertools.product((NO, YES), repeat=4)
    for ring, log, host, (logging, write_back, bypassed, disks) in itertools.product(
        RingFound, LogFound, HostFound, list(flags)
    ):
        found = Found(ring, log, host, logging, write_back, bypassed, disks)
        if can_be_found(found):
            yield found


PLACES = list(places())


def everything(place: Found) -> Iterator[Found]:
    """That place with every word of every witness."""
    asked = [word for word in Word if word is not Word.AWAY]  # only the store can be away
    for chain, state, disk, changed, choice in itertools.product(Word, asked, asked, (NO, YES), OnMismatch):
        found = Found(*place[:7], chain, state, disk, changed, half_replayed=False, on_mismatch=choice)
        if can_be_found(found):
            yield found


@pytest.fixture(scope="module")
def owing() -> Owing:
    """Everything that can be found, with what is then owed."""
    return [(found, decide(found)) for found in itertools.chain.from_iterable(map(everything, PLACES))]


def test_a_log_that_was_cut_short_believes_no_dirty_map() -> None:
    found = found_embedded(LogFound.UNCLEAN, disks=True)
    assert decide(found).marked
    owed = decide(found._replace(cut_short=True))
    assert (owed.gap, owed.marked) == ("unclean stop, and the log was cut short", False)


def test_what_was_found_is_told_in_words() -> None:
    found = Found(
        RingFound.NONE, LogFound.UNCLEAN, HostFound.DIED, logging=False, write_back=True, bypassed=False, disks=True
    )
    assert str(found) == (
        "ring: there is none, or the log has long left it; log: its last owner did not close it; "
        "host component: a host component died; writes bypassed the log"
    )


@pytest.mark.parametrize("found", PLACES, ids=lambda found: "-".join(str(getattr(v, "name", v)) for v in found[:7]))
def test_nothing_that_may_differ_is_taken_for_equal(found: Found) -> None:
    owed = decide(found)
    assert sum([bool(owed.gap), bool(owed.stop), owed.replay]) <= 1
    rests = found.log is LogFound.CLEAN and found.host is HostFound.ENDED
    if found.ring is RingFound.APART:
        assert owed.gap  # what lay between ring and log is lost
    elif found.ring is RingFound.KEPT and not rests:
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


def test_a_log_is_replayed_only_on_the_word_of_all_witnesses_or_on_purpose(owing: Owing) -> None:
    for found, owed in owing:
        if owed.replay:
            assert found.write_back
            assert found.disks
            assert found.log is LogFound.UNCLEAN
            agree = {found.chain, found.state, found.disk} <= AGREEING or found.host is HostFound.ALIVE
            if found.chain is Word.AWAY:  # then nobody may be silent either
                agree = found.state is found.disk is Word.AGREES or found.host is HostFound.ALIVE
            assert agree or found.on_mismatch is OnMismatch.REPLAY


def test_a_log_that_a_witness_contradicts_is_never_believed(owing: Owing) -> None:
    """Unless a host component lives, which knows better, or nothing is protected."""
    for found, owed in owing:
        contradicted = {found.chain, found.state, found.disk} & {Word.NEWER, Word.APART} or found.chain is Word.OLDER
        if contradicted and found.disks and found.host is not HostFound.ALIVE and found.log is not LogFound.NEW:
            assert owed.gap or owed.refusal or owed.wait or (owed.replay and found.on_mismatch is OnMismatch.REPLAY)


def test_only_write_back_is_refused_and_only_until_somebody_chooses(owing: Owing) -> None:
    for found, owed in owing:
        if owed.refusal and found.chain is not Word.APART:
            assert found.write_back
            assert found.on_mismatch is OnMismatch.REFUSE
        if owed.refusal:
            assert owed == Continuity(refusal=owed.refusal)
            with pytest.raises(GenerationMismatch, match=r"take the domain over|on_mismatch"):
                check_not_refused("payroll", found)


def test_what_is_refused_does_not_depend_on_the_ring(owing: Owing) -> None:
    """It is refused before the domain is claimed, and the ring is looked at after that."""
    for found in {found._replace(ring=RingFound.NONE) for found, _ in owing}:
        rings = {bool(decide(found._replace(ring=ring)).refusal) for ring in RingFound}
        assert len(rings) == 1


def test_a_changed_disk_is_resynced_where_nothing_else_is_owed(owing: Owing) -> None:
    for found, owed in owing:
        if found.changed and found.disks and found.log is LogFound.CLEAN and found.host is not HostFound.ALIVE:
            kept = found.ring is RingFound.KEPT and found.host is HostFound.DIED  # the ring tells more than a stop did
            assert owed.resync or owed.gap or owed.refusal or owed.wait or kept


def test_without_its_store_a_domain_goes_on_as_with_one_that_agrees_or_waits(owing: Owing) -> None:
    for found, owed in owing:
        if found.chain is not Word.AWAY:
            continue
        if owed.wait:
            assert owed == Continuity(wait=owed.wait)
            assert found.disks
            assert found.host is not HostFound.ALIVE  # its guests go on
            assert found.write_back or {found.log, found.state, found.disk} & {LogFound.NEW, *DOUBTFUL}
            with pytest.raises(StoreAway, match="waits for its store"):
                check_not_refused("payroll", found)
        else:
            assert owed == decide(found._replace(chain=Word.AGREES))


def test_without_its_store_no_log_is_replayed_that_anybody_is_silent_about() -> None:
    """What the store would say decides nothing then: it is the same for a store of any age."""
    back = Found(
        RingFound.NONE,
        LogFound.UNCLEAN,
        HostFound.ENDED,
        logging=True,
        write_back=True,
        bypassed=False,
        disks=True,
        chain=Word.AWAY,
    )
    for state, disk in itertools.product(set(Word) - {Word.AWAY}, repeat=2):
        owed = decide(back._replace(state=state, disk=disk))
        assert owed.replay == (state is disk is Word.AGREES)
        assert bool(owed.wait) != owed.replay


def test_every_way_an_embedded_domain_can_be_left_is_in_the_table() -> None:
    embedded = [found for found in PLACES if found.host is HostFound.EMBEDDED]
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


def test_generations_are_compared_by_epoch_and_then_by_nonce() -> None:
    one, other, unknown = bytes([1]) * 16, bytes([2]) * 16, bytes(16)
    log = Generation(5, one)
    words = {
        Word.AGREES: [Generation(5, one), Generation(5, unknown)],
        Word.APART: [Generation(5, other)],
        Word.NEWER: [Generation(6, one), Generation(6, unknown)],
        Word.OLDER: [Generation(4, one), Generation(4, unknown)],
    }
    for word, witnesses in words.items():
        assert {log.word_of(witness) for witness in witnesses} == {word}
    assert Generation(0).word_of(Generation(3, one)) is Word.SILENT
    assert Generation.parse(str(log)) == log
    assert Generation.parse("5") == Generation(5)
