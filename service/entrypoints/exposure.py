"""How far the service is open: to whom it listens, who needs a key, under which names, and how much each may ask."""

from __future__ import annotations

import ipaddress

from service.access.doorkeeper import Doorkeeper
from service.access.identity import IdentityProvider
from service.access.shared_buckets import open_buckets
from service.config import Settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.http.hosts import ANY, LOOPBACK
from service.errors import InvalidSetting
from service.ledger import KeyedHashes, Quota


def is_loopback(host: str) -> bool:
    """Whether an address that is listened on can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def require_closed(home: Home) -> None:
    """Raises InvalidSetting if anybody on the network could erase everybody, and nobody has said that they may."""
    settings = home.settings
    if is_loopback(settings.host) or settings.open or settings.oidc_jwks_url or home.ledger.keys.any():
        return
    raise InvalidSetting(
        f"listening on {settings.host} would let whoever reaches port {settings.port} read, and erase, everybody: there is no "
        "API key yet. Make one (`lethe keys create --name ... --scopes ...`), name an identity provider "
        "(LETHE_OIDC_JWKS_URL), or listen on 127.0.0.1; LETHE_OPEN=yes-anyone-may-erase serves without keys all the same"
    )


def open_doorkeeper(home: Home) -> Doorkeeper:
    """The one of an API replica."""
    settings = home.settings
    hashes = KeyedHashes(home.secret)
    return Doorkeeper(
        home.ledger.keys,
        home.ledger.trail,
        open_buckets(settings.redis_url),
        Quota(settings.requests_per_minute, settings.tokens_per_minute, settings.deletions_per_minute),
        lambda address: hashes.of("address", address),
        open_without_keys=is_loopback(settings.host) or bool(settings.open),
        identities=_identity_provider(settings),
        catalog_only=settings.catalog_only,
    )


def _identity_provider(settings: Settings) -> IdentityProvider | None:
    url, issuer, audience = settings.oidc_jwks_url, settings.oidc_issuer, settings.oidc_audience
    if url is None or issuer is None or audience is None:
        return None
    return IdentityProvider(url, issuer, audience, settings.oidc_scopes_claim)


def allowed_hosts(home: Home) -> tuple[str, ...]:
    """Without keys or tokens, a page of another site whose name was made to point to this machine could ask for anything."""
    settings = home.settings
    if settings.allowed_hosts:
        return settings.allowed_hosts
    asks = settings.oidc_jwks_url is not None or home.ledger.keys.any()
    return LOOPBACK if is_loopback(settings.host) and not asks else (ANY,)
