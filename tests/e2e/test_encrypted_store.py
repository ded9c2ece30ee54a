"""A deletion from end to end in an encrypted store: the generations of a plain one, and no key left of what knew the person."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from service.config import load_settings
from service.entrypoints.bootstrap import Home
from service.forgetting.receipts import ReceiptSigner, verify

from .conftest import BYSTANDER, QUICK, SUBJECT, TITLES, Installation, Server, eventually

pytestmark = pytest.mark.thorough

STORE_KEY = "0f" * 32
SECRET = {"secret": QUICK["LETHE_SECRET"]}


@pytest.fixture(scope="module")
def installed(installations: Callable[..., Installation]) -> Installation:
    return installations(LETHE_STORE_ENCRYPTION="per-artifact", LETHE_STORE_KEY=STORE_KEY)


def files_of(installation: Installation) -> dict[str, bytes]:
    store = installation.home / "store"
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def keys_of(installation: Installation) -> dict[str, str]:
    with closing(sqlite3.connect(installation.home / "ledger.sqlite")) as connection:
        return dict(connection.execute("SELECT directory, wrapped_key FROM artifact_keys WHERE directory > ''"))


def environments(server: Server) -> list[dict[str, str]]:
    """Of all that a worker has started."""
    return [child.environ() for child in server.worker().children(recursive=True)]


def test_a_person_is_forgotten_and_no_key_of_what_knew_them_is_left(
    installed: Installation, template: Installation, tmp_path: Path
) -> None:
    installed.import_people()
    assert installed.build()["trained"] >= 3
    before, keys = files_of(installed), keys_of(installed)
    assert keys.keys() == {path.rpartition("/")[0] for path in before if path.count("/") == 2}
    with installed.serving_ready() as server:
        assert len(server.recommend(user_id=BYSTANDER, candidates=TITLES[:20], top_k=20)["items"]) == 20
        started = eventually(lambda: environments(server), "the worker has started what it trains with")
        assert all("LETHE_STORE_KEY" not in environment for environment in started)
        assert "LETHE_STORE_KEY" in server.worker().environ()
        accepted = server.post("/forget", {"user_id": SUBJECT}).json()
        server.completed(accepted["request_id"])
        eventually(
            lambda: server.get("/generation").json()["generation"] == template.first_generation,
            "the generation of a plain store that never knew the subject is served, byte for byte",
        )
        receipt = server.get(f"/forget/{accepted['request_id']}/receipt").text
    erasure = verify(receipt, ReceiptSigner.open(installed.home / "receipts.pem").public_key_pem())["erasure"]
    assert (erasure["found"], erasure["keys"]) == (0, 0)
    after = keys_of(installed)
    assert after.keys() == {path.rpartition("/")[0] for path in files_of(installed) if path.count("/") == 2}
    gone = {wrapped.encode() for directory, wrapped in keys.items() if directory not in after}
    assert len(gone) >= 3
    for path in installed.home.rglob("*"):
        assert not path.is_file() or not any(wrapped in path.read_bytes() for wrapped in gone), path
    clear = [content for path, content in files_of(template).items() if path.endswith((".safetensors", ".npy"))]
    sealed = b"".join(files_of(installed).values())
    assert not any(content[-64:] in sealed for content in clear)
    _verifies(installed, accepted["request_id"], tmp_path)


def _verifies(installed: Installation, request_id: str, tmp_path: Path) -> None:
    looked_for = tmp_path / "texts"
    looked_for.write_text(f"{SUBJECT}\n")
    for options in ([], ["--rebuild"], ["--erasure", request_id, "--look-for", str(looked_for)]):
        done = installed.run("verify", *options)
        assert done.code == 0, done.err
    opened = Home.open(
        load_settings(home=installed.home, store_encryption="per-artifact", store_key=STORE_KEY, **SECRET)
    )
    opened.store.adapters.add("a" * 64, {"weights": f'"{SUBJECT}"'.encode()})
    done = installed.run("verify", *options)
    opened.store.adapters.remove("a" * 64)
    opened.ledger.close()
    assert done.code == 1
    assert "1 files with a text that was looked for" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"LETHE_STORE_KEY": "00" * 32}, "wrapped by another key than the one given here"),
        ({"LETHE_STORE_KEY": "short"}, "LETHE_STORE_KEY: "),
        ({"LETHE_STORE_ENCRYPTION": "off"}, "the store is encrypted: set LETHE_STORE_ENCRYPTION=per-artifact"),
    ],
)
def test_what_cannot_be_opened_is_one_line(installed: Installation, changed: dict[str, str], said: str) -> None:
    done = installed.run("status", **changed)
    assert done.code == 1
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_a_plain_store_is_not_encrypted_in_its_place_and_is_in_an_empty_one(
    copies: Callable[..., Installation], template: Installation, tmp_path: Path
) -> None:
    installation = copies(LETHE_STORE_ENCRYPTION="per-artifact")
    refused = installation.run("build")
    assert refused.code == 1
    assert "the store is not encrypted" in " ".join(refused.err.split())
    assert "Traceback" not in refused.err
    installation.environment["LETHE_STORE_URL"] = f"file://{tmp_path}/empty"
    assert installation.build()["generation"] == template.first_generation
    assert (installation.home / "store.key").stat().st_mode & 0o077 == 0
    assert installation.run("verify").code == 0
