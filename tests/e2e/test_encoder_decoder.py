"""A T5 and a BART installation, from the import to a verified receipt: as the story is of a causal model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.forgetting.receipts import ReceiptSigner, verify

from .conftest import BYSTANDER, SUBJECT, TITLES, USERS, Installation, Server, eventually

pytestmark = pytest.mark.thorough

SMALL = {"LETHE_SAMPLES_PER_USER": "2", "LETHE_MAX_SHARD_SIZE": "16", "LETHE_HISTORY_LENGTH": "2", "LETHE_EPOCHS": "1"}
PEOPLE = [user for user in USERS[:14] if user != SUBJECT]
KINDS = {
    "t5": {"LETHE_LORA_TARGETS": "q,v"},
    "bart": {"LETHE_LORA_TARGETS": "q_proj,v_proj", "LETHE_ACTIVATION": "prompt", "LETHE_LEVEL": "D"},
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def begun(
    kind: str, installations: Callable[..., Installation], tiny_models: Callable[..., Path]
) -> Callable[[list[str]], Installation]:
    """A function: people -> an installation that serves such a model to them, imported and not built."""

    def made(people: list[str]) -> Installation:
        installation = installations(tiny_models(kind), **SMALL, **KINDS[kind])
        installation.import_people(people)
        return installation

    return made


@pytest.fixture(scope="module")
def installed(begun: Callable[[list[str]], Installation]) -> Installation:
    installation = begun([*PEOPLE, SUBJECT])
    assert installation.build()["trained"] >= 2
    return installation


@pytest.fixture(scope="module")
def server(installed: Installation) -> Iterator[Server]:
    with installed.serving_ready() as running:
        yield running


def test_a_start_warns_of_nothing(server: Server, installed: Installation) -> None:
    assert server.recommend(history={"liked": TITLES[:1]})["items"]
    assert "Warning" not in installed.log.read_text()


def test_recommendations_are_ranked_and_explained(server: Server) -> None:
    named = server.recommend(user_id=BYSTANDER, candidates=TITLES[:8], top_k=8, explain=True)["items"]
    scores = [item["score"] for item in named]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 8
    assert all(0 < score < 1 for score in scores)
    shards = {shard["digest"] for shard in server.get("/generation").json()["shards"]}
    assert len(shards) >= 2
    for item in named:
        assert set(item["weights"]) == shards
        assert sum(item["weights"].values()) == pytest.approx(1, abs=1e-5)
    assert server.recommend(user_id=BYSTANDER, top_k=5)["items"]


def test_a_person_is_forgotten_and_what_is_left_is_a_house_that_never_knew_them(
    server: Server, installed: Installation, begun: Callable[[list[str]], Installation]
) -> None:
    before, files_before = server.get("/generation").json(), installed.adapter_files()
    accepted = server.post("/forget", {"user_id": SUBJECT}).json()
    [gone] = accepted["affected_shards"]
    masked = server.recommend(user_id=BYSTANDER, candidates=TITLES[:3], explain=True)["items"][0]["weights"]
    assert masked.get(gone, 0.0) == 0.0
    assert server.completed(accepted["request_id"])["error"] is None
    eventually(lambda: server.get("/generation").json()["generation"] != before["generation"], "the new one is served")
    after, files_after = server.get("/generation").json(), installed.adapter_files()
    kept = files_before.keys() & files_after.keys()
    assert kept
    assert gone not in kept  # a sibling goes with it where both together now fit one shard
    assert {digest: files_before[digest] for digest in kept} == {digest: files_after[digest] for digest in kept}

    receipt = server.get(f"/forget/{accepted['request_id']}/receipt").text
    content = verify(receipt, ReceiptSigner.open(installed.home / "receipts.pem").public_key_pem())
    assert content["held"] is True
    assert content["generation"] == {"before": before["generation"], "after": after["generation"]}
    for path in (*installed.home.rglob("*"), installed.log):
        assert not path.is_file() or SUBJECT.encode() not in path.read_bytes(), path

    assert begun(PEOPLE).build()["generation"] == after["generation"]
    assert "byte for byte" in installed.lethe("verify", "--rebuild")
