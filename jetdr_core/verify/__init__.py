"""Verify: reads and checks everything in a domain's container, and reports what is damaged and which points survive.

Pure: ``check`` (one object), ``loss`` (damage, followed through history), ``report``. With I/O: ``walk``.
"""

from __future__ import annotations

from jetdr_core.verify.check import Checked, check_chain_object
from jetdr_core.verify.report import Damage, PointCheck, VerifyReport
from jetdr_core.verify.walk import ProgressCallback, verify

__all__ = [
    "Checked",
    "Damage",
    "PointCheck",
    "ProgressCallback",
    "VerifyReport",
    "check_chain_object",
    "verify",
]
