"""Prometheus's own tool tries the alerts: each rings where it must, and none on a plain day."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "docker" / "prometheus"
RULES = (FOLDER / "alerts.yml").read_text()
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian's package `prometheus` has it)"
)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_every_alert_is_tried() -> None:
    alerts = {rule["alert"] for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"]}
    tried = set(re.findall(r'alertname="(\w+)",alertstate="firing"\}\n', (FOLDER / "alerts_test.yml").read_text()))
    assert tried == alerts


@needs_promtool
def test_each_alert_rings_where_it_must_and_none_on_a_plain_day() -> None:
    assert promtool("check", "rules", FOLDER / "alerts.yml").returncode == 0
    tried = promtool("test", "rules", FOLDER / "alerts_test.yml")
    assert tried.returncode == 0, tried.stderr


@needs_promtool
@pytest.mark.parametrize(("was", "now"), [("> 1800", "> 18000"), ("== 0\n        for: 2m", ">= 0\n        for: 2m")])
def test_a_rule_that_is_deaf_or_always_rings_is_found(tmp_path: Path, was: str, now: str) -> None:
    assert was in RULES
    (tmp_path / "alerts.yml").write_text(RULES.replace(was, now))
    shutil.copy(FOLDER / "alerts_test.yml", tmp_path)
    assert promtool("test", "rules", tmp_path / "alerts_test.yml").returncode != 0
