"""Defect: what is wrong at the place where the next batch should begin."""

from __future__ import annotations

import enum

__all__ = ["Defect"]


class Defect(enum.Enum):
    """In the order of the checks: each is looked for only where none before it was found. The value is a message's."""

    NO_HEADER = "there is no batch header"
    OTHER_SECTION = "the batch there belongs to another section"
    OTHER_NUMBER = "a batch of another number lies there"
    OTHER_PAST = "the batch there does not follow from the one before"
    BROKEN_RECORDS = "a record header is not what was written"
    BROKEN_PAYLOAD = "a payload is not what was written"
