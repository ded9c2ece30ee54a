"""What Helm makes of the chart: manifests that Kubernetes takes, of pods that may do little and are ended with care."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.config import SECRETS
from tests.deploy import helm
from tests.deploy.helm import CHART, Manifest, Refused, container_of, containers, linted, one, pods, rendered

pytestmark = pytest.mark.skipif(
    not helm.is_here(), reason="there is neither `helm` on PATH nor the wheel helm-python-sdk, which has its engine"
)

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "docker" / "prometheus" / "alerts.yml"
SERVE = ROOT / "service" / "entrypoints" / "commands" / "serve.py"
EVERYTHING = "ci/everything.yaml"
ON_GPUS = "values-gpu.yaml"
VARIANTS: dict[str, tuple[helm.Values | str, ...]] = {
    "default": (),
    "everything": (EVERYTHING,),
    "gpu": (ON_GPUS,),
    "open": ({"networkPolicy": {"enabled": False}, "home": {"existingClaim": "mine"}},),
}
CUSTOM = {"ServiceMonitor", "PrometheusRule"}  # of an operator's; Kubernetes' own schemas do not know them
OLDEST, NEWEST = "1.27", "1.37"


@pytest.fixture(scope="module")
def plain() -> list[Manifest]:
    return rendered()


@pytest.fixture(scope="module")
def whole() -> list[Manifest]:
    return rendered(EVERYTHING)


@pytest.fixture(scope="module", params=VARIANTS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(*VARIANTS[request.param])


def environment(container: Manifest) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


# What Helm and Kubernetes say of it


@pytest.mark.parametrize("name", VARIANTS)
def test_helm_finds_nothing_to_say(name: str) -> None:
    assert "WARNING" not in linted(*VARIANTS[name])


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_schemas_take_every_manifest(manifests: list[Manifest], version: str) -> None:
    """The oldest version that the chart names, and the newest whose schemas are there; unknown fields are refused."""
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate, which has Kubernetes' schemas, is not installed")
    known = importlib.import_module("kubernetes_validate")
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM:
            known.validate(manifest, version, strict=True)


def test_schemas_would_find_a_misspelt_field(plain: list[Manifest]) -> None:
    known = pytest.importorskip("kubernetes_validate")
    deployment = one(plain, "Deployment", "lethe-worker")
    misspelt = {**deployment, "spec": {**deployment["spec"], "replica": 1}}
    with pytest.raises(known.ValidationError, match="replica"):
        known.validate(misspelt, NEWEST, strict=True)


def test_the_oldest_version_is_the_one_that_the_chart_names() -> None:
    assert f'">={OLDEST}.0-0"' in (CHART / "Chart.yaml").read_text()


def test_there_is_what_the_page_promises(plain: list[Manifest], whole: list[Manifest]) -> None:
    kinds = sorted((manifest["kind"], manifest["metadata"]["name"]) for manifest in plain)
    assert kinds == [
        ("Deployment", "lethe-api"),
        ("Deployment", "lethe-worker"),
        ("NetworkPolicy", "lethe"),
        ("NetworkPolicy", "lethe-api"),
        ("PersistentVolumeClaim", "lethe-home"),
        ("PodDisruptionBudget", "lethe-api"),
        ("Service", "lethe"),
        ("ServiceAccount", "lethe"),
    ]
    more = {manifest["kind"] for manifest in whole} - {kind for kind, _ in kinds}
    assert more == {"HorizontalPodAutoscaler", "Job", *CUSTOM}


def test_every_selector_finds_the_pods_that_it_means(whole: list[Manifest]) -> None:
    workloads = [manifest for manifest in whole if manifest["kind"] in ("Deployment", "Job")]
    labels = {m["metadata"]["name"]: m["spec"]["template"]["metadata"]["labels"] for m in workloads}
    api = labels["lethe-api"].items()
    for name in ("lethe-api", "lethe-worker"):
        wanted = one(whole, "Deployment", name)["spec"]["selector"]["matchLabels"].items()
        assert [of for of in labels if wanted <= labels[of].items()] == [name]
    assert one(whole, "Service")["spec"]["selector"].items() <= api
    assert not one(whole, "Service")["spec"]["selector"].items() <= labels["lethe-worker"].items()
    assert one(whole, "PodDisruptionBudget", "lethe-api")["spec"]["selector"]["matchLabels"].items() <= api
    everywhere = one(whole, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items()
    assert all(everywhere <= found.items() for found in labels.values())


# What the pods may


def test_pods_run_as_an_ordinary_user_who_may_do_nothing_else(manifests: list[Manifest]) -> None:
    for _, pod in pods(manifests):
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"], context["fsGroup"]) == (True, 10001, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["fsGroupChangePolicy"] == "OnRootMismatch"
        assert pod["automountServiceAccountToken"] is False
    for _, container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
    assert one(manifests, "ServiceAccount")["automountServiceAccountToken"] is False


def test_the_user_is_the_images(plain: list[Manifest]) -> None:
    users = {pod["securityContext"]["runAsUser"] for _, pod in pods(plain)}
    for name in ("Dockerfile", "Dockerfile.gpu"):
        assert {int(uid) for uid in re.findall(r"--uid (\d+)", (ROOT / "docker" / name).read_text())} == users


def test_what_may_be_written_is_the_home_and_memory(manifests: list[Manifest]) -> None:
    for _, pod in pods(manifests):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["tmp"]["emptyDir"]["medium"] == volumes["shm"]["emptyDir"]["medium"] == "Memory"
        assert volumes["secrets"]["projected"]["defaultMode"] == 0o440
    for _, container in containers(manifests):
        mounted = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert mounted.keys() == {"/data", "/secrets", "/tmp", "/dev/shm"}
        assert mounted["/secrets"]["readOnly"] is True
        assert environment(container)["HOME"] == "/tmp"


def test_no_variable_comes_from_a_service_of_the_namespace(manifests: list[Manifest]) -> None:
    """Kubernetes would give the pods LETHE_PORT=tcp://…, of the Service `lethe`, and no process would start."""
    assert all(pod["enableServiceLinks"] is False for _, pod in pods(manifests))


def test_secrets_are_named_and_mounted_as_files(manifests: list[Manifest]) -> None:
    assert not [manifest for manifest in manifests if manifest["kind"] in ("Secret", "ConfigMap")]
    for _, pod in pods(manifests):
        (secrets,) = (volume["projected"]["sources"] for volume in pod["volumes"] if volume["name"] == "secrets")
        files = {item["path"] for source in secrets for item in source["secret"]["items"]}
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            named = environment(container)
            assert not [name for name in SECRETS if f"LETHE_{name.upper()}" in named]
            assert not [name for name in named if "KEY" in name and not name.endswith("_FILE")]
            at = {value for value in named.values() if str(value).startswith("/secrets/")}
            assert at == {f"/secrets/{file}" for file in files}


def test_an_optional_secret_is_there_when_it_is_named(whole: list[Manifest]) -> None:
    for name, container in containers(whole):
        assert environment(container)["LETHE_STORE_KEY_FILE"] == "/secrets/store_key", name


# Networks


def test_nobody_comes_in_or_goes_out_who_is_not_named(plain: list[Manifest]) -> None:
    everybody, api = (one(plain, "NetworkPolicy", name)["spec"] for name in ("lethe", "lethe-api"))
    assert (everybody["policyTypes"], everybody["ingress"]) == (["Ingress", "Egress"], [])
    assert [port["port"] for rule in everybody["egress"] for port in rule["ports"]] == [53, 53, 5432, 6379]
    assert (api["policyTypes"], api["ingress"]) == (["Ingress"], [])


def test_those_who_are_named_do(whole: list[Manifest]) -> None:
    everybody, api = (one(whole, "NetworkPolicy", name)["spec"] for name in ("lethe", "lethe-api"))
    (rule,) = api["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": "http"}]
    (peer,) = rule["from"]
    assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["shop", "monitoring"]
    dns, *others = everybody["egress"]
    assert dns["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kube-system"}
    reached = [(rule["to"][0]["ipBlock"]["cidr"], rule["ports"][0]["port"]) for rule in others]
    assert reached == [("10.0.0.5/32", 5432), ("10.0.0.6/32", 6379), ("10.0.0.7/32", 443), ("10.0.0.8/32", 443)]


def test_names_under_which_it_is_called_are_joined_by_the_clusters_own(
    plain: list[Manifest], whole: list[Manifest]
) -> None:
    assert "LETHE_ALLOWED_HOSTS" not in environment(container_of(plain, "api"))
    order = [entry["name"] for entry in container_of(whole, "api")["env"]]
    assert order.index("POD_IP") < order.index("LETHE_ALLOWED_HOSTS")  # or $(POD_IP) would stay as it is
    hosts = environment(container_of(whole, "api"))["LETHE_ALLOWED_HOSTS"].split(",")
    assert hosts == [
        "lethe.example.org",
        "lethe",
        "lethe.shop",
        "lethe.shop.svc",
        "lethe.shop.svc.cluster.local",
        "$(POD_IP)",
        "[$(POD_IP)]",
    ]


# Beginning, living, ending


def test_a_replica_is_given_the_time_that_it_takes_to_end() -> None:
    values = {"api": {"requestTimeout": 40, "drainSeconds": 20}}
    manifests = rendered(values)
    pod = one(manifests, "Deployment", "lethe-api")["spec"]["template"]["spec"]
    (api,) = pod["containers"]
    assert api["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "20"]
    assert environment(api)["LETHE_REQUEST_TIMEOUT"] == "40"
    assert "timeout_graceful_shutdown=int(settings.request_timeout) + 1," in SERVE.read_text()
    own_drain = 40 + 1
    assert pod["terminationGracePeriodSeconds"] >= 20 + own_drain + 10


def test_probes_ask_what_needs_no_key_and_life_does_not_depend_on_the_ledger(plain: list[Manifest]) -> None:
    api = container_of(plain, "api")
    assert api["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert api["startupProbe"]["failureThreshold"] * api["startupProbe"]["periodSeconds"] >= 300
    assert api["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert "httpGet" not in api["livenessProbe"]
    assert api["ports"] == [{"name": "http", "containerPort": 8000}]


def test_threads_are_those_that_the_container_asks_for_and_not_the_nodes(plain: list[Manifest]) -> None:
    asked = {"resourceFieldRef": {"resource": "requests.cpu"}}
    assert environment(container_of(plain, "api"))["LETHE_THREADS"] == asked
    assert environment(container_of(plain, "worker"))["LETHE_BUILD_PROCESSES"] == asked


def test_there_is_one_worker_and_never_two(plain: list[Manifest]) -> None:
    spec = one(plain, "Deployment", "lethe-worker")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert spec["template"]["spec"]["shareProcessNamespace"] is True


def test_a_home_that_the_chart_made_outlives_the_release(plain: list[Manifest]) -> None:
    claim = one(plain, "PersistentVolumeClaim", "lethe-home")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    mine = rendered({"home": {"existingClaim": "mine"}})
    assert "PersistentVolumeClaim" not in {manifest["kind"] for manifest in mine}
    for _, pod in pods(mine):
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "mine"


def test_replicas_are_counted_by_the_autoscaler_alone_where_there_is_one(
    plain: list[Manifest], whole: list[Manifest]
) -> None:
    assert one(plain, "Deployment", "lethe-api")["spec"]["replicas"] == 2
    assert "replicas" not in one(whole, "Deployment", "lethe-api")["spec"]
    spec = one(whole, "HorizontalPodAutoscaler", "lethe-api")["spec"]
    assert spec["scaleTargetRef"]["name"] == "lethe-api"
    (metric,) = spec["metrics"]
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "4096"}


def test_where_it_is_stopped_nothing_runs(whole: list[Manifest]) -> None:
    stopped = rendered(EVERYTHING, {"stopped": True})
    for name in ("lethe-api", "lethe-worker"):
        assert one(stopped, "Deployment", name)["spec"]["replicas"] == 0
    gone = {manifest["kind"] for manifest in whole} - {manifest["kind"] for manifest in stopped}
    assert gone == {"HorizontalPodAutoscaler"}  # or it would start them again


# Store, GPUs, monitoring


def test_a_store_in_a_bucket_is_reached_with_credentials_of_a_file(
    plain: list[Manifest], whole: list[Manifest]
) -> None:
    for _, container in containers(whole):
        named = environment(container)
        assert named["LETHE_STORE_URL"] == "s3://bucket/lethe"
        assert named["AWS_SHARED_CREDENTIALS_FILE"] == "/secrets/aws_credentials"
        assert (named["AWS_REGION"], named["AWS_ENDPOINT_URL_S3"]) == ("eu-central-1", "https://objects.example.org")
    assert not [name for _, container in containers(plain) for name in environment(container) if name.startswith("AWS")]


def test_on_gpus_api_and_worker_have_one_each_and_the_other_image() -> None:
    manifests = rendered(ON_GPUS)
    for name in ("lethe-api", "lethe-worker"):
        pod = one(manifests, "Deployment", name)["spec"]["template"]["spec"]
        assert pod["runtimeClassName"] == "nvidia"
        (container,) = pod["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert environment(container)["LETHE_DEVICE"] == "cuda:0"
        assert container["image"].startswith("lethe-gpu:")
    assert "LETHE_BUILD_PROCESSES" not in environment(container_of(manifests, "worker"))
    key = container_of(manifests, "key")
    assert "nvidia.com/gpu" not in key["resources"]["limits"]
    assert environment(key)["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_the_alerts_reach_the_operator_as_they_are(whole: list[Manifest]) -> None:
    assert one(whole, "PrometheusRule")["spec"] == yaml.safe_load(ALERTS.read_text())
    (endpoint,) = one(whole, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "lethe-metrics", "key": "key"}
    # By this name the alert on a replica that is down knows them.
    assert {"targetLabel": "job", "replacement": "lethe"} in endpoint["relabelings"]


def test_one_command_is_a_job_that_is_not_tried_again() -> None:
    job = rendered({"job": {"args": ["secret", "rotate"]}})
    assert container_of(job, "job")["args"] == ["secret", "rotate"]
    assert one(job, "Job", "lethe-secret")["spec"]["backoffLimit"] == 0


# What is refused


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"password": "x"}, "password"),
        ({"secretFiles": {"secert": {"name": "a", "key": "b"}}}, "secert"),
        ({"secretFiles": {"secret": {"name": ""}}}, "secretFiles.secret.name"),
        ({"settings": {"LETHE_SECRET": "x"}}, "name a key of a Secret under secretFiles.secret"),
        ({"settings": {"LETHE_STORE_KEY_FILE": "/x"}}, "secretFiles.store_key"),
        ({"settings": {"LETHE_HOME": "/x"}}, "settings.LETHE_HOME is set by the chart"),
        ({"settings": {"LETHE_NEGATIVES": 3}}, "settings.LETHE_NEGATIVES"),
        ({"settings": {"PATH": "/x"}}, "PATH"),
        ({"allowedHosts": ["https://lethe.example.org"]}, "allowedHosts.0"),
        ({"api": {"replicas": 0}}, "api.replicas"),
        ({"api": {"autoscaling": {"minReplicas": 9}}}, "minReplicas is more than"),
        ({"api": {"resources": {"requests": {"memory": "much"}}}}, "api.resources.requests.memory"),
        ({"api": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}, "set settings.LETHE_DTYPE"),
        ({"store": {"url": "https://bucket"}}, "store.url"),
        ({"store": {"url": "s3://key:secret@bucket/x"}}, "store.url"),
        ({"store": {"credentials": {"name": "a"}}}, "store.url names no bucket"),
        ({"home": {"accessModes": ["ReadOnlyMany"]}}, "home.accessModes.0"),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, "metrics.key.name"),
        ({"networkPolicy": {"redis": {"port": "all"}}}, "networkPolicy.redis.port"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name(values: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused) as refused:
        rendered(values)
    assert said in str(refused.value).replace("/", ".")  # Helm 3 joins names with dots, Helm 4 with slashes


def test_with_a_stated_precision_one_of_both_may_have_a_gpu() -> None:
    both = {"api": {"resources": {"limits": {"nvidia.com/gpu": 1}}}, "settings": {"LETHE_DTYPE": "bfloat16"}}
    assert rendered(both)
