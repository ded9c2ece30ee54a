"""Every command that the chart renders, started here: real processes, PostgreSQL and Redis, a store in the home or a bucket.

What a cluster would add is not here: its volumes, network policies, limits and user.
"""

from __future__ import annotations

import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy import helm
from tests.deploy.helm import Manifest, container_of, one, rendered
from tests.deploy.kubelet import POD_IP, Node
from tests.e2e.conftest import QUICK, USERS, eventually, write_tables
from tests.forks import PATIENCE, end
from tests.servers import free_port
from tests.store.places import CREDENTIALS, client_of

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(
        not helm.is_here(), reason="there is neither `helm` on PATH nor the wheel helm-python-sdk, which has its engine"
    ),
]

# Of the tests' quick settings those that the chart does not set itself.
_OF_THE_CHART = ("LETHE_SECRET", "LETHE_THREADS", "LETHE_BUILD_PROCESSES")
SETTINGS = {name: value for name, value in QUICK.items() if name not in _OF_THE_CHART} | {"LETHE_MODEL": "/data/model"}
SMALL = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
VALUES: dict[str, Any] = {
    "settings": SETTINGS,
    "allowedHosts": ["lethe.example.org"],
    "api": {"drainSeconds": 1, "resources": SMALL},
    "worker": {"resources": SMALL},
}


@dataclass(frozen=True)
class Cluster:
    """The rendered chart, and the machine on which its pods run."""

    manifests: list[Manifest]
    node: Node

    def container(self, name: str) -> Manifest:
        return container_of(self.manifests, name)

    def get(self, path: str, host: str = "", key: str = "") -> int:
        """The status that the api answers with, as a pod's address unless a host is named; 0: nobody is there."""
        headers = {"Host": host or f"{POD_IP}:8000", **({"Authorization": f"Bearer {key}"} if key else {})}
        with suppress(httpx.TransportError):
            return httpx.get(f"http://{POD_IP}:{self.node.port}{path}", headers=headers, timeout=30).status_code
        return 0

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """The container until the end, at which SIGTERM has to be enough, within the time that its pod is given."""
        process = self.node.begin(self.container(name))
        try:
            yield
        finally:
            pod = one(self.manifests, "Deployment", f"lethe-{name}")["spec"]["template"]["spec"]
            began = time.monotonic()
            code = end(process)
        assert code == 0, self.node.log(name)
        assert time.monotonic() - began < pod["terminationGracePeriodSeconds"]


@pytest.fixture(params=["home", "bucket"])
def cluster(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny_models: Callable[..., Path],
    new_database: Callable[[], AbstractContextManager[str]],
    redis_url: str,
) -> Iterator[Cluster]:
    with new_database() as database_url:
        secrets = {
            ("lethe", "secret"): QUICK["LETHE_SECRET"],
            ("lethe", "database_url"): database_url,
            ("lethe", "redis_url"): redis_url,
        }
        values = VALUES if request.param == "home" else in_a_bucket(request.getfixturevalue("moto_url"), secrets)
        manifests = rendered(values, {"job": {"args": ["upgrade"]}})
        node = Node(tmp_path, secrets, free_port())
        for _, pod in helm.pods(manifests):
            node.mount(pod)
        shutil.copytree(tiny_models("llama"), node.mounted["/data"] / "model")
        yield Cluster(manifests, node)


def in_a_bucket(endpoint: str, secrets: dict[tuple[str, str], str]) -> dict[str, Any]:
    """Values for an encrypted store in a new bucket; what they name is put among the secrets."""
    bucket = f"lethe-{uuid.uuid4().hex}"
    client_of(endpoint).create_bucket(Bucket=bucket)
    secrets["bucket", "credentials"] = "[default]\n" + "".join(
        f"{name.lower()} = {CREDENTIALS[name]}\n" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    )
    secrets["lethe", "store_key"] = "5e" * 32
    return {
        **VALUES,
        "settings": {**SETTINGS, "LETHE_STORE_ENCRYPTION": "per-artifact"},
        "secretFiles": {"store_key": {"name": "lethe", "key": "store_key"}},
        "store": {
            "url": f"s3://{bucket}/lethe",
            "region": CREDENTIALS["AWS_REGION"],
            "endpointUrl": endpoint,
            "credentials": {"name": "bucket"},
        },
    }


def test_every_command_starts_serves_and_ends_as_the_chart_has_it(cluster: Cluster) -> None:
    api, node = cluster.container("api"), cluster.node
    key = made_key(cluster)
    with cluster.running("api"), cluster.running("worker"):
        eventually(lambda: cluster.get(api["startupProbe"]["httpGet"]["path"]) == 200, "the api has started")
        ready = api["readinessProbe"]["httpGet"]["path"]
        assert cluster.get(ready) == 503  # over an empty ledger, but the pod is left alone
        assert node.run_probe(api, api["livenessProbe"]) == 0
        import_people(cluster)
        eventually(lambda: cluster.get(ready) == 200, "the worker has built, and the replica is ready")
        answers_whom_it_should(cluster, key)
        lies_where_it_should(cluster)
        assert node.run_probe(api, api["lifecycle"]["preStop"]) == 0
    assert node.run_probe(api, api["livenessProbe"]) != 0
    # What wants nobody else at the ledger.
    assert node.run_lethe(cluster.container("job"), log="job") == 0, node.log("job")


def made_key(cluster: Cluster) -> str:
    """What init containers of two replicas make: one key, for its owner alone. Without it the api does not start."""
    node, init = cluster.node, cluster.container("key")
    assert node.begin(cluster.container("api"), "too-early").wait(PATIENCE) == 1
    assert "there is no API key yet" in node.log("too-early")
    at_once = [node.begin(init, f"key-{number}") for number in range(2)]
    assert [process.wait(PATIENCE) for process in at_once] == [0, 0]
    file = node.mounted["/data"] / "prometheus.key"
    made = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert node.run_lethe(init, log="key-again") == 0, node.log("key-again")  # as at every start of a replica
    assert file.read_text() == made
    return made


def import_people(cluster: Cluster) -> None:
    """As docs/kubernetes.md has it: tables on the volume, and a command in the worker's container."""
    write_tables(cluster.node.mounted["/data"], USERS)
    tables = ("--items", "/data/items.csv", "--interactions", "/data/interactions.csv", "--noun", "movie")
    code = cluster.node.run_lethe(cluster.container("worker"), "import", "table", *tables)
    assert code == 0, cluster.node.log("exec")


def answers_whom_it_should(cluster: Cluster, key: str) -> None:
    """Prometheus by the pod's address, callers by names, and nobody without a key or under another name."""
    assert cluster.get("/metrics", key=key) == 200
    assert cluster.get("/metrics") == 401
    assert cluster.get("/generation", key=key) == 403
    for host in ("lethe.example.org", "lethe:8000", "lethe.shop.svc.cluster.local:8000"):
        assert cluster.get("/metrics", host, key) == 200
    assert cluster.get("/metrics", "elsewhere.example.org", key) == 421


def lies_where_it_should(cluster: Cluster) -> None:
    """The store where the values have it, and no file with a secret but those that were mounted."""
    node, worker = cluster.node, cluster.container("worker")
    home = node.mounted["/data"] / "lethe"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    named = {entry["name"]: entry.get("value") for entry in worker["env"]}
    assert (home / "store").exists() is ("LETHE_STORE_URL" not in named)
    assert (home / "receipts.pem").exists()
    assert not [name for name in ("secret", "store.key") if (home / name).exists()]
    environment = node.environment(worker)
    assert not set(node.secrets.values()) & set(environment.values())
