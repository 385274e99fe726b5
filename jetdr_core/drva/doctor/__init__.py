"""The doctor: every check of a DRVA's machine and configuration that changes nothing."""

from jetdr_core.drva.doctor.causes import with_causes
from jetdr_core.drva.doctor.diagnosis import Diagnosis, diagnose
from jetdr_core.drva.doctor.finding import Finding, Verdict

__all__ = ["Diagnosis", "Finding", "Verdict", "diagnose", "with_causes"]
