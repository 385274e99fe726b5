"""Metrics: Prometheus reads what the domains did, a scrape waits for no domain, and every metric is documented."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from jetdr_core.drva.alarms import ALARMS
from jetdr_core.drva.metrics import DrvaCollector
from tests.drva.running_drva import Place, place, running

DOCUMENTATION = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
Samples = dict[tuple[str, ...], float]


def scraped(here: Place) -> Samples:
    """Return every sample by name and label values. The domain's name is the first label."""
    url = here.ask("status")["drva"]["metrics"]
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {(s.name, *_values(s.labels)): s.value for family in families for s in family.samples}


def _values(labels: dict[str, str]) -> list[str]:
    """Return the label values, the domain's name first."""
    return [labels[name] for name in sorted(labels, key=lambda name: name != "domain")]


def test_metrics_tell_what_the_domains_did() -> None:
    with place() as here:
        here.write(drva='metrics = "127.0.0.1:0"\n')
        with running(here) as drva:
            for n in range(5):
                drva.disk().write(n * 4096, b"x" * 4096)
            drva.disk().flush()
            status = here.until(lambda s: s["lsn_uploaded"] == s["lsn_reserved"] == 6)
            found = scraped(here)
            assert found["jetdr_disk_writes_total", "payroll", "db01"] == 5
            assert found["jetdr_disk_written_bytes_total", "payroll", "db01"] == 5 * 4096
            assert found["jetdr_disk_writes_total", "web", "db01"] == 0
            assert found["jetdr_lsn_reserved", "payroll"] == 6
            assert found["jetdr_lsn_uploaded", "payroll"] == 6
            assert found["jetdr_consistent", "payroll"] == found["jetdr_domain_open", "web"] == 1
            assert found["jetdr_payload_bytes_uploaded_total", "payroll"] >= 5 * 4096
            assert 0 < found["jetdr_stored_bytes_uploaded_total", "payroll"] < 5 * 4096
            assert found["jetdr_upload_seconds_count", "payroll"] == status["segments_uploaded"]
            assert found["jetdr_upload_seconds_bucket", "payroll", "+Inf"] == status["segments_uploaded"]
            assert found["jetdr_log_bytes", "payroll"] == status["log_bytes"]
            assert not any(name[0] == "jetdr_alarm" for name in found)
            here.ask("pause", domain="web")
            found = scraped(here)
            assert found["jetdr_paused", "web"] == found["jetdr_alarm", "web", "paused"] == 1
            here.until(lambda s: s["condition"]["state"] == "paused", "web")
            found = scraped(here)
            assert [name[1:] for name in found if name[0] == "jetdr_domain_state"] == [
                ("payroll", "protected"),
                ("web", "paused"),
            ]


def test_a_closed_domain_is_told_as_such_and_the_others_as_ever() -> None:
    with place() as here:
        here.write(drva='metrics = "127.0.0.1:0"\n')
        with running(here):
            pass
        here.write(drva='metrics = "127.0.0.1:0"\n', create=False)
        (here.path / "store-web").rename(here.path / "away")
        with running(here):
            here.until(lambda s: s["restarts"] > 1, "web")
            found = scraped(here)
            assert (found["jetdr_domain_open", "web"], found["jetdr_domain_open", "payroll"]) == (0, 1)
            assert found["jetdr_session_restarts_total", "web"] > 1
            assert found["jetdr_alarm", "web", "closed"] == 1


def test_every_metric_and_every_alarm_is_documented_and_no_other() -> None:
    collector = DrvaCollector(list, 0.0)
    names = {"jetdr_drva_info", "jetdr_drva_start_time_seconds", "jetdr_drva_alarm"}
    names |= {family.name + ("_total" if family.type == "counter" else "") for family in collector.describe()}
    assert set(re.findall(r"^\| `(jetdr_[a-z_]+)", DOCUMENTATION, re.MULTILINE)) == names
    section = DOCUMENTATION.split("### Alarms")[1].split("\n#")[0]
    assert set(re.findall(r"^\| `([a-z_]+)`", section, re.MULTILINE)) == set(ALARMS)
