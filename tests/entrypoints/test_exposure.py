"""Under which names an installation answers, by who must show what."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.config import load_settings
from service.entrypoints.bootstrap import Home
from service.entrypoints.exposure import allowed_hosts, require_closed
from service.entrypoints.http.hosts import ANY, LOOPBACK
from service.errors import InvalidSetting

PROVIDER = {
    "oidc_jwks_url": "https://id.example/jwks",
    "oidc_issuer": "https://id.example",
    "oidc_audience": "lethe",
}


def test_on_loopback_other_names_are_answered_once_somebody_must_show_something(tmp_path: Path) -> None:
    open_to_all = Home.open(load_settings(home=tmp_path / "open"))
    with_tokens = Home.open(load_settings(home=tmp_path / "tokens", **PROVIDER))
    assert (allowed_hosts(open_to_all), allowed_hosts(with_tokens)) == (LOOPBACK, (ANY,))
    for home in (open_to_all, with_tokens):
        home.ledger.close()


def test_beyond_loopback_a_key_or_a_provider_is_asked_for(tmp_path: Path) -> None:
    closed = Home.open(load_settings(home=tmp_path / "open", host="0.0.0.0"))
    with_tokens = Home.open(load_settings(home=tmp_path / "tokens", host="0.0.0.0", **PROVIDER))
    with pytest.raises(InvalidSetting, match="API key yet"):
        require_closed(closed)
    require_closed(with_tokens)
    for home in (closed, with_tokens):
        home.ledger.close()
