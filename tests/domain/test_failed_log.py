"""When a log that has failed is given up: at once if nothing is uploaded, else after the rest, and never much later."""

from __future__ import annotations

from jetdr_core.domain.failed_log import QUIET_S, REST_LIMIT_S, FailedLog
from jetdr_core.errors import LogFailed

FAILURE = LogFailed("Input/output error")


class Upload:
    """An upload of a failed log, ``step_s`` between two looks."""

    def __init__(self, *, idle: bool = False) -> None:
        self.lsn, self.now_s, self.idle = 100, 5.0, idle
        self.failure: LogFailed | None = None
        self.log = FailedLog(lambda: self.failure, lambda: self.lsn, lambda: self.idle, lambda: self.now_s)

    def look(self, *, moved: int = 0, step_s: float = 0.5) -> bool:
        """Whether the log is given up after another step."""
        self.lsn, self.now_s = self.lsn + moved, self.now_s + step_s
        return self.log.look() is FAILURE


def test_a_log_that_is_well_is_not_given_up_however_long_nothing_moves() -> None:
    upload = Upload(idle=True)
    assert not any(upload.look(step_s=100) for _ in range(3))


def test_a_failed_log_is_given_up_at_once_if_nothing_is_uploaded() -> None:
    upload = Upload(idle=True)
    upload.failure = FAILURE
    assert upload.look()


def test_the_rest_of_a_failed_log_is_uploaded_first_while_that_moves_and_not_for_ever() -> None:
    upload = Upload()
    upload.failure = FAILURE
    steps = int(REST_LIMIT_S / 0.5)
    assert not any(upload.look(moved=1) for _ in range(steps))
    assert upload.look(moved=1)


def test_an_upload_that_comes_to_rest_is_not_waited_for() -> None:
    upload = Upload()
    upload.failure = FAILURE
    assert not upload.look(moved=1)
    assert not upload.look(moved=1)
    assert upload.look(step_s=QUIET_S)
