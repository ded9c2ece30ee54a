"""Notifications of a real worker to a receiver that breaks, goes away and comes back."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

import pytest

from tests.listening import Heard, listening

from .conftest import OTHERS, Installation, eventually

KEY = b"a key of thirty-two random bytes"
SETTINGS = {"LETHE_WEBHOOK_SECRET": f"whsec_{base64.b64encode(KEY).decode()}", "LETHE_WEBHOOK_ALLOW_PRIVATE": "true"}


@pytest.mark.thorough
def test_a_receiver_that_was_killed_half_way_is_told_once_it_is_back_and_no_deletion_waits_for_it(
    copies: Callable[..., Installation],
) -> None:
    broken: list[str] = []

    def die(heard: Heard) -> int:
        broken.append(heard.headers["webhook-id"])
        raise ConnectionAbortedError

    with listening(die) as first:
        installed = copies(LETHE_WEBHOOK_URL=first.url(), **SETTINGS)
        with installed.serving_ready() as server:
            request_id = server.post("/forget", {"user_id": OTHERS[0]}).json()["request_id"]
            eventually(lambda: broken, "the receiver was asked, and died")
            first.stop()
            server.completed(request_id)
            with listening(port=first.port) as back:
                eventually(lambda: len(ids_of(back.heard)) == 2, "both notifications came")
            metrics = server.get("/metrics").text
    assert ids_of(back.heard) == {f"{request_id}-masked", f"{request_id}-completed"}
    assert broken[0] in ids_of(back.heard)
    assert 'lethe_webhook_events{state="delivered"}' in metrics


def ids_of(heard: list[Heard]) -> set[str]:
    """Of the notifications whose signature holds."""
    found = set()
    for each in heard:
        name, at = each.headers["webhook-id"], each.headers["webhook-timestamp"]
        signed = hmac.new(KEY, f"{name}.{at}.".encode() + each.body, hashlib.sha256).digest()
        assert each.headers["webhook-signature"] == f"v1,{base64.b64encode(signed).decode()}"
        found.add(name)
    return found
