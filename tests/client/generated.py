"""The client that openapi-python-client makes from the contract, and the calls of a story in terms of it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "lethe_generated"
Modules = Callable[[str], ModuleType]


@contextmanager
def generated_from(document: str, folder: Path) -> Iterator[Modules]:
    """A function: name of a module -> that module of the client that was made from this OpenAPI document."""
    (folder / "openapi.json").write_text(document)
    # The generator knows no lines of JSON.
    overrides = "content_type_overrides:\n  application/x-ndjson: text/plain\n"
    (folder / "config.yml").write_text(f"post_hooks: []\n{overrides}")
    made = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"),
            *("--path", str(folder / "openapi.json"), "--config", str(folder / "config.yml")),
            *("--output-path", str(folder / PACKAGE)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert made.returncode == 0, made.stdout + made.stderr
    sys.path.insert(0, str(folder))
    try:
        yield lambda name: importlib.import_module(f"{PACKAGE}{name and '.'}{name}")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]  # the next one may be of another document


class GeneratedClient:
    """The calls that a story needs, under the names that `lethe_client.Client` has for them."""

    def __init__(self, module: Modules, url: str) -> None:
        self._module, self._client = module, module("").Client(base_url=url, timeout=60)
        self._client.get_httpx_client()  # now: threads that share it would make one each
        self._models = module("models")

    def close(self) -> None:
        """Let go of connections."""
        self._client.get_httpx_client().close()

    def recommend(
        self, user_id: str | None = None, *, history: Mapping[str, Any] | None = None, top_k: int = 10
    ) -> Any:
        """A ranking."""
        if history is None:
            return self._ask("default.recommend", body=self._models.RecommendForUser(user_id=user_id, top_k=top_k))
        told = self._models.History.from_dict(history)
        return self._ask("default.recommend", body=self._models.RecommendForHistory(history=told, top_k=top_k))

    def similar_items(self, item_id: str, *, top_k: int = 10) -> Any:
        """Items like one."""
        return self._ask("rankings.similar_items", item_id, body=self._models.SimilarBody(top_k=top_k))

    def take_interactions(self, interactions: Sequence[Mapping[str, Any]]) -> Any:
        """What became of events."""
        return self._ask("events.take_interactions", body=self._body("EventsBody", interactions=interactions))

    def put_items(self, items: Sequence[Mapping[str, Any]]) -> Any:
        """How many items were new."""
        return self._ask("items.put_items", body=self._body("ItemsBody", items=items))

    def patch_item(self, item_id: str, body: Mapping[str, Any]) -> Any:
        """An item, changed."""
        return self._ask("items.patch_item", item_id, body=self._body("ItemPatch", **body))

    def forget(self, user_id: str) -> Any:
        """A deletion."""
        return self._ask("default.forget", body=self._body("ForgetBody", user_id=user_id))

    def forget_interactions(self, user_id: str, item_ids: Sequence[Mapping[str, Any]]) -> Any:
        """A deletion of single interactions."""
        body = self._body("ForgetInteractionsBody", user_id=user_id, item_ids=item_ids)
        return self._ask("events.forget_interactions", body=body)

    def wait_for_receipt(self, request_id: str, *, seconds: float, every: float) -> bytes:
        """The bytes of a receipt, once it is there."""
        receipt, deadline = self._module("api.default.forget_receipt"), time.monotonic() + seconds
        while (told := receipt.sync_detailed(request_id, client=self._client)).status_code == 409:
            assert time.monotonic() < deadline, "the receipt is not there in time"
            time.sleep(every)
        assert isinstance(told.parsed, self._models.SignedReceipt), told
        return bytes(told.content)

    def _body(self, model: str, **fields: Any) -> Any:
        return getattr(self._models, model).from_dict(fields)

    def _ask(self, operation: str, *path: str, body: Any) -> Any:
        answer = self._module(f"api.{operation}").sync(*path, client=self._client, body=body)
        assert not isinstance(answer, self._models.Problem), answer
        return answer
