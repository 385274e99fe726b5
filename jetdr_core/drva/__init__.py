"""The DRVA: the appliance process that keeps protected domains open, and answers for them.

Its face: a configuration file, a control socket, metrics, logs, signals.
"""

from jetdr_core.drva.config import DrvaConfig, load_config
from jetdr_core.drva.daemon import Drva, run_drva

__all__ = ["Drva", "DrvaConfig", "load_config", "run_drva"]
