"""An encrypted object in a container whose domain is not encrypted is damage like any other, and no locked door."""

from __future__ import annotations

import pytest

from jetdr_core.catalog import Catalog, chain_key
from jetdr_core.domain_key import DomainKey, KeyMode
from jetdr_core.errors import DamagedObject, WrongKey
from jetdr_core.record import Kind
from jetdr_core.verify import verify
from tests.catalog.chains import DOMAIN, ChainMaker, domain, run

PLANTER = DomainKey(b"p" * 32, DOMAIN, mode=KeyMode.ENCRYPT)
LSNS = 4


def planter(maker: ChainMaker, *, chains: bool = True) -> ChainMaker:
    """Return somebody who lacks every key of the domain, and puts encrypted objects after its chain."""
    other = maker.fork()
    other.domain_key = PLANTER
    if not chains:
        other.predecessor = bytes(16)
    return other


@pytest.mark.parametrize("chains", [True, False])
@pytest.mark.parametrize("what", ["epoch", "segment with a mark"])
def test_a_planted_encrypted_object_ends_the_chain_and_locks_nothing(what: str, *, chains: bool) -> None:
    maker = domain(LSNS - 1)
    other = planter(maker, chains=chains)
    number = other.number
    if what == "epoch":
        other.put(other.begin())
    else:
        other.mark("planted")
        other.segment()
    catalog = maker.open()
    assert catalog.lsn_last == LSNS
    assert catalog.chain_break is not None
    assert catalog.chain_break.number == number
    assert run(catalog.resolve(LSNS)).lsn == LSNS
    assert chain_key(number) in run(verify(maker.store, settle_s=0)).chain_problem


def test_a_planted_encrypted_segment_of_writes_is_a_damaged_index() -> None:
    """Its index is not read while the chain is followed."""
    maker = domain(LSNS - 1)
    other = planter(maker)
    number = other.number
    other.segment()
    catalog = maker.open()
    with pytest.raises(DamagedObject, match="is encrypted, and the domain is not"):
        run(catalog.index(number))
    report = run(verify(maker.store, settle_s=0))
    assert [damage.key for damage in report.damage] == [chain_key(number)]


def test_a_domain_that_is_encrypted_asks_for_its_key() -> None:
    maker = ChainMaker(domain_key=DomainKey(b"k" * 32, DOMAIN, mode=KeyMode.ENCRYPT))
    maker.put(maker.begin())
    maker.add_disk()
    maker.control(Kind.MARK, name="m")
    maker.segment()
    with pytest.raises(WrongKey, match="is encrypted, and no key was given"):
        run(Catalog.open(maker.store))
