"""A small typed client of Lethe's HTTP API, to be copied into your own code. It needs httpx and nothing of Lethe.

    python examples/lethe_client.py http://127.0.0.1:8000

recommends to somebody who liked two films, forgets a person of the demo, waits, and prints what the receipt states.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

_POLL_SECONDS = 0.5


class Refused(Exception):
    """The service answered with a problem document (RFC 9457). `str()` is its detail."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"HTTP {status}"))
        self.status = status
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Recommended:
    """One item of an answer. `item_id` is None for a title that no catalog knows; `score` is the chance of a like."""

    item_id: str | None
    title: str
    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion, and where it stands: accepted, retraining, completed or failed (which is tried again)."""

    request_id: str
    state: str
    held: bool  # whether there was anything to erase


class LetheClient:
    """Recommendations and deletions. Use it as a context manager, or close it. Every call may raise `Refused`."""

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def recommend_for_user(self, user_id: str, top_k: int = 10, *, strict: bool = False) -> list[Recommended]:
        """The best unseen items for somebody; of whom nothing is held they are a stranger's, or with `strict` a 404."""
        return self._recommend({"user_id": user_id, "top_k": top_k, "strict": strict})

    def recommend_for_history(
        self,
        liked: Sequence[str] = (),
        disliked: Sequence[str] = (),
        candidates: Sequence[str] | None = None,
        top_k: int = 10,
    ) -> list[Recommended]:
        """The best items for a history of titles or ids: of the catalog, or of your `candidates`."""
        body: dict[str, Any] = {"history": {"liked": list(liked), "disliked": list(disliked)}, "top_k": top_k}
        return self._recommend(body | ({} if candidates is None else {"candidates": list(candidates)}))

    def forget(self, user_id: str, idempotency_key: str | None = None) -> Deletion:
        """Forget somebody. From the answer on nothing that learned from them counts; the key makes repeating it safe."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return _deletion(_accepted(self._http.post("/forget", json={"user_id": user_id}, headers=headers)))

    def deletion(self, request_id: str) -> Deletion:
        """Where a deletion stands."""
        return _deletion(_accepted(self._http.get(f"/forget/{request_id}")))

    def wait(self, request_id: str, seconds: float = 600.0) -> Deletion:
        """Wait until a deletion is completed. Raises TimeoutError if it is not within so many seconds."""
        deadline = time.monotonic() + seconds
        while (now := self.deletion(request_id)).state != "completed":
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {seconds:g} seconds the deletion is {now.state}")
            time.sleep(_POLL_SECONDS)
        return now

    def receipt(self, request_id: str) -> bytes:
        """The signed receipt of a completed deletion. Keep these bytes: `lethe receipts verify` checks them."""
        answer = self._http.get(f"/forget/{request_id}/receipt")
        _accepted(answer)
        return answer.content

    def _recommend(self, body: Mapping[str, Any]) -> list[Recommended]:
        answer = _accepted(self._http.post("/recommend", json=body))
        return [Recommended(item["item_id"], item["title"], item["score"], item["rank"]) for item in answer["items"]]


def _accepted(answer: httpx.Response) -> dict[str, Any]:
    """The body of an answer that is none of a problem."""
    try:
        body = answer.json()
    except ValueError:
        body = {}
    if answer.is_error:
        raise Refused(answer.status_code, body)
    return dict(body)


def _deletion(stated: Mapping[str, Any]) -> Deletion:
    return Deletion(stated["request_id"], stated["state"], stated["held"])


def main(url: str) -> None:
    """What the module says."""
    with LetheClient(url) as lethe:
        for item in lethe.recommend_for_history(liked=["Toy Story", "Finding Nemo"], top_k=3):
            print(f"{item.rank}. {item.title} ({item.score:.2f})")
        asked = lethe.forget("demo-003", idempotency_key="example-1")
        print(f"deletion {asked.request_id}: {asked.state}; anything held: {asked.held}")
        lethe.wait(asked.request_id)
        print(lethe.receipt(asked.request_id).decode())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
