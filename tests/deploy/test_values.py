"""What can be said of the chart without Helm: its files agree with each other and with what the code offers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from service.config import SECRETS, Settings
from tests.deploy.helm import CHART

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
TEMPLATES = {path.name: path.read_text() for path in sorted((CHART / "templates").iterdir())}
FILES = ["values.yaml", "values-gpu.yaml"]


def paths(values: Any, schema: Any, above: str = "") -> Iterator[str]:
    """Every value by its path, down to those whose keys an operator makes up."""
    schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for name, value in values.items():
        if isinstance(value, dict) and schema.get("additionalProperties") is False and name in schema["properties"]:
            yield from paths(value, schema["properties"][name], f"{above}.{name}")
        else:
            yield f"{above}.{name}"


@pytest.mark.parametrize("name", FILES)
def test_the_schema_takes_the_charts_own_values(name: str) -> None:
    values = yaml.safe_load((CHART / name).read_text())
    assert [error.message for error in jsonschema_rs.validator_for(SCHEMA).iter_errors(values)] == []


def test_every_object_of_the_schema_refuses_what_it_does_not_know() -> None:
    """A misspelt value must not be passed over in silence."""
    objects = [*SCHEMA["properties"].values(), *SCHEMA["definitions"].values()]
    for found in objects:
        if "properties" in found:
            assert found["additionalProperties"] is False, found
    assert SCHEMA["additionalProperties"] is False
    assert set(SCHEMA["properties"]) - set(VALUES) == {"global"}


def test_every_secret_that_may_come_from_a_file_may_be_named_and_no_other() -> None:
    assert set(SCHEMA["properties"]["secretFiles"]["properties"]) == set(SECRETS)
    (refused,) = re.findall(r"\$secrets := list ([^-]*) -", TEMPLATES["_helpers.tpl"])
    assert sorted(name.strip('"').lower() for name in refused.split()) == sorted(SECRETS)


def test_every_setting_that_is_named_exists() -> None:
    named = set(
        re.findall(r"LETHE_([A-Z_]*[A-Z])\b", "".join([*TEMPLATES.values(), (CHART / "values-gpu.yaml").read_text()]))
    )
    known = {name.upper() for name in Settings.model_fields}
    assert named
    assert named <= known


def test_the_settings_that_the_chart_owns_are_refused_among_the_others() -> None:
    (owned,) = re.findall(r"\$own := list ([^-]*) -", TEMPLATES["_helpers.tpl"])
    written = "".join(TEMPLATES[name] for name in ("_helpers.tpl", "api.yaml", "worker.yaml"))
    given = set(re.findall(r"name: LETHE_([A-Z_]+)\b", written))
    # Where the server listens is an argument, and its port the image's.
    assert {name.strip('"') for name in owned.split()} == given | {"HOST", "PORT"}


def test_every_value_is_used_by_a_template() -> None:
    used = "".join(TEMPLATES.values())
    named, as_a_whole = (set(re.findall(rf"{before}\.(\w+)", used)) for before in ("", r"toYaml \S*"))
    for path in paths(VALUES, SCHEMA):
        *above, last = path.split(".")
        assert last in named or as_a_whole & set(above), path


def test_the_alerts_are_those_of_compose() -> None:
    assert (CHART / "files" / "alerts.yml").resolve() == ROOT / "docker" / "prometheus" / "alerts.yml"


def test_the_chart_is_of_the_projects_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version[1], version[1])


def test_the_metric_that_scales_is_one_that_telemetry_declares_and_the_page_has_the_rule_for_it() -> None:
    (metric,) = re.findall(r"name: (lethe_\w+)$", TEMPLATES["hpa.yaml"], re.MULTILINE)
    assert f'"{metric}"' in (ROOT / "service" / "entrypoints" / "telemetry.py").read_text()
    (block,) = re.findall(r"```yaml\n(rules:\n.*?)```", PAGE, re.DOTALL)
    (rule,) = yaml.safe_load(block)["rules"]["custom"]
    assert rule["name"]["as"] == metric
    assert rule["seriesQuery"].startswith(f"{metric}{{")


def test_the_page_names_values_that_there_are() -> None:
    for path in re.findall(r"--set(?:-string)? '?([A-Za-z][A-Za-z0-9.]*)=", PAGE):
        values: Any = VALUES
        for name in path.split("."):
            assert name in values, path
            values = values[name]
