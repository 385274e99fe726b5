"""StartRequest: what a start of the DRVA was asked to do with some domains, beyond what its configuration says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from jetdr_core.domain import OnMismatch
from jetdr_core.drva.config import DomainConfig, DrvaConfig
from jetdr_core.errors import InvalidRequest

__all__ = ["StartRequest"]


@dataclass(frozen=True, slots=True)
class StartRequest:
    """By the names of domains. It holds for this start only. :class:`Drva` says what each of them means."""

    create: bool
    take_over: Collection[str]
    give_up_from: Mapping[str, int]
    discard_log: Mapping[str, str]
    on_mismatch: Mapping[str, OnMismatch]
    begin_anew: Mapping[str, UUID]

    def check(self, config: DrvaConfig) -> None:
        """Refuse a name that is no domain's, and what goes only with a take-over, or not with it."""
        given_up = {*self.give_up_from, *self.discard_log}
        named = {*self.take_over, *self.on_mismatch, *self.begin_anew, *given_up}
        if unknown := named - {domain.name for domain in config.domains}:
            raise InvalidRequest(
                f"the configuration has no domain {min(unknown)!r} to take over", hint="check the name"
            )
        if alone := given_up - set(self.take_over):
            raise InvalidRequest(
                f"nothing of domain {min(alone)!r} is given up, because it is not taken over",
                hint=f"add --take-over {min(alone)}",
            )
        if both := set(self.take_over) & set(self.begin_anew):
            raise InvalidRequest(
                f"domain {min(both)!r} is to be taken over and to begin anew",
                hint="use --take-over if its store still has its history, and --begin-anew if it does not",
            )

    def of(self, domain: DomainConfig) -> DomainConfig:
        """Return how the domain is to be opened."""
        return replace(
            domain,
            create=self.create or domain.create,
            take_over=domain.name in self.take_over,
            give_up_from=self.give_up_from.get(domain.name),
            discard_log=self.discard_log.get(domain.name),
            on_mismatch=self.on_mismatch.get(domain.name, OnMismatch.REFUSE),
            begin_anew=self.begin_anew.get(domain.name),
        )
