"""`lethe-client` against a real server: every promise that it makes of the service, and the README's quick start."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lethe_client import AsyncClient, Client, Conflict, Forbidden, NotFound, Unauthenticated, models
from service.forgetting.receipts import ReceiptSigner, verify

from .conftest import ALONE, BYSTANDER, ITEMS, OTHERS, TITLES, Installation, Server

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def installed(copies: Callable[..., Installation]) -> Installation:
    return copies()


@pytest.fixture(scope="module")
def server(installed: Installation) -> Iterator[Server]:
    with installed.serving_ready() as running:
        yield running


@pytest.fixture
def lethe(server: Server) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        yield client


def test_rankings(lethe: Client) -> None:
    assert [item.rank for item in lethe.recommend(BYSTANDER, top_k=3).items] == [1, 2, 3]
    history = models.History(liked=TITLES[:1], disliked=TITLES[1:2])
    ranked = lethe.recommend(history=history, candidates=["A film nobody has heard of", TITLES[2]], explain=True)
    assert {item.item_id for item in ranked.items} == {None, "film02"}
    assert ranked.weights
    first = lethe.recommend(BYSTANDER, cursor="", top_k=2)
    second = lethe.recommend(BYSTANDER, cursor=first.cursor, top_k=2)
    assert not {item.item_id for item in first.items} & {item.item_id for item in second.items}
    assert lethe.similar_items("film00", filter={"categories": {"any": ["War"]}}, top_k=1).items[0].rank == 1
    assert [one.index for one in lethe.rerank(TITLES[0], TITLES[1:3], top_n=1).results] in ([0], [1])
    lines = list(lethe.recommend_batch([BYSTANDER, "nobody"], top_k=2))
    assert [(line.index, line.answer and len(line.answer.items)) for line in lines] == [(0, 2), (1, 2)]
    with pytest.raises(NotFound) as refused:
        lethe.recommend("nobody", strict=True)
    assert "nobody" not in str(refused.value)


def test_items_and_events(lethe: Client) -> None:
    assert lethe.put_items([{"item_id": "new 1/2", "title": "New"}, {"item_id": "..", "title": "Dots"}]).created == 2
    assert lethe.put_item("new", models.ItemBody(title="Newer", attributes={"price": 3, "kept": True})).year is None
    assert lethe.patch_item("new", {"year": 2026, "attributes": {"price": None}}).attributes == {"kept": True}
    assert lethe.get_item("..").title == "Dots"
    assert len(list(lethe.every_item())) == len(ITEMS) + 3
    taken = lethe.take_interactions([{"user_id": "eve", "item_id": "new", "rating": "5"}])
    assert (taken.taken, taken.outcomes) == (1, ["new"])
    assert lethe.rectify_interaction("eve", "new", liked=False).held
    assert lethe.forget_interactions("eve", ["new"]).request_id
    assert lethe.delete_item("new") is None
    with pytest.raises(NotFound):
        lethe.get_item("new")


def test_rights(lethe: Client) -> None:
    held = lethe.export_user(OTHERS[0])
    assert lethe.export_user_csv(OTHERS[0]).count("\n") == len(held.interactions) + 1
    assert lethe.restrict_user(OTHERS[0], "objection").interactions == len(held.interactions)
    assert lethe.read_restriction(OTHERS[0]).ground == "objection"
    assert lethe.lift_restriction(OTHERS[0]).lifted
    assert lethe.hold_user(OTHERS[0], "a court").ground == lethe.read_hold(OTHERS[0]).ground
    assert lethe.release_hold(OTHERS[0]).released


def test_a_deletion_from_its_preview_to_its_proofs(lethe: Client, installed: Installation) -> None:
    person = OTHERS[1]
    assert lethe.preview_forget(person).interactions > 0
    asked = lethe.forget(person, idempotency_key="once")
    assert isinstance(asked, models.ForgetAnswer)
    assert asked.held
    assert lethe.forget(person, idempotency_key="once").request_id == asked.request_id
    with pytest.raises(Conflict):
        lethe.forget(OTHERS[2], idempotency_key="once")
    receipt = lethe.wait_for_receipt(asked.request_id, every=0.1).decode()
    signer = ReceiptSigner.open(installed.home / "receipts.pem")
    content = verify(receipt, signer.public_key_pem())
    assert content["held"] is True
    assert models.SignedReceipt.model_validate_json(receipt).receipt == content == json.loads(receipt)["receipt"]
    assert lethe.forget_status(asked.request_id).state == "completed"
    assert asked.request_id in [one.request_id for one in lethe.every_forget("completed")]
    assert lethe.forget_attestation(asked.request_id).payload_type == "application/vnd.in-toto+json"
    proof = lethe.forget_receipt_proof(asked.request_id, since=1)
    assert proof.inclusion is not None
    assert lethe.receipt_log_consistency(1).consistency is not None
    assert lethe.receipt_log_head(size=1).signatures


def test_many_deletions_and_what_is_served(lethe: Client) -> None:
    found = lethe.preview_batch(user_ids=[OTHERS[3]], item_ids=[item for item, _ in ITEMS])
    selection = {"user_ids": [OTHERS[3]], "item_ids": [item for item, _ in ITEMS], "digest": found.digest}
    assert len(lethe.forget_batch(selection=selection).requests) == found.users == 1
    asked = lethe.forget_batch([OTHERS[4], "nobody knows them"])
    assert [one.held for one in asked.requests] == [True, False]
    assert lethe.wait_for_receipt(asked.requests[0].request_id, every=0.1)
    assert lethe.generation().shards
    assert (lethe.healthz().status, lethe.readyz().status) == ("ok", "ready")
    assert "lethe_http_requests_total" in lethe.metrics()


def test_the_same_without_waiting(server: Server) -> None:
    async def asked() -> list[int]:
        async with AsyncClient(f"http://127.0.0.1:{server.port}") as lethe:
            answers = await asyncio.gather(*(lethe.recommend(user, top_k=3) for user in OTHERS[5:9]))
            lines = [line.index async for line in lethe.recommend_batch(OTHERS[5:9])]
            receipt = await lethe.wait_for_receipt((await lethe.forget(OTHERS[5])).request_id, every=0.1)
            assert receipt.startswith(b"{")
            assert len([one async for one in lethe.every_item()]) >= len(ITEMS)
            return lines + [len(one.items) for one in answers]

    assert asyncio.run(asked()) == [0, 1, 2, 3, 3, 3, 3, 3]


def test_a_key_opens_what_it_may(copies: Callable[..., Installation]) -> None:
    installation = copies()
    key = installation.folder / "key"
    installation.lethe("keys", "create", "--name", "shop", "--scopes", "recommend,forget", "--to", str(key))
    with installation.serving_ready(ALONE) as server:
        url = f"http://127.0.0.1:{server.port}"
        with Client(url) as stranger, pytest.raises(Unauthenticated):
            stranger.recommend(BYSTANDER)
        with Client(url, key.read_text().strip()) as shop:
            assert shop.recommend(BYSTANDER, top_k=1).items
            assert isinstance(shop.forget(OTHERS[6]), models.ForgetAcknowledged)
            with pytest.raises(Forbidden):
                shop.export_user(BYSTANDER)


def test_the_quick_start_of_the_readme_runs(server: Server, tmp_path: Path) -> None:
    code = (EXAMPLES / "quick_start.py").read_text()
    assert f"```python\n{code}```\n" in (ROOT / "README.md").read_text()
    assert len([line for line in code.splitlines() if line]) <= 10
    for file in ("items.csv", "ratings.csv"):
        shutil.copy(EXAMPLES / file, tmp_path)
    script = tmp_path / "quick_start.py"
    script.write_text(code.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    recommended, receipt = done.stdout.splitlines()[:1], done.stdout.split("\n", 1)[1]
    assert recommended[0].count("(") == 3
    assert json.loads(receipt)["receipt"]["counts"]["interactions"] == 4
