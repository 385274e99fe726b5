"""Status and metrics show what filters count: a counter of the core that DiskStatus names arrives in both."""

from __future__ import annotations

from jetdr_core._core import FilterStats
from jetdr_core.domain.status import Counted, counters, disk_metrics
from jetdr_core.drva.metrics import DrvaCollector


def test_every_counter_shown_is_one_that_filters_count() -> None:
    counted = {metric.of or name for name, metric in disk_metrics() if isinstance(metric, Counted)}
    assert counted
    assert counted <= set(FilterStats._fields)


def test_counters_arrive_in_status_each_in_its_own_field() -> None:
    stats = FilterStats._make(range(1_000, 1_000 + len(FilterStats._fields)))
    shown = counters(stats)
    assert shown["writes"] == stats.writes
    assert shown["unlogged_bytes"] == stats.unlogged_bytes
    assert shown["stall_s_max"] == stats.stall_ns_max / 1e9
    assert len(set(shown.values())) == len(shown)


def test_nothing_counted_is_zero() -> None:
    assert set(FilterStats()) == {0}


def test_every_field_shown_is_a_metric_of_the_appliance() -> None:
    families = {family.name: family for family in DrvaCollector(list, 0.0).describe()}
    for _, metric in disk_metrics():
        assert families[metric.name.removesuffix("_total")].documentation == metric.text
