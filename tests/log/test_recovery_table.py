"""The decision table: every combination of facts has exactly one case, and no case decides against the promises."""

from __future__ import annotations

import itertools

import pytest

from jetdr_core.replication_log.defect import Defect
from jetdr_core.replication_log.recovery_table import CASES, Decision, Facts, decide

COMBINATIONS = [
    Facts(defect, *bits)
    for defect in (None, *Defect)
    for bits in itertools.product((False, True), repeat=len(Facts._fields) - 1)
]


def is_whole(facts: Facts) -> bool:
    return facts.defect is None


def test_every_combination_of_facts_matches_exactly_one_case() -> None:
    for facts in COMBINATIONS:
        matching = [case.label for case in CASES if case.matches(facts)]
        assert len(matching) == 1, (facts, matching)


def test_every_case_is_reached_by_some_facts() -> None:
    assert {decide(facts).label for facts in COMBINATIONS} == {case.label for case in CASES}


def test_labels_are_unique_and_each_case_has_its_story() -> None:
    assert len({case.label for case in CASES}) == len(CASES)
    assert all(case.story for case in CASES)


def test_a_whole_next_batch_is_always_followed_and_no_other() -> None:
    assert all((decide(facts).decision is Decision.FOLLOW) == is_whole(facts) for facts in COMBINATIONS)


def test_nothing_known_to_be_durable_is_cut() -> None:
    known = [facts for facts in COMBINATIONS if facts.durable_by_superblock or facts.durable_by_later]
    assert all(decide(facts).decision is not Decision.CUT for facts in known)


def test_what_nobody_knew_durable_is_never_called_damage() -> None:
    unknown = [facts for facts in COMBINATIONS if not facts.durable_by_superblock and not facts.durable_by_later]
    assert all(decide(facts).decision is not Decision.DAMAGED for facts in unknown)


@pytest.mark.parametrize(
    ("defect", "known", "label"),
    [
        (None, "100", "the next batch"),
        (None, "001", "a batch after a clean end"),
        (Defect.NO_HEADER, "000", "no header, at the torn end"),
        (Defect.OTHER_NUMBER, "001", "a header of another number, after a clean end"),
        (Defect.BROKEN_PAYLOAD, "010", "broken payload, though a later batch knew it durable"),
        (Defect.OTHER_SECTION, "101", "another section's header, though the superblock knew it durable"),
    ],
)
def test_cases_are_told_apart_by_name(defect: Defect | None, known: str, label: str) -> None:
    """``known``: by the superblock, by a later batch, and whether the log was closed clean."""
    assert decide(Facts(defect, *(fact == "1" for fact in known))).label == label
