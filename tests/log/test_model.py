"""The log against a list: any sequence of appends, commits, flushes, checkpoints, crashes and reopenings."""

from __future__ import annotations

from contextlib import suppress

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jetdr_core.errors import StallTimeout
from jetdr_core.replication_log import Cursor
from tests.faults.device import CrashDevice
from tests.log.tools import VOLUME_BYTES, HandDriven, Written, new_volume, open_volume_on, read_all


class LogMachine(RuleBasedStateMachine):
    """``written`` are the records that the log accepted and did not lose. The first ``durable`` may never be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Written] = []
        self.durable = 0
        self.uploaded = 0

    @initialize()
    def create(self) -> None:
        self.device = CrashDevice(VOLUME_BYTES)
        self.driven = HandDriven(new_volume(self.device))
        self.cursor: Cursor = self.driven.log.tail

    @rule(sectors=st.integers(1, 100), offset=st.integers(0, 1000), fill=st.integers(0, 255))
    def append(self, sectors: int, offset: int, fill: int) -> None:
        with suppress(StallTimeout):
            self.written.append(self.driven.write(512 * offset, bytes([fill]) * (512 * sectors)))

    @rule(count=st.integers(2, 20), sectors=st.integers(1, 60))
    def append_many(self, count: int, sectors: int) -> None:
        for n in range(count):
            self.append(sectors, n, n)

    @rule()
    def commit(self) -> None:
        self.driven.commit()

    @rule()
    def flush(self) -> None:
        self.durable = self.driven.flush()

    @rule(payload_bytes=st.integers(1, 1 << 18))
    def read_on(self, payload_bytes: int) -> None:
        """Read after the writer: the very records, in order, and nothing that is not durable."""
        batches = self.driven.log.read(self.cursor, payload_bytes_max=payload_bytes)
        first = self.cursor.lsn
        self.cursor = batches[-1].end if batches else self.cursor
        assert self.cursor.lsn <= self.driven.ring.lsn_durable
        if batches:
            assert [batch.end.lsn for batch in batches] == sorted({batch.end.lsn for batch in batches})
            assert self.cursor.lsn > first

    @precondition(lambda self: self.cursor.lsn > self.uploaded)
    @rule()
    def checkpoint(self) -> None:
        self.uploaded = self.cursor.lsn
        self.driven.log.checkpoint(self.uploaded, self.cursor)

    @rule(seed=st.integers(0, 1 << 16))
    def crash(self, seed: int) -> None:
        self.durable = max(self.durable, self.driven.ring.lsn_durable)
        self.driven.filter.close()
        self.reopen(self.device.crash(seed))

    @rule()
    def kill(self) -> None:
        """The process dies while the disk keeps its power. Nothing that was written is lost."""
        written = self.driven.log.state().lsn_written
        self.driven.filter.close()
        self.reopen(self.device)
        assert len(self.written) >= written

    @rule()
    def close_and_reopen(self) -> None:
        self.driven.filter.close()
        self.driven.log.close()
        self.durable = max(self.durable, self.driven.ring.lsn_durable)
        everything = self.durable == len(self.written)
        self.reopen(self.device)
        assert self.driven.log.outcome.clean == everything

    @invariant()
    def log_holds_what_it_must(self) -> None:
        if not hasattr(self, "driven"):
            return
        found = self.driven.read_all()
        first = self.driven.log.tail.lsn
        assert found == self.written[first : first + len(found)]
        assert first + len(found) == self.driven.ring.lsn_durable >= self.durable
        assert first <= self.uploaded
        assert self.driven.log.used_bytes <= self.driven.log.body.data_bytes

    def reopen(self, device: CrashDevice) -> None:
        self.device = device
        self.driven = HandDriven(open_volume_on(device), time_ns=self.driven.clock.time_ns)
        lsn = self.driven.log.outcome.head.lsn
        assert self.durable <= lsn <= len(self.written), "a prefix, and all of it that was flushed"
        del self.written[lsn:]
        self.durable = lsn
        self.cursor = self.driven.log.tail

    def teardown(self) -> None:
        if hasattr(self, "driven"):
            self.driven.filter.close()
            self.driven.log.close()
            volume = open_volume_on(self.device)
            driven = HandDriven(volume)
            assert read_all(driven.log) == self.written[driven.log.tail.lsn : driven.log.outcome.head.lsn]


LogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLogAgainstAList = LogMachine.TestCase
