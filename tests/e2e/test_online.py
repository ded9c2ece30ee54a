"""A day of an online service: events, new items, hidden items and deletions at once, on two replicas of one installation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .conftest import ALONE, BYSTANDER, ITEMS, OTHERS, Installation, Server, eventually

RECOMMENDABLE_WITHIN = 300.0  # seconds: where many share a machine, the libraries of a first build alone take minutes


@pytest.fixture(scope="module")
def installed(copies: Callable[..., Installation]) -> Installation:
    return copies(LETHE_IMPRESSIONS_DAYS="30")


@pytest.fixture(scope="module")
def servers(installed: Installation) -> Iterator[tuple[Server, Server]]:
    """One with a worker, one without."""
    with installed.serving_ready() as one, installed.serving_ready(ALONE) as other:
        yield one, other


def shown(server: Server, **asked: Any) -> list[str]:
    body = {"user_id": BYSTANDER, "top_k": 60, **asked}
    return [item["item_id"] for item in server.recommend(**body)["items"]]


def test_the_next_answer_knows_what_somebody_has_just_done(servers: tuple[Server, Server]) -> None:
    one, other = servers
    first, second = shown(other)[:2]
    rows = [
        {"user_id": BYSTANDER, "item_id": first, "liked": True, "event_id": "e-1"},
        {"user_id": BYSTANDER, "item_id": second, "event": "view"},
        {"user_id": "a newcomer", "item_id": second, "rating": 5},
    ]
    told = one.post("/interactions", {"interactions": rows}).json()
    assert told["outcomes"] == ["new", "ignored", "new"]
    assert first not in shown(other)
    assert second in shown(other)
    assert "cold" not in other.recommend(user_id="a newcomer")
    assert other.recommend(user_id="nobody knows them")["cold"] is True
    assert other.post("/recommend", {"user_id": "nobody knows them", "strict": True}).status_code == 404


@pytest.mark.thorough
def test_a_new_item_can_be_recommended_and_a_hidden_one_is_gone_on_every_replica(
    servers: tuple[Server, Server], installed: Installation
) -> None:
    one, other = servers
    before = installed.adapter_files()
    began = time.monotonic()
    item = {"title": "A film that is new (2026)", "categories": ["Drama"], "attributes": {"in_stock": True}}
    assert one.client.put("/items/new-film", json=item).status_code == 201
    wanted = {"filter": {"attributes": {"in_stock": True}}}

    def recommended() -> bool:
        time.sleep(0.2)  # the worker yields to serving: whoever asks without a pause keeps it from its work
        return shown(other, **wanted) == ["new-film"]

    eventually(recommended, "the new item is recommended", RECOMMENDABLE_WITHIN)
    print(f"recommendable after {time.monotonic() - began:.1f} s")
    assert installed.adapter_files() == before
    assert other.client.patch("/items/new-film", json={"hidden": True}).status_code == 200
    assert shown(one, **wanted) == shown(other, **wanted) == []
    one.client.patch("/items/new-film", json={"hidden": False})
    assert shown(one, **wanted) == shown(other, **wanted) == ["new-film"]
    assert one.client.delete("/items/new-film").status_code == 204
    assert shown(one, **wanted) == shown(other, **wanted) == []


@pytest.mark.thorough
def test_a_deletion_is_completed_beside_what_has_arrived_and_a_rebuild_gives_the_same(
    servers: tuple[Server, Server], installed: Installation
) -> None:
    one, other = servers
    events = [
        {"user_id": user, "item_id": ITEMS[n % len(ITEMS)][0], "liked": n % 3 > 0, "timestamp": 2_000 + n}
        for n, user in enumerate([*OTHERS[2:], *(f"streamed-{n}" for n in range(200))] * 5)
    ]
    assert one.post("/interactions", {"interactions": events}).status_code == 200
    before = installed.adapter_files()
    preview = one.post("/forget/preview", {"user_id": OTHERS[0]}).json()
    accepted = one.post("/forget", {"user_id": OTHERS[0]}).json()
    assert accepted["affected_shards"] == [use["key"] for use in preview["masked"] if use["kind"] == "adapter"]
    one.completed(accepted["request_id"])
    after = installed.adapter_files()
    assert len(after.keys() - before.keys()) <= 1
    assert before.keys() - after.keys() == set(accepted["affected_shards"])
    eventually(lambda: not installed.report("status")["owed"], "nothing is owed")
    assert "byte for byte" in installed.lethe("verify", "--rebuild")
    assert json.loads(other.get(f"/users/{OTHERS[0]}/export").text)["interactions"] == []


@pytest.mark.thorough
def test_a_rectified_interaction_leaves_the_model_with_a_receipt_and_counts_as_corrected(
    servers: tuple[Server, Server], installed: Installation
) -> None:
    one, other = servers
    held = other.get(f"/users/{OTHERS[2]}/export").json()["interactions"]
    wrong = next(row for row in held if row["counted"])
    body = {"user_id": OTHERS[2], "item_id": wrong["item_id"], "liked": not wrong["liked"]}
    answer = one.client.patch("/interactions", json=body)
    assert answer.status_code == 202
    now = {row["item_id"]: row for row in other.get(f"/users/{OTHERS[2]}/export").json()["interactions"]}
    assert (now[wrong["item_id"]]["liked"], now[wrong["item_id"]]["counted"]) == (not wrong["liked"], False)
    assert now.keys() == {row["item_id"] for row in held}
    one.completed(answer.json()["request_id"])
    assert one.get(f"/forget/{answer.json()['request_id']}/receipt").status_code == 200
    assert "byte for byte" in installed.lethe("verify", "--rebuild")
    assert json.loads(installed.lethe("restore-check", "--json"))["forgotten_again"] == 0
    installed.build()
    [corrected] = [
        row
        for row in other.get(f"/users/{OTHERS[2]}/export").json()["interactions"]
        if row["item_id"] == wrong["item_id"]
    ]
    assert (corrected["liked"], corrected["counted"]) == (not wrong["liked"], True)


@pytest.mark.thorough
@pytest.mark.parametrize(("ground", "subject"), [("restriction", OTHERS[3]), ("objection", OTHERS[4])])
def test_a_restricted_person_counts_nowhere_on_any_replica_and_a_released_one_as_before(
    servers: tuple[Server, Server], installed: Installation, ground: str, subject: str
) -> None:
    one, other = servers
    settled(installed)
    before, files = installed.report("status")["generation"], contents(installed)
    held = other.get(f"/users/{subject}/export").json()
    seen_by = {
        use["kind"]: {own["key"] for own in held["used_by"] if own["kind"] == use["kind"]} for use in held["used_by"]
    }
    told = one.client.put(f"/users/{subject}/restriction", json={"ground": ground}).json()
    assert (told["ground"], told["interactions"]) == (ground, len(held["interactions"]))
    for server in servers:
        assert server.recommend(user_id=subject)["cold"] is True
        assert server.post("/recommend", {"user_id": subject, "strict": True}).status_code == 404
        answer = server.recommend(user_id=BYSTANDER, explain=True, candidates=[title for _, title in ITEMS[:2]])
        assert not any(answer["weights"].get(key) for key in seen_by["adapter"])
        assert not seen_by["memory"].intersection(answer["memories"])
        assert not answer["item_model"] or answer["generation"] != before
    refused = one.post("/interactions", {"interactions": [{"user_id": subject, "item_id": ITEMS[0][0], "liked": True}]})
    assert refused.json()["outcomes"] == ["restricted"]
    eventually(
        lambda: other.get(f"/users/{subject}/restriction").json()["left_out"], "they are left out of what is built"
    )
    settled(installed)
    assert not seen_by["adapter"].intersection(installed.adapter_files())
    assert "byte for byte" in installed.lethe("verify", "--rebuild")
    export = other.get(f"/users/{subject}/export").json()
    assert (export["used_by"], len(export["interactions"])) == ([], len(held["interactions"]))
    assert {row["set_aside"] for row in export["interactions"]} == {"restriction"}
    assert one.client.delete(f"/users/{subject}/restriction").json()["lifted"] is True
    eventually(lambda: installed.report("status")["generation"] == before, "the generation is the one before")
    settled(installed)
    assert contents(installed) == files
    assert other.get(f"/users/{subject}/export").json()["interactions"] == held["interactions"]
    assert "cold" not in other.recommend(user_id=subject)
    assert "byte for byte" in installed.lethe("verify", "--rebuild")


@pytest.mark.thorough
def test_a_held_deletion_is_in_force_on_every_replica_and_erased_when_it_is_released(
    servers: tuple[Server, Server], installed: Installation
) -> None:
    one, other = servers
    subject = OTHERS[5]
    settled(installed)
    assert one.client.put(f"/users/{subject}/hold", json={"ground": "court order"}).status_code == 200
    request = other.post("/forget", {"user_id": subject}).json()
    assert (request["state"], request["held"]) == ("held", True)
    for server in servers:
        assert server.post("/recommend", {"user_id": subject, "strict": True}).status_code == 404
    gone, adapters = set(request["affected_shards"]), installed.home / "store" / "adapters"
    eventually(lambda: gone.isdisjoint(path.name for path in adapters.iterdir()), "what has seen them is replaced")
    settled(installed)
    assert "byte for byte" in installed.lethe("verify", "--rebuild")
    assert json.loads(installed.lethe("restore-check", "--json"))["forgotten_again"] == 0
    kept = other.get(f"/users/{subject}/export").json()["interactions"]
    assert {row["set_aside"] for row in kept} == {"hold"}
    assert one.get(f"/forget/{request['request_id']}/receipt").status_code == 409
    assert other.client.delete(f"/users/{subject}/hold").json()["deletions"] == [request["request_id"]]
    one.completed(request["request_id"])
    receipt = one.get(f"/forget/{request['request_id']}/receipt").json()["receipt"]
    assert (receipt["outcome"], receipt["counts"]["interactions"]) == ("erased", len(kept))
    assert receipt["adapters"].keys() == set(request["affected_shards"])
    assert receipt["memories"]
    assert other.get(f"/users/{subject}/export").json()["interactions"] == []


@pytest.mark.thorough
def test_what_one_replica_has_shown_is_cited_at_another_and_a_guest_becomes_an_account(
    servers: tuple[Server, Server], installed: Installation
) -> None:
    one, other = servers
    guest, account = OTHERS[6], OTHERS[7]
    settled(installed)
    before = set(installed.adapter_files())
    answer = other.recommend(user_id=guest, top_k=2)
    row = {"user_id": guest, "item_id": answer["items"][0]["item_id"], "event": "click"}
    cited = {"interactions": [{**row, "recommendation_id": answer["recommendation_id"]}]}
    eventually(lambda: one.post("/interactions", cited).json()["attributed"] == [True], "the answer is known")
    settled(installed)
    assert set(installed.adapter_files()) == before  # nothing that is built depends on it
    rows = {row["item_id"]: row for row in other.get(f"/users/{guest}/export").json()["interactions"]}
    merged = one.post(f"/users/{guest}/merge", {"into": account}).json()
    assert merged["outcome"] == "merged"
    for server in servers:
        assert server.recommend(user_id=guest)["cold"] is True
        held = server.get(f"/users/{account}/export").json()
        assert rows.keys() <= {row["item_id"] for row in held["interactions"]}
        assert [shown["recommendation_id"] for shown in held["impressions"]] == [answer["recommendation_id"]]
    one.completed(merged["request_id"])
    settled(installed)
    assert "byte for byte" in installed.lethe("verify", "--rebuild")
    assert installed.report("quality")["generations"][0]["people"] is None  # of one person no figures
    assert "fewer than 20" in installed.lethe("quality")
    gone = one.post("/forget", {"user_id": account}).json()
    one.completed(gone["request_id"])
    texts = installed.folder / "gone.txt"
    texts.write_text(f"{guest}\n{account}\n{answer['recommendation_id']}\n")
    search = installed.lethe("verify", "--erasure", gone["request_id"], "--look-for", str(texts))
    assert "nothing of the deletion is left" in search


def settled(installed: Installation) -> None:
    """Wait until the worker has nothing to do, and the store holds what is published alone."""
    eventually(lambda: installed.run("verify").code == 0 and not installed.report("status")["owed"], "nothing is owed")


def contents(installed: Installation) -> dict[str, bytes]:
    """Every file of the store."""
    root = installed.home / "store"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.thorough
def test_lines_of_events_are_taken_in_and_a_full_build_lets_them_count(
    servers: tuple[Server, Server], installed: Installation
) -> None:
    file = installed.folder / "events.jsonl"
    rows = [{"user_id": OTHERS[1], "item_id": item, "event": "play", "event_id": item} for item, _ in ITEMS[:3]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no event\n\n")
    first, again = installed.run("ingest", str(file), "--json"), installed.run("ingest", str(file), "--json")
    assert (first.code, again.code) == (1, 1)
    told = json.loads(first.out)
    assert told.pop("malformed") == 1
    assert sum(told.values()) == 3
    assert json.loads(again.out) == {"duplicate": 3, "malformed": 1}
    uses = servers[1].get(f"/users/{OTHERS[1]}/export").json()["interactions"]
    assert any(not row["counted"] for row in uses)
    installed.build()
    uses = servers[1].get(f"/users/{OTHERS[1]}/export").json()["interactions"]
    assert all(row["counted"] for row in uses)
    assert "byte for byte" in installed.lethe("verify", "--rebuild")
