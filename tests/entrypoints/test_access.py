"""Who may do what over HTTP: every route by every scope, with keys of every kind, over a real ledger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.access.doorkeeper import Doorkeeper, Identities
from service.access.identity import Bearer
from service.access.quotas import LocalBuckets
from service.data.events import EventMeanings
from service.entrypoints.http import access
from service.entrypoints.http.access import ROUTES, routes_of
from service.entrypoints.http.api import Services, create_app
from service.entrypoints.http.middleware import Limits
from service.entrypoints.http.online import OnlineServices
from service.entrypoints.http.problems import MEDIA_TYPE
from service.entrypoints.telemetry import Telemetry
from service.errors import IdentityUnavailable, InvalidInput, Unauthenticated
from service.forgetting.arriving import EventIntake
from service.forgetting.intake import Intake
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.restraining import RestraintIntake
from service.forgetting.tombstones import TombstoneFile
from service.forgetting.transparency import TransparencyLog
from service.ledger import KeyedHashes, Ledger, Quota, Scope
from service.records import Interaction, Item
from tests.entrypoints.test_api import PLENTY, FakeBell, FakeGenerations, FakeRecommender, FakeWritable

SECRET = b"a secret of the tests"
ALL = tuple(Scope)
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/recommend"): {"history": {}},
    ("POST", "/forget"): {"user_id": "nobody"},
    ("POST", "/forget/preview"): {"user_id": "nobody"},
    ("POST", "/forget/batch"): {"user_ids": ["nobody"]},
    ("POST", "/forget/batch/preview"): {"item_ids": ["i-1"]},
    ("POST", "/interactions"): {"interactions": [{"user_id": "nobody", "item_id": "i-1", "liked": True}]},
    ("DELETE", "/interactions"): {"user_id": "nobody", "item_ids": ["i-1"]},
    ("PATCH", "/interactions"): {"user_id": "nobody", "item_id": "i-1", "liked": True},
    ("POST", "/recommend/batch"): {"user_ids": ["nobody"]},
    ("POST", "/rerank"): {"documents": ["Alien"]},
    ("POST", "/items/{item_id}/similar"): {},
    ("POST", "/items"): {"items": [{"item_id": "i-2", "title": "Aliens"}]},
    ("PUT", "/items/{item_id}"): {"title": "Alien"},
    ("PUT", "/users/{user_id}/restriction"): {"ground": "objection"},
    ("POST", "/users/{user_id}/merge"): {"into": "somebody"},
    ("PUT", "/users/{user_id}/hold"): {"ground": "court order"},
    ("PATCH", "/items/{item_id}"): {"title": "Alien"},
}
KINDS = ("no key", "wrong", "expired", "revoked", "right")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """The whole application over a real ledger, in this process."""

    def __init__(
        self, folder: Path, quota: Quota = PLENTY, open_without_keys: bool = False, identities: Identities | None = None
    ) -> None:
        self.clock = Clock()
        self.ledger = Ledger(folder / "ledger.sqlite", SECRET, clock=self.clock)
        hashes = KeyedHashes(SECRET)
        self.tombstones = TombstoneFile(folder / "tombstones.jsonl", hashes)
        self.signer = ReceiptSigner.open(folder / "receipts.pem")
        self.intake = Intake(self.ledger, self.signer, self.tombstones)
        self.recommender = FakeRecommender()
        self.keeper = Doorkeeper(
            self.ledger.keys,
            self.ledger.trail,
            LocalBuckets(self.clock),
            quota,
            lambda address: hashes.of("address", address),
            open_without_keys,
            identities,
        )
        self.app = self._app()

    def _app(self) -> FastAPI:
        async def nothing() -> None:
            return None

        telemetry = Telemetry(forget_deadline=86_400.0)
        return create_app(
            Services(
                recommender=self.recommender,
                ledger=self.ledger,
                intake=self.intake,
                generations=FakeGenerations(),
                bell=FakeBell(),
                telemetry=telemetry,
                limits=Limits(),
                writable=FakeWritable(),
                doorkeeper=self.keeper,
                on_start=nothing,
                on_stop=nothing,
                online=OnlineServices(
                    self.ledger,
                    self.intake,
                    RestraintIntake(self.ledger.restraints, self.tombstones),
                    EventIntake(self.ledger, self.tombstones),
                    EventMeanings.of(3.0, ["play"], ["skip"], ["view"]),
                    FakeBell(),
                    telemetry,
                    self.keeper,
                    30 * 86_400.0,
                    self.signer,
                    TransparencyLog(self.ledger.receipt_log, self.signer, self.clock),
                ),
            )
        )

    def key(self, *scopes: Scope, expires_at: float | None = None, quota: Quota = PLENTY) -> str:
        return self.ledger.keys.create("test", scopes, expires_at, quota, "test")[1]

    def call(
        self, method: str, path: str, key: str | None = None, body: object = None, **headers: str
    ) -> httpx.Response:
        sent = headers if key is None else {"Authorization": f"Bearer {key}", **headers}
        return asyncio.run(self._call(method, path, sent, body))

    def forget(self, user: str, key: str | None = None) -> httpx.Response:
        return self.call("POST", "/forget", key, {"user_id": user})

    def close(self) -> None:
        self.keeper.close()
        self.ledger.close()

    async def _call(self, method: str, path: str, headers: dict[str, str], body: object) -> httpx.Response:
        async with self.app.router.lifespan_context(self.app) as state:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await self.app(scope | {"state": dict(state or {})}, receive, send)

            transport = httpx.ASGITransport(app, client=("192.0.2.7", 5000))
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                return await client.request(method, path, headers=headers, json=body)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    opened = Gate(tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gate, dict[str, dict[str | None, str | None]]]]:
    """A gate, and keys: kind -> scope -> key."""
    opened = Gate(tmp_path_factory.mktemp("matrix"))
    keys: dict[str, dict[str | None, str | None]] = {kind: {} for kind in KINDS}
    for scope in Scope:
        right, revoked = opened.key(scope), opened.key(scope)
        opened.ledger.keys.revoke(revoked.split("_")[1], "test")
        keys["right"][scope] = right
        keys["expired"][scope] = opened.key(scope, expires_at=opened.clock.now + 1)
        keys["revoked"][scope] = revoked
        keys["wrong"][scope] = right[:-1] + ("A" if right[-1] != "A" else "B")
        keys["no key"][scope] = None
    opened.clock.now += 60
    yield opened, keys
    opened.close()


# Tokens of an identity provider


class Tokens:
    """Believes tokens that spell their scopes, and says what an identity provider would of others."""

    def bearer_of(self, token: str) -> Bearer:
        _, said, _ = token.split(".")
        if said == "away":
            raise IdentityUnavailable("the keys cannot be fetched")
        if said == "forged":
            raise Unauthenticated("not valid here")
        return Bearer("ann@example.org", frozenset(Scope(name) for name in said.split("+")))


@pytest.fixture
def federated(tmp_path: Path) -> Iterator[Gate]:
    opened = Gate(tmp_path, open_without_keys=True, identities=Tokens())
    yield opened
    opened.close()


def test_a_token_opens_what_its_scopes_say_and_a_key_still_does(federated: Gate) -> None:
    assert federated.forget("nobody", "h.forget.s").status_code == 202
    assert federated.call("GET", "/generation", "h.forget+recommend.s").status_code == 403
    assert federated.forget("nobody", federated.key(Scope.FORGET)).status_code == 202


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("a key", 401), ("h.forged.s", 401), ("h.away.s", 503)])
def test_with_an_identity_provider_nobody_comes_in_without_one(federated: Gate, token: str | None, status: int) -> None:
    assert federated.forget("nobody", token).status_code == status


def test_the_trail_names_a_tokens_bearer_by_a_hash_and_a_deletion_is_their_own(federated: Gate) -> None:
    asked = federated.forget("nobody", "h.forget.s").json()["request_id"]
    assert federated.call("GET", f"/forget/{asked}", "h.forget.s").status_code == 200
    federated.call("GET", "/generation", "h.forget.s")
    told = str(federated.ledger.trail.entries(100))
    assert "token-" in told
    assert "ann@example.org" not in told


def test_where_the_catalog_alone_is_ranked_a_key_may_name_other_titles(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite", SECRET) as ledger:
        keeper = Doorkeeper(ledger.keys, ledger.trail, LocalBuckets(), PLENTY, str, True, catalog_only=True)

        def may(token: str | None) -> bool:
            return keeper.account(
                keeper.admit(token, None, ROUTES["POST", "/recommend"], "POST /recommend")
            ).free_titles

        assert not may(None)
        keys = [ledger.keys.create("k", s, None, Quota(), "test")[1] for s in ([Scope.RECOMMEND], [*Scope])]
        assert [may(key) for key in keys] == [False, True]
        keeper.close()


# Every route has a scope


def test_every_route_that_there_is_declares_who_may_use_it(gate: Gate) -> None:
    assert set(routes_of(gate.app.routes)) == set(ROUTES)


def test_an_application_with_a_route_without_a_scope_does_not_start(gate: Gate) -> None:
    gate.app.add_api_route("/secret", lambda: None)
    with pytest.raises(LookupError, match="/secret"):
        access.require_declared(gate.app)


# The matrix: route x scope x kind of key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("route", list(ROUTES), ids=" ".join)
def test_every_route_answers_every_key_as_documented(
    full: tuple[Gate, dict[str, dict[str | None, str | None]]], route: tuple[str, str], kind: str
) -> None:
    gate, keys = full
    (method, path), declared = route, ROUTES[route]
    path = path.replace("{request_id}", "f-1").replace("/docs/static", "/docs/static/none.js")
    path = (
        path.replace("{item_id}", "i-1").replace("{user_id}", "nobody").replace("/consistency", "/consistency?first=0")
    )
    for scope in ALL:
        gate.clock.now += 60  # so that refusals fill no bucket
        answer = gate.call(method, path, keys[kind][scope], BODIES.get(route))
        if declared.public:
            assert answer.status_code == 200, scope
        elif kind != "right":
            assert answer.status_code == 401, scope
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["type"] == "urn:lethe:problem:unauthenticated"
        elif scope not in declared.scopes:
            assert answer.status_code == 403, scope
            assert answer.json()["type"] == "urn:lethe:problem:forbidden"
        else:
            _is_let_in(answer, route, path)


def _is_let_in(answer: httpx.Response, route: tuple[str, str], path: str) -> None:
    """f-1, i-1 and the file are unknown: whoever is let in is told so."""
    assert answer.status_code in {200, 201, 202, 204, 404}, answer.text
    assert "ratelimit" in answer.headers
    if answer.status_code == 404:
        nobodys = (
            ("PATCH", "/interactions"),
            ("POST", "/users/{user_id}/merge"),
            ("GET", "/users/{user_id}/restriction"),
            ("GET", "/users/{user_id}/hold"),
        )
        assert route in nobodys or any(unknown in path for unknown in ("f-1", "i-1", "static"))


def test_what_a_key_is_not_known_for_is_told_in_one_way(full: tuple[Gate, Any]) -> None:
    gate, keys = full
    gate.clock.now += 60
    told = {gate.call("GET", "/generation", keys[kind][Scope.OPERATE]).text for kind in KINDS[:-1]}
    assert len(told) == 1


def test_a_refusal_comes_before_the_body_is_read(gate: Gate) -> None:
    gate.key(*ALL)
    refused = gate.call("POST", "/forget", "nonsense", "no body of this form")
    assert (refused.status_code, refused.headers["connection"]) == (401, "close")
    assert refused.headers["content-type"] == MEDIA_TYPE


def test_a_key_may_come_in_either_header(gate: Gate) -> None:
    key = gate.key(Scope.OPERATE)
    assert gate.call("GET", "/generation", None, None, **{"X-API-Key": key}).status_code == 200
    assert gate.call("GET", "/generation", None, None, Authorization=f"bearer {key}").status_code == 200
    assert gate.call("GET", "/generation", None, None, Authorization=f"Basic {key}").status_code == 401


def test_an_explanation_wants_a_scope_of_its_own(gate: Gate) -> None:
    plain, telling = gate.key(Scope.RECOMMEND), gate.key(Scope.RECOMMEND, Scope.EXPLAIN)
    body = {"history": {}, "explain": True}
    assert gate.call("POST", "/recommend", plain, body).status_code == 403
    assert gate.call("POST", "/recommend", telling, body).status_code == 200


def test_head_is_guarded_as_get(gate: Gate) -> None:
    key = gate.key(Scope.METRICS)
    assert gate.call("HEAD", "/metrics").status_code == 401
    assert gate.call("HEAD", "/metrics", key).status_code == 200


# Keys


def test_a_key_is_nowhere_in_the_ledger(gate: Gate, tmp_path: Path) -> None:
    key = gate.key(*ALL)
    secret = key.split("_", 2)[2].encode()
    assert all(secret not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_revoked_key_opens_nothing_from_the_next_request_on_on_every_replica(gate: Gate, tmp_path: Path) -> None:
    key = gate.key(Scope.OPERATE)
    other = Gate(tmp_path)
    assert other.call("GET", "/generation", key).status_code == 200
    gate.ledger.keys.revoke(key.split("_")[1], "test")
    assert other.call("GET", "/generation", key).status_code == 401
    other.close()


def test_without_any_key_an_open_door_is_open_until_there_is_one(tmp_path: Path) -> None:
    gate = Gate(tmp_path, open_without_keys=True)
    assert gate.forget("nobody").status_code == 202
    key = gate.key(Scope.OPERATE)
    assert gate.forget("nobody").status_code == 401
    gate.ledger.keys.revoke(key.split("_")[1], "test")
    assert gate.forget("nobody").status_code == 401  # fail closed: nobody meant to open it again
    gate.close()


def test_without_any_key_a_closed_door_lets_nobody_in(gate: Gate) -> None:
    assert gate.forget("nobody").status_code == 401
    assert gate.call("GET", "/healthz").status_code == 200


def test_the_last_use_of_a_key_is_noted(gate: Gate) -> None:
    key = gate.key(Scope.OPERATE)
    gate.call("GET", "/generation", key)
    gate.keeper._notes.shutdown(wait=True)
    assert [known.last_used_at for known in gate.ledger.keys.all()] == [gate.clock.now]


@pytest.mark.parametrize(
    ("name", "scopes", "expires_at"),
    [("", ALL, None), ("x" * 101, ALL, None), ("a\nb", ALL, None), ("a", (), None), ("a", ALL, 5.0)],
)
def test_a_key_that_makes_no_sense_is_not_made(
    gate: Gate, name: str, scopes: Sequence[Scope], expires_at: float | None
) -> None:
    with pytest.raises(InvalidInput):
        gate.ledger.keys.create(name, scopes, expires_at, Quota(), "test")
    assert gate.ledger.keys.all() == []


def test_keys_outlive_a_rotation_of_the_secret(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.sqlite", b"the first secret") as before:
        known, key = before.keys.create("a", ALL, None, Quota(), "test")
        stored = before.keys
        hashes = KeyedHashes(b"the second secret", [b"the first secret"])
        after = type(stored)(before._database, hashes, lambda: known.created_at)
        assert after.authenticate(key) == (known, True)
        after.note_use(known, key)
        alone = type(stored)(before._database, KeyedHashes(b"the second secret"), lambda: known.created_at)
        assert alone.authenticate(key)[0] is not None


# Nothing tells a stranger who is a customer


def held(gate: Gate) -> None:
    gate.ledger.import_data([Item("1", "Film")], [Interaction("ann", "1", True, 1)], "movie")


def test_without_rights_a_deletion_answers_the_same_for_known_and_unknown(gate: Gate) -> None:
    held(gate)
    key = gate.key(Scope.FORGET)
    answers = [gate.forget(user, key) for user in ("ann", "nobody", "ann", "nobody")]
    assert [answer.status_code for answer in answers] == [202] * 4
    told = [{**answer.json(), "request_id": len(answer.json()["request_id"])} for answer in answers]
    assert told == [told[0]] * 4
    assert len({answer.json()["request_id"] for answer in answers}) == 4  # nobody gets the earlier one's id
    assert {tuple(sorted(answer.headers)) for answer in answers} == {tuple(sorted(answers[0].headers))}
    states = [gate.call("GET", answer.headers["location"], key).json() for answer in answers]
    assert [{**state, "request_id": ""} for state in states] == [{**states[0], "request_id": ""}] * 4
    assert gate.ledger.counts().interactions == 0


def test_without_rights_requests_of_others_are_not_there(gate: Gate) -> None:
    held(gate)
    one, other, all_seeing = (
        gate.key(*(set(ALL) - {Scope.RIGHTS})),
        gate.key(Scope.FORGET, Scope.RECEIPTS),
        gate.key(*ALL),
    )
    location = gate.forget("nobody", one).headers["location"]
    unknown = gate.call("GET", "/forget/none", other)
    hidden = gate.call("GET", location, other)
    assert (hidden.status_code, hidden.text) == (unknown.status_code, unknown.text) == (404, unknown.text)
    assert gate.call("GET", f"{location}/receipt", other).status_code == 404
    assert gate.call("GET", location, one).status_code == 200
    assert gate.call("GET", location, all_seeing).json()["held"] is False
    assert gate.call("GET", f"{location}/receipt", all_seeing).status_code == 200


def test_with_rights_a_repeated_deletion_is_the_one_that_is_owed(gate: Gate) -> None:
    held(gate)
    key = gate.key(Scope.FORGET, Scope.RIGHTS)
    first, second = gate.forget("ann", key).json(), gate.forget("ann", key).json()
    assert first["held"] is True
    assert second["request_id"] == first["request_id"]


def test_idempotency_keys_of_one_caller_mean_nothing_to_another(gate: Gate) -> None:
    one, other = gate.key(Scope.FORGET), gate.key(Scope.FORGET)

    def ask(key: str, user: str) -> httpx.Response:
        return gate.call("POST", "/forget", key, {"user_id": user}, **{"Idempotency-Key": "ticket-1"})

    first = ask(one, "ann")
    assert ask(one, "ann").json() == first.json()
    assert ask(one, "bob").status_code == 409
    assert ask(other, "bob").status_code == 202
    assert ask(other, "bob").json()["request_id"] != first.json()["request_id"]


def test_receipts_name_the_key_that_asked(gate: Gate) -> None:
    key = gate.key(*ALL)
    location = gate.forget("nobody", key).headers["location"]
    receipt = json.loads(gate.call("GET", f"{location}/receipt", key).text)["receipt"]
    assert receipt["requested_by"] == key.split("_")[1]


# How much


def test_each_key_has_a_quota_of_requests_and_is_told_of_it(gate: Gate) -> None:
    key, other = gate.key(Scope.OPERATE, quota=Quota(requests=3)), gate.key(Scope.OPERATE)
    for left in (2, 1, 0):
        answer = gate.call("GET", "/generation", key)
        assert answer.headers["ratelimit-policy"] == '"requests";q=3;w=60'
        assert answer.headers["ratelimit"].startswith(f'"requests";r={left};t=')
    refused = gate.call("GET", "/generation", key)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "20")
    assert refused.headers["ratelimit"] == '"requests";r=0;t=20'
    assert gate.call("GET", "/generation", other).status_code == 200
    gate.clock.now += 20
    assert gate.call("GET", "/generation", key).status_code == 200


def test_each_key_has_a_quota_of_deletions_and_what_was_accepted_stays_so(gate: Gate) -> None:
    held(gate)
    key = gate.key(Scope.FORGET, quota=Quota(deletions=2))
    assert [gate.forget(user, key).status_code for user in ("ann", "bob", "cid")] == [202, 202, 429]
    assert gate.ledger.counts().interactions == 0
    assert gate.forget("cid", key).json()["type"] == "urn:lethe:problem:quota-exceeded"


def test_each_key_has_a_quota_of_tokens(gate: Gate) -> None:
    charged = gate.keeper.account(
        gate.keeper.admit(
            gate.key(Scope.RECOMMEND, quota=Quota(tokens=100)), None, access.ROUTES["POST", "/recommend"], ""
        )
    )
    charged.charge(70)
    with pytest.raises(Exception, match="More tokens than 100 a minute"):
        charged.charge(70)


def test_without_keys_each_address_has_a_quota(tmp_path: Path) -> None:
    gate = Gate(tmp_path, Quota(100, 100, 2), open_without_keys=True)
    assert [gate.forget("ann").status_code for _ in range(3)] == [202, 202, 429]
    gate.close()


def test_who_guesses_keys_is_refused_soon(gate: Gate) -> None:
    right = gate.key(Scope.OPERATE)
    statuses = [gate.call("GET", "/generation", f"lethe_{n:012x}_{'x' * 43}").status_code for n in range(65)]
    assert statuses == [401] * 60 + [429] * 5
    assert gate.call("GET", "/generation", right).status_code == 200  # whoever has a key is not kept out by others


# The trail


def test_the_trail_says_who_did_what_from_where_and_not_what_was_recommended(gate: Gate) -> None:
    key = gate.key(Scope.FORGET, Scope.RECOMMEND)
    key_id = key.split("_")[1]
    gate.call("POST", "/recommend", key, {"history": {}})
    request_id = gate.forget("ann", key).json()["request_id"]
    gate.call("GET", "/generation", key)
    gate.ledger.keys.revoke(key_id, "test")
    told = [entry.event for entry in gate.ledger.trail.entries(100)]
    assert [(event.actor, event.action, event.outcome) for event in told] == [
        ("test", "key.create", "done"),
        (key_id, "forget", "accepted"),
        ("lethe", "forget.complete", "done"),
        (key_id, "GET /generation", "refused: scope"),
        ("test", "key.revoke", "done"),
    ]
    assert [event.address for event in told] == [None, "192.0.2.7", None, "192.0.2.7", None]
    assert told[1].request_id == request_id


def test_refusals_do_not_fill_the_trail(gate: Gate) -> None:
    key = gate.key(Scope.METRICS)
    for _ in range(70):
        assert gate.call("GET", "/generation", key).status_code == 403
    assert len(gate.ledger.trail.entries(1000, action="GET /generation")) == 60


def test_the_document_says_which_scopes_open_what(gate: Gate) -> None:
    document = gate.call("GET", "/openapi.json", gate.key(Scope.OPERATE)).json()
    assert document["paths"]["/forget"]["post"]["x-lethe-scopes"] == ["forget"]
    assert {"401", "403", "429"} <= document["paths"]["/forget"]["post"]["responses"].keys()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
