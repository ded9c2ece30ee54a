"""Access tokens of an OpenID Connect provider: who a token's bearer is, and which scopes they have.

A token is believed if one of the keys that the provider publishes (JWKS, RFC 7517) signed it, and if it is of this issuer, for
this audience and of this time (RFC 7519). Where the keys cannot be fetched no token is believed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from jwt import PyJWK, PyJWKClient
from jwt.exceptions import PyJWKClientConnectionError, PyJWTError

from service.errors import IdentityUnavailable, Unauthenticated
from service.ledger import Scope

# Signatures by a private key alone: with a shared secret, whoever can check a token could make one.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

KEYS_LIVE_SECONDS = 300.0  # until the provider is asked again
_PAUSE_SECONDS = 10.0  # between two fetches: tokens that name unknown keys must not become requests to the provider
_TIMEOUT_SECONDS = 5.0
_LEEWAY_SECONDS = 30.0  # that clocks may differ by
_ISSUED_TO = ("client_id", "azp", "sub")  # the first that a token has names its bearer


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whoever a token was issued to: a name that tells bearers apart, and the scopes of Lethe among those of the token."""

    name: str
    scopes: frozenset[Scope]


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
        self._client = PyJWKClient(jwks_url, cache_jwk_set=False, timeout=_TIMEOUT_SECONDS)
        self._issuer, self._audience, self._claim = issuer, audience, scopes_claim
        self._clock = clock
        self._fetching = threading.Lock()
        self._keys: Mapping[str | None, PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")

    def bearer_of(self, token: str) -> Bearer:
        """Whoever brings this token.

        Raises:
            Unauthenticated: it is no token of this issuer for this audience, or not of this time. It is not told which.
            IdentityUnavailable: the provider's keys are not known.
        """
        try:
            key = self._key(jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "aud", "iss"]},
            )
        except PyJWTError:
            raise Unauthenticated("This needs an access token, and the one that was sent is not valid here.") from None
        return Bearer(_issued_to(claims), _scopes(claims.get(self._claim)))

    def _key(self, key_id: str | None) -> PyJWK:
        with self._fetching:
            now = self._clock()
            is_old = now - self._fetched_at > KEYS_LIVE_SECONDS
            if (is_old or key_id not in self._keys) and now - self._tried_at > _PAUSE_SECONDS:
                self._tried_at = now
                self._fetch()
                is_old = now - self._fetched_at > KEYS_LIVE_SECONDS
            if is_old:
                raise IdentityUnavailable(
                    "The identity provider's keys cannot be fetched, so no token can be believed."
                )
            if key_id not in self._keys:
                raise PyJWTError("no key has this id")
            return self._keys[key_id]

    def _fetch(self) -> None:
        try:
            keys = {key.key_id: key for key in self._client.get_signing_keys(refresh=True)}
        except PyJWKClientConnectionError:
            return  # what is known serves until it is old
        except PyJWTError:
            keys = {}  # the provider answers, and has no key to sign with
        self._keys, self._fetched_at = keys, self._clock()


def _issued_to(claims: Mapping[str, Any]) -> str:
    return next((str(claims[name]) for name in _ISSUED_TO if claims.get(name)), "")


def _scopes(stated: object) -> frozenset[Scope]:
    names = stated.split() if isinstance(stated, str) else stated if isinstance(stated, list) else []
    return frozenset(scope for scope in Scope if scope in names)
