"""Every benchmark runs at tiny sizes, checks its bytes and returns figures. The figures mean nothing at that size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.every import BENCHMARKS
from benchmarks.machine import machine
from benchmarks.measure import AtLeast, AtMost, PeerMissing, Row, Scale, interleaved, percentile
from benchmarks.row_table import show_rows, write_json


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_and_its_bytes_are_right(name: str, tmp_path: Path) -> None:
    try:
        rows = BENCHMARKS[name](Scale.TINY, tmp_path)
    except PeerMissing as error:
        pytest.skip(str(error))
    assert any(row.target for row in rows)
    for row in rows:
        assert row.measure
        assert row.unit
        assert math.isfinite(row.ours)
        assert row.target is None or row.reached is not None


def test_works_take_turns_in_turning_order() -> None:
    order: list[str] = []

    def work(name: str) -> Callable[[], float]:
        def step() -> float:
            order.append(name)
            return float(len(order))

        return step

    assert interleaved(3, work("a"), work("b")) == [[1, 4, 5], [2, 3, 6]]
    assert "".join(order) == "abbaab"


def test_a_target_is_reached_at_its_bound_and_not_beyond() -> None:
    def row(ours: float, target: AtLeast | AtMost) -> Row:
        return Row(measure="m", ours=ours, unit="u", theirs=100.0, target=target)

    assert [row(ours, AtLeast(0.9)).reached for ours in (90, 89)] == [True, False]
    assert [row(ours, AtMost(1.2)).reached for ours in (120, 121)] == [True, False]
    assert Row(measure="m", ours=1, unit="u").reached is None


def test_percentiles_are_figures_that_occurred() -> None:
    assert percentile([5, 1, 4, 2, 3], 50) == 3
    assert percentile(range(100), 99) == 99
    assert percentile([7], 99) == 7


def test_a_run_is_shown_as_a_table_and_written_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row(measure="append", ours=90, unit="MB/s", peer="pwrite", theirs=120, target=AtLeast(0.9))]
    show_rows("log", rows)
    assert "NO" in capsys.readouterr().out
    write_json(tmp_path / "run.json", machine(tmp_path), {"log": rows})
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["benchmarks"]["log"][0] | {"judged": 0.75, "reached": False} == written["benchmarks"]["log"][0]
    assert written["machine"]["cpus"]
