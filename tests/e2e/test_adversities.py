"""What a whole installation promises while its disk, its Redis and its worker fail. The tests follow each other's state."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.disks import Disk, small_disk
from tests.forgetting.test_bell import Server as Redis

from .conftest import BYSTANDER, OTHERS, TITLES, Installation, Server, eventually, is_alive

pytestmark = pytest.mark.thorough
GRACE = 10.0  # seconds that a server leaves its worker to end
LEAVING = iter(OTHERS[::-1])  # who is forgotten next


@pytest.fixture(scope="module")
def own_redis(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis.Redis.from_url(redis_url) as client:
        executable = client.info("server")["executable"]
    own = Redis(executable, tmp_path_factory.mktemp("own-redis"))
    own.start()
    yield own
    own.kill()


@pytest.fixture(scope="module")
def installation(
    installations: Callable[..., Installation], template: Installation, own_redis: Redis
) -> Iterator[tuple[Installation, Disk]]:
    """A copy of the template, with its store on a disk of its own."""
    copy = installations(LETHE_REDIS_URL=own_redis.url)
    with small_disk(copy.home / "store", "32m") as disk:
        shutil.copytree(template.home, copy.home, dirs_exist_ok=True)
        yield copy, disk


@pytest.fixture(scope="module")
def server(installation: tuple[Installation, Disk]) -> Iterator[Server]:
    with installation[0].serving_ready() as running:
        yield running


@pytest.fixture
def disk(installation: tuple[Installation, Disk]) -> Disk:
    return installation[1]


def forget(server: Server, user: str) -> str:
    answer = server.post("/forget", {"user_id": user})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["request_id"])


def assert_serves_without(server: Server, request_id: str, user: str) -> None:
    """Others get their answers; of the person nothing is known, and what has seen them is masked."""
    assert any(shard["masked"] for shard in server.get("/generation").json()["shards"])
    assert len(server.recommend(user_id=BYSTANDER, candidates=TITLES[:3])["items"]) == 3
    assert server.post("/recommend", {"user_id": user, "strict": True}).status_code == 404
    assert server.state_of(request_id)["state"] != "completed"


def failed(server: Server, request_id: str, saying: str) -> bool:
    state = server.state_of(request_id)
    return state["state"] == "failed" and saying in (state["error"] or "")


def test_while_the_store_is_read_only_deletions_are_masked_and_say_why_they_wait(
    server: Server, installation: tuple[Installation, Disk], disk: Disk
) -> None:
    disk.make_read_only()
    user = next(LEAVING)
    request_id = forget(server, user)
    eventually(lambda: failed(server, request_id, "read-only"), "the deletion says that the disk is read-only")
    assert_serves_without(server, request_id, user)
    assert str(installation[0].home) not in str(server.state_of(request_id))
    disk.make_writable()
    assert server.completed(request_id)["error"] is None
    assert installation[0].run("verify").code == 0


def test_while_the_disk_is_full_deletions_are_masked_and_say_why_they_wait(
    server: Server, installation: tuple[Installation, Disk], disk: Disk
) -> None:
    disk.fill()
    user = next(LEAVING)
    request_id = forget(server, user)
    eventually(lambda: failed(server, request_id, "disk is full"), "the deletion says that the disk is full")
    assert_serves_without(server, request_id, user)
    assert str(installation[0].home) not in str(server.state_of(request_id))
    disk.make_room()
    assert server.completed(request_id)["error"] is None
    assert list((disk.path / "tmp").iterdir()) == []
    assert installation[0].run("verify").code == 0


def test_deletions_that_come_while_redis_is_killed_restarted_empty_and_flushed_are_all_completed(
    server: Server, installation: tuple[Installation, Disk], own_redis: Redis
) -> None:
    users = [next(LEAVING) for _ in range(4)]
    requests = [forget(server, users[0])]
    own_redis.kill()
    requests.append(forget(server, users[1]))
    assert server.recommend(user_id=BYSTANDER, candidates=TITLES[:3])["items"]
    own_redis.start()
    requests.append(forget(server, users[2]))
    with redis.Redis.from_url(own_redis.url) as client:
        client.flushall()
    requests.append(forget(server, users[3]))
    for request_id in requests:
        assert server.completed(request_id)["error"] is None
    assert installation[0].run("verify").code == 0


def test_a_worker_that_is_told_to_end_while_it_trains_leaves_cleanly_and_the_next_one_completes(
    server: Server, installation: tuple[Installation, Disk], disk: Disk
) -> None:
    worker = server.worker()
    request_id = forget(server, next(LEAVING))
    eventually(lambda: trains(server), "a shard is in training")
    family = [worker, *worker.children(recursive=True)]
    worker.send_signal(signal.SIGTERM)
    eventually(lambda: not any(map(is_alive, family)), "the worker has ended with all its children", GRACE)
    assert list((disk.path / "tmp").iterdir()) == []
    assert server.state_of(request_id)["state"] == "retraining"
    assert server.completed(request_id)["attempts"] >= 2
    assert not trains(server)
    assert '"event": "worker_ended", "status": 0' in installation[0].log.read_text()
    assert installation[0].run("verify").code == 0


def trains(server: Server) -> bool:
    metrics = server.get("/metrics").text
    return 'lethe_shards{state="training"} 0.0' not in metrics and 'lethe_shards{state="training"}' in metrics
