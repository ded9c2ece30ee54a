"""The client in `examples/`, against a real server: what is shown to others must work."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from examples.lethe_client import LetheClient, Refused
from service.forgetting.receipts import ReceiptSigner, verify

from .conftest import OTHERS, TITLES, Installation


@pytest.mark.thorough
def test_the_example_recommends_forgets_and_fetches_the_receipt(copies: Callable[..., Installation]) -> None:
    installation, person = copies(), OTHERS[0]
    with (
        installation.serving_ready() as server,
        LetheClient(f"http://127.0.0.1:{server.port}") as lethe,
    ):
        assert [item.rank for item in lethe.recommend_for_user(person, top_k=3)] == [1, 2, 3]
        ranked = lethe.recommend_for_history([TITLES[0]], [TITLES[1]], ["A film nobody has heard of", TITLES[2]])
        assert {item.item_id for item in ranked} == {None, "film02"}

        asked = lethe.forget(person, idempotency_key="once")
        assert asked.held
        assert lethe.forget(person, idempotency_key="once").request_id == asked.request_id
        with pytest.raises(Refused) as refused:
            lethe.recommend_for_user(person, strict=True)
        assert (refused.value.status, person in str(refused.value)) == (404, False)

        assert lethe.wait(asked.request_id).state == "completed"
        receipt = lethe.receipt(asked.request_id).decode()
        content = verify(receipt, ReceiptSigner.open(installation.home / "receipts.pem").public_key_pem())
        assert content["held"] is True
        assert json.loads(receipt)["receipt"] == content


def test_who_does_not_wait_long_enough_is_told(copies: Callable[..., Installation]) -> None:
    with (
        copies().serving_ready("--no-worker") as server,
        LetheClient(f"http://127.0.0.1:{server.port}") as lethe,
        pytest.raises(TimeoutError, match="accepted"),
    ):
        lethe.wait(lethe.forget(OTHERS[1]).request_id, seconds=0)
