"""Access tokens of an identity provider: a real server publishes the keys, and tokens are signed with real ones."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from service.access.identity import KEPT, Bearer, IdentityProvider
from service.errors import IdentityUnavailable, Unauthenticated
from service.ledger import Scope

ISSUER, AUDIENCE = "https://id.example", "lethe"
FIRST, SECOND, FOREIGN = (rsa.generate_private_key(65537, 2048) for _ in range(3))
CURVE = ec.generate_private_key(ec.SECP256R1())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class KeyServer:
    """Publishes whatever `keys` holds, and counts who asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                if self.path == "/moved":
                    self.send_response(302)
                    self.send_header("Location", server.url)
                    self.end_headers()
                    return
                body = json.dumps({"keys": server.keys}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return None

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/jwks"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def published(key: Any, key_id: str) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    name = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig", "alg": name}


def token(key: Any = FIRST, key_id: str | None = "1", algorithm: str = "RS256", **changed: Any) -> str:
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": time.time() + 600,
        "sub": "ann@example.org",
        "scope": "openid recommend forget",
    }
    stated = {name: value for name, value in {**claims, **changed}.items() if value is not None}
    return jwt.encode(stated, key, algorithm=algorithm, headers={"kid": key_id} if key_id else None)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    running = KeyServer()
    running.keys = [published(FIRST, "1")]
    yield running
    running.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(server: KeyServer, clock: Clock) -> IdentityProvider:
    return IdentityProvider(server.url, ISSUER, AUDIENCE, clock=clock)


def test_a_token_names_its_bearer_and_those_of_its_scopes_that_are_known_here(provider: IdentityProvider) -> None:
    assert provider.bearer_of(token()) == Bearer("ann@example.org", frozenset({Scope.RECOMMEND, Scope.FORGET}))
    assert provider.bearer_of(token(azp="shop")).name == "shop"


@pytest.mark.parametrize("stated", [["items", "admin"], "items admin"])
def test_scopes_are_a_list_or_a_text_in_the_claim_that_is_named(server: KeyServer, stated: object) -> None:
    provider = IdentityProvider(server.url, ISSUER, AUDIENCE, "permissions")
    assert provider.bearer_of(token(permissions=stated)).scopes == {Scope.ITEMS}


@pytest.mark.parametrize("stated", [None, 7, {"recommend": True}])
def test_without_scopes_nothing_is_opened(provider: IdentityProvider, stated: object) -> None:
    assert provider.bearer_of(token(scope=stated)).scopes == frozenset()


@pytest.mark.parametrize(
    "made",
    [
        lambda: token(aud="another"),
        lambda: token(aud=None),
        lambda: token(iss="https://elsewhere.example"),
        lambda: token(iss=None),
        lambda: token(exp=time.time() - 60),
        lambda: token(exp=None),
        lambda: token(nbf=time.time() + 600),
        lambda: token(FOREIGN),
        lambda: token(FOREIGN, key_id="unknown"),
        lambda: token(key_id=None),
        lambda: token("", algorithm="none"),
        lambda: token("a secret that whoever checks it would share", algorithm="HS256"),
        lambda: token()[:-4] + "AAAA",
        lambda: token(sub=None),
        lambda: token(sub=7),
        lambda: "a.b.c",
        lambda: "..",
    ],
)
def test_what_is_not_for_here_is_refused_and_it_is_not_told_why(
    provider: IdentityProvider, made: Callable[[], str]
) -> None:
    with pytest.raises(Unauthenticated, match="not valid here") as refused:
        provider.bearer_of(made())
    assert "ann" not in str(refused.value)


def test_other_kinds_of_keys_are_taken(server: KeyServer, provider: IdentityProvider) -> None:
    server.keys.append(published(CURVE, "e"))
    assert provider.bearer_of(token(CURVE, "e", "ES256")).scopes


def test_a_key_that_is_new_is_fetched_and_one_that_is_withdrawn_ends(
    server: KeyServer, provider: IdentityProvider, clock: Clock
) -> None:
    provider.bearer_of(token())
    server.keys = [published(SECOND, "2")]
    clock.now += 60
    provider.bearer_of(token(SECOND, "2"))
    with pytest.raises(Unauthenticated):
        provider.bearer_of(token())


def test_tokens_that_name_unknown_keys_do_not_become_requests(server: KeyServer, provider: IdentityProvider) -> None:
    for number in range(20):
        with pytest.raises(Unauthenticated):
            provider.bearer_of(token(FOREIGN, f"unknown-{number}"))
    assert server.asked == 1


def test_without_the_provider_what_is_known_serves_for_a_while_and_then_nobody_is_believed(
    server: KeyServer, provider: IdentityProvider, clock: Clock
) -> None:
    provider.bearer_of(token())
    server.stop()
    clock.now += KEPT - 1
    provider.bearer_of(token())
    clock.now += 30
    with pytest.raises(IdentityUnavailable):
        provider.bearer_of(token())


def test_a_provider_that_was_never_reached_lets_nobody_in(server: KeyServer) -> None:
    server.stop()
    with pytest.raises(IdentityUnavailable):
        IdentityProvider(server.url, ISSUER, AUDIENCE).bearer_of(token())


def test_another_place_that_the_provider_names_is_not_asked(server: KeyServer) -> None:
    with pytest.raises(IdentityUnavailable):
        IdentityProvider(server.url.replace("/jwks", "/moved"), ISSUER, AUDIENCE).bearer_of(token())
    assert server.asked == 1


def test_a_key_set_without_end_is_not_read(server: KeyServer) -> None:
    server.keys = [published(FIRST, "1"), {"kty": "RSA", "n": "A" * 2**21}]
    with pytest.raises(IdentityUnavailable):
        IdentityProvider(server.url, ISSUER, AUDIENCE).bearer_of(token())
