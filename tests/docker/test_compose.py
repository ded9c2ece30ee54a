"""The containers' files agree with each other and with what the code offers."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("setup", "keys", "api", "worker")
ON_GPUS = tuple(f"{name}-gpu" for name in OURS)
DOCKERFILES = {name: (DOCKER / name).read_text() for name in ("Dockerfile", "Dockerfile.gpu")}
DOCKERFILE = DOCKERFILES["Dockerfile"]
DASHBOARDS = sorted((DOCKER / "grafana" / "dashboards").glob("*.json"))
ALERTS = DOCKER / "prometheus" / "alerts.yml"
TELEMETRY = REPOSITORY / "service" / "entrypoints" / "telemetry.py"


def offered(module: str) -> Any:
    if importlib.util.find_spec(module.split(".", maxsplit=1)[0]) is None:
        pytest.skip(f"{module} is not there")
    return importlib.import_module(module)


def mounts() -> Iterator[tuple[str, str]]:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            yield source, target


def instructions(word: str, dockerfile: str = "Dockerfile") -> list[str]:
    joined = DOCKERFILES[dockerfile].replace("\\\n", " ")
    return [line.removeprefix(word).strip() for line in joined.splitlines() if line.startswith(f"{word} ")]


def expressions() -> Iterator[str]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            yield from (target["expr"] for target in panel.get("targets", []))
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


# docker-compose.yml


@pytest.mark.parametrize("name", OURS)
def test_a_process_may_write_into_its_home_alone_and_is_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"mem_limit", "pids_limit", "tmpfs"} <= service.keys()


def test_every_process_of_the_service_is_there() -> None:
    assert set(SERVICES) == {*OURS, *ON_GPUS, "postgres", "redis", "prometheus", "grafana"}


def test_every_mounted_path_exists_and_every_volume_is_declared() -> None:
    for source, _ in mounts():
        if source.startswith("."):
            assert (REPOSITORY / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]
    assert set(COMPOSE["volumes"]) == {source for source, _ in mounts() if not source.startswith(".")}


def test_every_image_is_pinned_by_a_tag() -> None:
    for service in SERVICES.values():
        name, _, tag = service["image"].partition(":")
        assert name
        assert re.match(r"v?\d", tag), service["image"]


def test_the_image_is_of_the_projects_version() -> None:
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert {SERVICES[name]["image"] for name in OURS} == {f"lethe:{version[1]}"}
    assert {SERVICES[name]["image"] for name in ON_GPUS} == {f"lethe-gpu:{version[1]}"}


def test_the_processes_of_the_service_share_one_home_and_its_settings() -> None:
    for name in (*OURS, *ON_GPUS):
        assert SERVICES[name]["environment"] == SERVICES["api"]["environment"]
        assert SERVICES[name]["volumes"] == ["home:/data", *(["keys:/keys"] if name.startswith("keys") else [])]
        assert SERVICES[name]["environment"]["LETHE_HOME"] == "/data"


def test_a_missing_secret_or_password_is_refused() -> None:
    environment = SERVICES["api"]["environment"]
    assert environment["LETHE_SECRET"].startswith("${LETHE_SECRET:?")
    assert "${POSTGRES_PASSWORD:?" in environment["LETHE_DATABASE_URL"]
    assert environment["LETHE_DATABASE_URL"].startswith("postgresql+psycopg://lethe:")


def test_urls_name_services_that_are_there() -> None:
    environment = SERVICES["api"]["environment"]
    assert "@postgres:5432/" in environment["LETHE_DATABASE_URL"]
    assert environment["LETHE_REDIS_URL"].startswith("redis://:${REDIS_PASSWORD:?")
    assert "@redis:6379/" in environment["LETHE_REDIS_URL"]
    assert any("${REDIS_PASSWORD:?" in word for word in SERVICES["redis"]["command"])
    assert SERVICES["postgres"]["environment"]["POSTGRES_DB"] in environment["LETHE_DATABASE_URL"].rsplit("/", 1)[1]


def test_nothing_is_open_beyond_this_machine() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "ports" not in SERVICES["postgres"]
    assert "ports" not in SERVICES["redis"]


def test_serving_and_work_wait_for_the_setup_and_the_setup_for_its_servers() -> None:
    for name, first in (("keys", "setup"), ("api", "keys"), ("worker", "setup")):
        assert SERVICES[name]["depends_on"][first]["condition"] == "service_completed_successfully"
    for name in ("postgres", "redis"):
        assert SERVICES["setup"]["depends_on"][name]["condition"] == "service_healthy"
        assert SERVICES[name]["healthcheck"]["test"]


def test_redis_keeps_nothing_on_disk() -> None:
    assert SERVICES["redis"]["command"][:5] == ["redis-server", "--save", "", "--appendonly", "no"]
    assert "volumes" not in SERVICES["redis"]


def test_every_setting_that_is_named_exists() -> None:
    fields = offered("service.config").Settings.model_fields
    named = {name for service in SERVICES.values() for name in service.get("environment", {})}
    named |= set(re.findall(r"LETHE_[A-Z_]+", DOCKERFILE + (REPOSITORY / "docker-compose.yml").read_text()))
    for name in sorted(named):
        if name.startswith("LETHE_"):
            assert name.removeprefix("LETHE_").lower() in fields, name


@pytest.mark.parametrize("command", [*(SERVICES[name]["command"] for name in OURS), json.loads(instructions("CMD")[0])])
def test_every_command_exists_with_its_options(command: list[str]) -> None:
    known = offered("service.entrypoints.commands.main").SERVICE
    assert command[0] in known
    loaded = offered("service.entrypoints.commands.lazy").loaded(known[command[0]])
    parameters = getattr(loaded, "commands", {}).get("".join(command[1:2]), loaded).params
    options = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in command if word.startswith("--")} <= options


# On GPUs


def test_a_gpu_is_reserved_for_those_of_the_profile_and_for_nobody_else() -> None:
    for name, service in SERVICES.items():
        assert (service.get("profiles") == ["gpu"]) is (name in ON_GPUS)
        assert ("deploy" in service) is (name in ON_GPUS)
    for name in ON_GPUS:
        [device] = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        assert SERVICES[name]["build"]["dockerfile"] == "docker/Dockerfile.gpu"


def test_on_gpus_the_processes_are_those_without_and_wait_for_their_own_setup() -> None:
    for plain, name in zip(OURS, ON_GPUS, strict=True):
        assert SERVICES[name]["command"] == SERVICES[plain]["command"]
        waits = {waited.removesuffix("-gpu") for waited in SERVICES[name]["depends_on"]}
        assert waits == set(SERVICES[plain]["depends_on"])
    assert set(SERVICES["api-gpu"]["depends_on"]) == {"keys-gpu"}
    assert SERVICES["api-gpu"]["networks"]["default"]["aliases"] == ["api"]  # by which Prometheus finds it


def test_the_image_for_gpus_copies_and_starts_what_the_other_does() -> None:
    for word in ("COPY", "USER", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD", "WORKDIR"):
        assert instructions(word, "Dockerfile.gpu") == instructions(word)


def test_the_image_for_gpus_has_faiss_for_gpus_in_place_of_the_other() -> None:
    runs = instructions("RUN", "Dockerfile.gpu")
    [swap] = [line for line in runs if "faiss-gpu-cu12" in line]
    assert "uninstall --yes faiss-cpu" in swap
    assert runs.index(swap) > next(n for n, line in enumerate(runs) if line.endswith("'.[otel,s3]'"))
    assert all("--constraint constraints.txt" in line for line in runs if "pip install" in line)
    pinned = (REPOSITORY / "constraints.txt").read_text()
    assert re.search(r"^faiss-gpu-cu12==", pinned, re.MULTILINE)


# The image


def test_everything_that_is_copied_exists_and_reaches_the_build() -> None:
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {path for line in instructions("COPY") if "--from" not in line for path in line.split()[:-1]}
    assert copied == allowed
    for path in copied:
        assert (REPOSITORY / path).exists(), path


def test_every_package_of_the_project_is_copied() -> None:
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests", "research"}
    copied = " ".join(instructions("COPY")).split()
    assert packages <= set(copied)


def test_the_image_runs_as_an_ordinary_user_with_its_home_on_a_volume() -> None:
    assert instructions("USER") == ["lethe"]
    assert json.loads(instructions("VOLUME")[0]) == ["/data"]
    assert "LETHE_HOME=/data" in DOCKERFILE


def test_the_image_starts_lethe_itself_and_asks_it_whether_it_is_well() -> None:
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["lethe"]
    check = instructions("HEALTHCHECK")[0]
    command = json.loads(check[check.index("[") :])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")


def test_what_serves_no_http_has_no_http_health_check() -> None:
    for name in ("setup", "keys", "worker"):
        assert SERVICES[name]["healthcheck"] == {"disable": True}


def test_the_image_installs_what_the_constraints_pin() -> None:
    installs = [line for line in instructions("RUN") if line.startswith("pip install")]
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)


# What is watched


def test_every_metric_that_is_watched_is_one_that_telemetry_declares() -> None:
    if not TELEMETRY.exists():
        pytest.skip("there is no telemetry to compare with")
    declared = set(re.findall(r'"(lethe_[a-z_]+)"', TELEMETRY.read_text()))
    exposed = {name + suffix for name in declared for suffix in ("", "_total", "_bucket", "_sum", "_count")}
    watched_metrics = {name for expression in expressions() for name in re.findall(r"\blethe_[a-z_]+", expression)}
    assert watched_metrics
    assert watched_metrics <= exposed


def test_every_declared_metric_is_on_the_dashboard() -> None:
    if not TELEMETRY.exists():
        pytest.skip("there is no telemetry to compare with")
    shown = " ".join(path.read_text() for path in DASHBOARDS)
    for name in re.findall(r'"(lethe_[a-z_]+)"', TELEMETRY.read_text()):
        assert name in shown, name


def test_prometheus_reads_the_alerts_and_the_replicas() -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    assert all((DOCKER / "prometheus" / name).exists() for name in config["rule_files"])
    (job,) = config["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    assert discovery["names"] == ["api"]
    assert discovery["port"] == int(instructions("EXPOSE")[0])


def test_there_is_an_alert_for_what_an_operator_must_not_miss() -> None:
    rules = {rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    expected = {
        "LetheDeletionOverdue",
        "LetheDeletionFailed",
        "LetheDeletionUnattended",
        "LetheServerErrors",
        "LetheSlow",
        "LetheDeletionRate",
        "LetheMaskedShare",
        "LetheDegraded",
    }
    assert expected <= set(rules)
    assert "lethe_forget_overdue" in rules["LetheDeletionOverdue"]["expr"]
    assert "lethe_forget_unattended_seconds" in rules["LetheDeletionUnattended"]["expr"]
    for rule in rules.values():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_prometheus_has_a_key_of_its_own_for_nothing_but_metrics() -> None:
    command = SERVICES["keys"]["command"]
    (job,) = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["authorization"]["credentials_file"] == command[command.index("--to") + 1]
    assert command[command.index("--scopes") + 1] == "metrics"
    assert "keys:/keys:ro" in SERVICES["prometheus"]["volumes"]
    assert "/keys" in DOCKERFILE


def test_grafana_finds_its_data_source_and_dashboards() -> None:
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/lethe.yml").read_text())["providers"]
    assert provider["options"]["path"] in {target for _, target in mounts()}
    for path in DASHBOARDS:
        panels = json.loads(path.read_text())["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        used = {target["datasource"]["uid"] for panel in panels for target in panel.get("targets", [])}
        assert used == {source["uid"]}


def test_grafana_knows_every_field_of_the_dashboards() -> None:
    schema = offered("grafana_foundation_sdk.models.dashboard")
    written = offered("grafana_foundation_sdk.cog.encoder").JSONEncoder
    offered("grafana_foundation_sdk.cog.plugins").register_default_plugins()
    for path in DASHBOARDS:
        own = json.loads(path.read_text())
        read = json.loads(written(sort_keys=True).encode(schema.Dashboard.from_json(own)))
        assert list(_lost(own, read)) == []
        misspelled = {**own, "panelz": own["panels"]}  # that it is lost shows that others would be
        assert list(_lost(misspelled, read)) == ["/panelz"]


def _lost(own: Any, read: Any, at: str = "") -> Iterator[str]:
    """Where something stands that was lost when it was read by the schema."""
    if isinstance(own, dict) and isinstance(read, dict):
        for name, value in own.items():
            yield from _lost(value, read[name], f"{at}/{name}") if name in read else [f"{at}/{name}"]
    elif isinstance(own, list) and isinstance(read, list) and len(own) == len(read):
        for number, (one, other) in enumerate(zip(own, read, strict=True)):
            yield from _lost(one, other, f"{at}/{number}")
    elif own != read:
        yield at


def test_the_home_dashboard_is_mounted() -> None:
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    (folder,) = (source for source, target in mounts() if target == str(Path(home).parent))
    assert (REPOSITORY / folder / Path(home).name).exists()
