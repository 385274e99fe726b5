"""AlarmLog: tells the log which alarms of a domain have begun and which are over, each once."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from jetdr_core.drva.alarms import Alarm

__all__ = ["AlarmLog"]

log = logging.getLogger(__name__)


class AlarmLog:
    """The alarms of one domain, as the log knows them."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._noted: frozenset[str] = frozenset()

    def note(self, alarms: Iterable[Alarm]) -> None:
        """Log how ``alarms``, those of this moment, differ from the ones noted before."""
        texts = {alarm.name: alarm.text for alarm in alarms}
        fields = {"domain": self._domain}
        for name in sorted(texts.keys() - self._noted):
            log.warning("domain %s: alarm %s: %s", self._domain, name, texts[name], extra=fields)
        for name in sorted(self._noted - texts.keys()):
            log.info("domain %s: alarm %s is over", self._domain, name, extra=fields)
        self._noted = frozenset(texts)
