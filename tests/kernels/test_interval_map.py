"""IntervalMap against a map of bytes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core._kernels import IntervalMap

pytestmark = pytest.mark.native

SPACE = 160
PIECES = st.lists(st.tuples(st.integers(0, SPACE - 1), st.integers(0, 48)), max_size=60)


def columns(pieces: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(pieces, np.uint64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def runs(owned: list[bool]) -> list[tuple[int, int]]:
    edges = [at for at in range(len(owned) + 1) if (at > 0 and owned[at - 1]) != (at < len(owned) and owned[at])]
    return list(zip(edges[::2], edges[1::2], strict=True))


@given(st.lists(PIECES, max_size=4))
def test_each_byte_goes_to_the_first_piece_that_covers_it(batches: list[list[tuple[int, int]]]) -> None:
    intervals = IntervalMap()
    covered = [False] * (SPACE + 48)
    for pieces in batches:
        expected = []
        for source, (offset, length) in enumerate(pieces):
            fresh = [offset <= at < offset + length and not covered[at] for at in range(len(covered))]
            expected += [(source, start, end - start) for start, end in runs(fresh)]
            covered[offset : offset + length] = [True] * length
        assert [tuple(map(int, row)) for row in intervals.overlay(*columns(pieces))] == expected
        assert intervals.covered_bytes == sum(covered)
        assert [tuple(map(int, row)) for row in intervals.intervals()] == runs(covered)
        assert len(intervals) == len(runs(covered))


def test_large_random_map_matches_a_byte_map_and_stays_within_32_bytes_a_node() -> None:
    random = np.random.default_rng(7)
    blocks = 200_000
    offsets = random.integers(0, blocks, 150_000)
    lengths = random.integers(1, 4, len(offsets))
    intervals = IntervalMap()
    rows = intervals.overlay(offsets * 512, lengths * 512)
    owner = np.full(blocks + 4, -1)
    for source in range(len(offsets) - 1, -1, -1):
        owner[offsets[source] : offsets[source] + lengths[source]] = source
    assert intervals.covered_bytes == int((owner >= 0).sum()) * 512
    rebuilt = np.full(blocks + 4, -1)
    for source, offset, length in rows.tolist():
        assert (rebuilt[offset // 512 : (offset + length) // 512] == -1).all()
        rebuilt[offset // 512 : (offset + length) // 512] = source
    assert (rebuilt == owner).all()
    assert intervals.memory_bytes <= 2 * 32 * max(len(intervals), 150_000)


@pytest.mark.parametrize("step", [1, -1])
def test_sequential_pieces_become_one_interval(step: int) -> None:
    intervals = IntervalMap()
    offsets = np.arange(0, 1 << 20, 4096)[::step]
    assert len(intervals.overlay(offsets, np.full(len(offsets), 4096))) == len(offsets)
    assert intervals.intervals().tolist() == [(0, 1 << 20)]
    assert intervals.memory_bytes <= 4096


def test_piece_beyond_the_range_of_file_offsets_is_refused_and_changes_nothing() -> None:
    intervals = IntervalMap()
    with pytest.raises(ValueError, match="piece 1"):
        intervals.overlay(np.array([0, 2**63 - 1], np.uint64), np.array([512, 1], np.uint64))
    with pytest.raises(ValueError, match="piece 0"):
        intervals.overlay(np.array([1], np.uint64), np.array([2**64 - 1], np.uint64))
    assert intervals.covered_bytes == 0


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="columns"):
        IntervalMap().overlay(np.zeros(2, np.uint64), np.zeros(3, np.uint64))


def test_two_threads_never_share_one_call() -> None:
    intervals = IntervalMap()
    random = np.random.default_rng(3)
    offsets, lengths = random.permutation(100_000) * 1024, np.full(100_000, 512)
    refused: list[RuntimeError] = []

    def overlay() -> None:
        try:
            intervals.overlay(offsets, lengths)
        except RuntimeError as error:
            refused.append(error)

    threads = [threading.Thread(target=overlay) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) <= 1
    assert intervals.covered_bytes == 512 * len(intervals)
