"""The planted bugs: each is one change of the real source, and the test that must notice it.

A mutant that nobody notices is a promise that no test holds. ``old`` occurs once in its file.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTANTS", "SIMULATOR", "Mutant"]

SIMULATOR = "the simulator"
"""Instead of a test: seeds of ``python -m tests.sim``."""


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        "a flush does not wait for the log",
        "native/core/write_through.c",
        "    int result = jdr_ring_wait_durable(filter->ring, lsn, filter->stall_limit_ns);\n"
        "    return result ? result : (int64_t)lsn;",
        "    return (int64_t)lsn;",
        "tests/core/test_filter.py::test_a_flush_on_one_disk_makes_the_whole_log_durable",
    ),
    Mutant(
        "the log is called durable without a flush of its device",
        "native/core/log_writer.c",
        "int result = writer->device.sync(&writer->device);",
        "int result = 0;",
        "tests/log/test_log.py::test_failed_flush_is_never_acknowledged_later",
    ),
    Mutant(
        "a record is dropped where the log wraps",
        "native/core/log_writer.c",
        "writer->state.lsn_written += take->count;",
        "writer->state.lsn_written += take->count + (flags & BATCH_WRAP ? 1 : 0);",
        "tests/core/test_log_writer.py::test_records_come_back_as_they_were_written_over_many_laps",
    ),
    Mutant(
        "the tail moves beyond what is durable",
        "native/core/log_writer.c",
        "position <= writer->state.durable_position",
        "position <= writer->state.durable_position + (1 << 20)",
        "tests/core/test_log_writer.py::"
        "test_a_tail_that_moves_back_or_beyond_what_is_durable_is_refused_and_changes_nothing",
    ),
    Mutant(
        "a bit of the dirty map is cleared before its record is durable",
        "native/core/dirty_map_pass.c",
        "if (jdr_ring_lsn_durable(ring) < map->pass.lsn) {",
        "if (false) {",
        "tests/core/test_dirty_map.py::test_a_region_is_not_cleared_before_its_record_is_durable",
    ),
    Mutant(
        "a host component clears its map without a DRVA that makes the log durable",
        "native/core/dirty_map_pass.c",
        "if (jdr_ring_lsn_durable(ring) < map->pass.lsn) {",
        "if (false) {",
        "tests/domain/test_hosted_map.py::test_a_drva_that_dies_costs_no_copy_and_clears_nothing",
    ),
    Mutant(
        "a write that bypasses the log is marked, but not owed a copy",
        "native/core/write_through.c",
        "    jdr_primary_owe(&filter->primary, change);\n    return logged && failed",
        "    return logged && failed",
        "tests/domain/test_hosted_map.py::test_after_a_bypass_exactly_the_regions_that_were_written_are_copied",
    ),
    Mutant(
        "a resync looks for what is owed while writes that bypassed the log are in flight",
        "jetdr_core/domain/copies.py",
        "            _persist(copy.stopping, disk.map.settle)\n",
        "",
        "tests/domain/test_copies.py::test_a_copy_waits_for_writes_in_flight_whose_regions_are_not_owed_yet",
    ),
    Mutant(
        "a living host component's map goes on with a log that lacks what the map has cleared",
        "native/host/map.c",
        "if (spec->start == JDR_MAP_UNCERTAIN) /*",
        "if (false) /*",
        "tests/domain/test_hosted_map.py::test_a_domain_taken_over_with_a_new_log_believes_no_map",
    ),
    Mutant(
        "a newer epoch is taken for an orphan",
        "jetdr_core/uploader/chain.py",
        "if there.epoch > self.epoch:",
        "if there.epoch > self.epoch + 1000:",
        "tests/uploader/test_renumbering.py::"
        "test_a_fenced_writer_with_several_puts_in_flight_does_not_go_on_after_the_fence",
    ),
    Mutant(
        "a reader takes the orphans of a fenced owner for damage",
        "jetdr_core/catalog/follow.py",
        "if trailer.epoch < self.head.epoch:",
        "if trailer.epoch < 0:",
        "tests/catalog/test_chain.py::"
        "test_owner_that_dies_before_it_has_renumbered_its_segments_leaves_orphans_of_its_own",
    ),
    Mutant(
        "stranded segments are damage",
        "jetdr_core/catalog/follow.py",
        "            self._has_stepped_over = True\n",
        "            self._has_stepped_over = False\n",
        "tests/catalog/test_chain.py::"
        "test_owner_that_dies_before_it_has_renumbered_its_segments_leaves_orphans_of_its_own",
    ),
    Mutant(
        "a segment is called stored before the store has it",
        "jetdr_core/uploader/in_flight.py",
        "number = await first.number",
        "number = first.number.result() if first.number.done() else 0",
        "tests/uploader/test_in_flight.py",
    ),
    Mutant(
        "a segment is called stored though its predecessor is gone",
        "jetdr_core/uploader/store_watch.py",
        "        await self._see(self._chain.store, self._last)\n        self._last =",
        "        self._last =",
        "tests/uploader/test_store_watch.py::test_a_store_that_is_rolled_back_takes_no_upload_that_is_called_stored",
    ),
    Mutant(
        "a heartbeat vouches for what is not stored",
        "jetdr_core/uploader/heartbeats.py",
        "if not self._is_idle(lsn) or self._source.is_bypassed():",
        "if self._source.is_bypassed():",
        "tests/uploader/test_heartbeats.py::test_a_domain_that_has_not_stored_everything_says_nothing",
    ),
    Mutant(
        "an unclean stop owes nothing",
        "jetdr_core/domain/continuity.py",
        'return Continuity(gap="unclean stop", marked=found.log is LogFound.UNCLEAN and not found.write_back)',
        "return NOTHING_OWED",
        SIMULATOR,
    ),
    Mutant(
        "a gap is closed while a resync is owed",
        "jetdr_core/domain/copies.py",
        "owed = any(copy.reason for copy in self._owed.values() if copy is not but)",
        "owed = False",
        "tests/domain/test_copies.py::test_a_gap_lasts_until_the_last_of_several_disks_is_resynced",
    ),
    Mutant(
        "a durable record is cut as a torn end",
        "jetdr_core/replication_log/recovery_table.py",
        '        Decision.DAMAGED,\n        "The superblock was written',
        '        Decision.CUT,\n        "The superblock was written',
        "tests/log/test_recovery_table.py::test_nothing_known_to_be_durable_is_cut",
    ),
    Mutant(
        "payloads of the log are not verified",
        "jetdr_core/replication_log/reader.py",
        "if verify_payloads(headers, records.payload) >= 0:",
        "if verify_payloads(headers, records.payload) >= 1 << 30:",
        "tests/log/test_log.py::test_damage_found_while_reading_is_named_and_what_came_before_is_returned",
    ),
    Mutant(
        "the log is trimmed beyond what is uploaded",
        "jetdr_core/replication_log/log.py",
        "if cursor.lsn > lsn_uploaded or cursor.position > durable:",
        "if cursor.position > durable:",
        "tests/log/test_log.py::test_tail_never_moves_back_nor_beyond_what_is_uploaded_or_durable",
    ),
    Mutant(
        "a log that lacks records is called clean",
        "jetdr_core/replication_log/log.py",
        "complete = state is None or self._ring is None or state.lsn_durable >= self._ring.lsn_reserved",
        "complete = True",
        "tests/log/test_log.py::test_log_that_could_not_take_everything_is_not_marked_clean",
    ),
    Mutant(
        "what a failed flush left is called durable by the next owner",
        "jetdr_core/replication_log/log.py",
        "            self._write_unproven()\n",
        "",
        "tests/log/test_log.py::test_what_a_failed_flush_left_is_written_again_before_it_is_called_durable",
    ),
    Mutant(
        "a recovery takes the oldest record of a byte",
        "jetdr_core/rehydrate/plan.py",
        'newest_first = entries[entries["disk"] == self.number][::-1]',
        'newest_first = entries[entries["disk"] == self.number]',
        "tests/rehydrate/test_plan.py::test_plan_at_any_lsn_equals_a_replay",
    ),
)
