"""Access tokens of an OpenID Connect provider: who a token's bearer is, and which scopes they have.

A token is believed if one of the keys that the provider publishes (JWKS, RFC 7517) signed it, and if it is of this issuer, for
this audience and of this time (RFC 7519). Where the keys cannot be fetched no token is believed. Nothing that a token names is
fetched (`jku`, `x5u`): keys come from the one URL of the settings.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import IO, Any

import jwt

from service.errors import IdentityUnavailable, Unauthenticated
from service.ledger import Scope

# Signatures by a private key alone: with a shared secret, whoever can check a token could make one.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

KEPT = 300.0  # seconds for which published keys count; one that the provider withdrew ends within them
PAUSE = 10.0  # seconds between two fetches, whoever asks for keys that are not there
_TIMEOUT = 3.0  # seconds for a fetch: requests whose keys are not known wait for it
_LARGEST = 1_048_576  # bytes of a key set
_LEEWAY = 30.0  # seconds by which clocks may differ
_KINDS = frozenset({"RSA", "EC", "OKP"})  # key pairs
_ISSUED_TO = ("client_id", "azp", "sub")  # the first that a token has names its bearer


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whoever a token was issued to: a name that tells bearers apart, and the scopes of Lethe among those of the token.

    The name may be somebody's, so it is stored nowhere.
    """

    name: str
    scopes: frozenset[Scope]


class PublishedKeys:
    """The keys of a JWKS URL, by their ids. Threads share it, and one of them fetches at a time."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._fetching = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at: float | None = None  # with success
        self._tried_at: float | None = None

    def find(self, key_id: str) -> jwt.PyJWK:
        """The key of this id. An unknown one is looked for again, with pauses.

        Raises:
            ValueError: the provider publishes no key of this id.
            IdentityUnavailable: no keys are known that are young enough.
        """
        if not self._fresh() or key_id not in self._keys:
            self._refresh(key_id)
        if not self._fresh():
            raise IdentityUnavailable("The identity provider's keys cannot be read, so no token can be checked.")
        if key_id not in self._keys:
            raise ValueError("no key has this id")
        return self._keys[key_id]

    def _fresh(self) -> bool:
        return self._fetched_at is not None and self._clock() - self._fetched_at < KEPT

    def _refresh(self, key_id: str) -> None:
        with self._fetching:
            known = self._fresh() and key_id in self._keys  # another thread has fetched meanwhile
            paused = self._tried_at is not None and self._clock() - self._tried_at < PAUSE
            if known or paused:
                return
            self._tried_at = self._clock()
            found = self._fetch()
            if found is not None:
                self._keys, self._fetched_at = found, self._clock()

    def _fetch(self) -> dict[str, jwt.PyJWK] | None:
        try:
            with self._opener.open(self._url, timeout=_TIMEOUT) as answer:
                return _keys_in(json.loads(_read(answer)))
        except (OSError, ValueError, jwt.PyJWTError):
            return None


class IdentityProvider:
    """One issuer's tokens for one audience. Fetching keys blocks; threads share it."""

    def __init__(
        self,
        jwks_url: str,
        issuer: str,
        audience: str,
        scopes_claim: str = "scope",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`scopes_claim` names the claim with scopes: a list, or a text with blanks between."""
        self._keys = PublishedKeys(jwks_url, clock)
        self._issuer, self._audience, self._claim = issuer, audience, scopes_claim

    def bearer_of(self, token: str) -> Bearer:
        """Whoever brings this token.

        Raises:
            Unauthenticated: it is no token of this issuer for this audience, or not of this time. It is not told which.
            IdentityUnavailable: the provider's keys are not known.
        """
        try:
            claims = self._claims(token)
            return Bearer(_issued_to(claims), _scopes(claims.get(self._claim)))
        except (jwt.PyJWTError, ValueError):
            raise Unauthenticated("This needs an access token, and the one that was sent is not valid here.") from None

    def _claims(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        key_id = header.get("kid")
        if header.get("alg") not in ALGORITHMS or not isinstance(key_id, str):
            raise ValueError("it does not say which key signed it")
        return jwt.decode(
            token,
            self._keys.find(key_id),
            algorithms=ALGORITHMS,
            audience=self._audience,
            issuer=self._issuer,
            leeway=_LEEWAY,
            options={"require": ["exp", "aud", "iss"]},
        )


def _issued_to(claims: Mapping[str, Any]) -> str:
    # Without a name all such bearers would be one, with one quota and one another's requests.
    for name in _ISSUED_TO:
        if isinstance(stated := claims.get(name), str) and stated:
            return stated
    raise ValueError("it does not say whom it was issued to")


def _scopes(stated: object) -> frozenset[Scope]:
    names = stated.split() if isinstance(stated, str) else stated if isinstance(stated, list) else []
    return frozenset(scope for scope in Scope if scope in names)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """The URL of the settings is meant, and no other."""


def _read(answer: IO[bytes]) -> bytes:
    content = answer.read(_LARGEST + 1)
    if len(content) > _LARGEST or getattr(answer, "status", None) != HTTPStatus.OK:
        raise ValueError("no key set")
    return content


def _keys_in(document: Any) -> dict[str, jwt.PyJWK]:
    """Those that sign, by their ids. Raises ValueError if it is no key set."""
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or not listed:
        raise ValueError("no key set")
    found = {}
    for one in listed:
        if isinstance(one, dict) and one.get("kty") in _KINDS and one.get("use", "sig") == "sig":
            try:
                found[str(one["kid"])] = jwt.PyJWK.from_dict(one)
            except (jwt.PyJWTError, KeyError):
                continue  # of a kind that is not known here; the others count all the same
    return found
