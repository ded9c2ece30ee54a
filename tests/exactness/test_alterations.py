"""Every file of a store is altered in turn: what is altered is never served after the next load, and no receipt claims it.

The generation's manifest, whose digest the ledger names, decides; so it does not help to let an artifact's own sums agree.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters_store import Store, StoreFailure
from adapters_store.store import FORMAT
from service.errors import Damaged
from service.forgetting.incidents import Incidents
from service.forgetting.receipts import verify
from service.llm.frozen import FrozenModel
from service.llm.spec import ModelSpec
from service.records import BuildConfig
from service.scoring.snapshot import Snapshot, Snapshots

from .homes import NOUN, SIGNER, Home, Remembering, copied, items_named, likings

pytestmark = pytest.mark.thorough

CONFIG = BuildConfig(
    max_shard_size=24,
    tree_depth=1,
    samples_per_user=3,
    history_length=3,
    validation_percent=30,
    lora_rank=1,
    lora_alpha=2,
    epochs=1,
    batch_size=4,
)
ITEMS = items_named(8)
USERS = [f"person-{number}" for number in range(12)]
WORKFORCE = (
    Remembering()
)  # what is made again is made by the same steps; that it gets the same bytes is tested elsewhere


@pytest.fixture(scope="module")
def origin(scratch: Path, smallest_model: ModelSpec) -> Path:
    torch.set_num_threads(1)  # commands of earlier tests may have set another number
    home = Home(scratch / "altered-origin", smallest_model, CONFIG, WORKFORCE)
    home.ledger.import_data(ITEMS, likings(USERS, ITEMS, 4, 7), NOUN)
    home.build()
    home.close()
    return home.folder


@pytest.fixture
def home(origin: Path, scratch: Path, smallest_model: ModelSpec, request: Any) -> Iterator[Home]:
    opened = Home(copied(origin, scratch / f"altered-{request.node.name}"), smallest_model, CONFIG, WORKFORCE)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def frozen(smallest_model: ModelSpec) -> FrozenModel:
    return FrozenModel.load(smallest_model)


# Ways to alter a file


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_and_reseal(path: Path) -> None:
    flip(path)
    sums = path.parent / "SHA256SUMS"
    if sums.exists():
        names = sorted(file.name for file in path.parent.iterdir() if file != sums)
        of = {name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in names}
        sums.write_text("".join(f"{digest}  {name}\n" for name, digest in of.items()))


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_another_beside(path: Path) -> None:
    path.with_name("another").write_bytes(b"more")


WAYS = (
    flip,
    flip_and_reseal,
    Path.unlink,
    replace_by_a_folder,
    put_another_beside,
)


def files_of(store: Store) -> list[str]:
    files = (path for path in store.root.rglob("*") if path.is_file() and path.name != FORMAT)  # read by opening alone
    return sorted(str(path.relative_to(store.root)) for path in files)


def tensors(snapshot: Snapshot) -> dict[str, bytes]:
    """All that answers are computed from."""
    stack = {f"{name}.{side}": pair[side] for name, pair in snapshot.stack.modules.items() for side in (0, 1)}
    live = snapshot.memory.without()
    model = snapshot.item_model
    arrays = [snapshot.errors, snapshot.item_embeddings, live.likes, live.dislikes]
    return {
        **{name: tensor.to(torch.float32).numpy().tobytes() for name, tensor in stack.items()},
        **{str(number): np.ascontiguousarray(array).tobytes() for number, array in enumerate(arrays)},
        "pairs": b"".join(live.together(item).weights.tobytes() for item in range(len(ITEMS))),
        "model": b"" if model is None else model.weights.tobytes(),
        "names": json.dumps([snapshot.row_keys, snapshot.item_ids, snapshot.stack.digests]).encode(),
    }


def served(home: Home, frozen: FrozenModel) -> dict[str, bytes] | None:
    """What a process that starts now would answer with; None if it refuses to."""
    try:
        return tensors(Snapshots(Store(home.store.root), frozen).of(home.ledger.generation()))
    except Damaged:
        return None


def incidents(home: Home) -> int:
    return sum(Incidents(home.folder / "incidents.jsonl").counts().values())


def is_altered(way: Callable[[Path], object], name: str) -> bool:
    """Sums that agree with files that nobody changed are as they were; beside ACTIVE nothing is read."""
    if way is flip_and_reseal:
        return not name.endswith("SHA256SUMS")
    return way is not put_another_beside or "/" in name


def check(home: Home, frozen: FrozenModel, way: Callable[[Path], object], names: list[str]) -> None:
    assert not home.reconcile_once()
    files, sound = home.files(), served(home, frozen)
    assert sound is not None
    for name in names:
        before = incidents(home)
        way(home.store.root / name)
        answers = served(home, frozen)
        assert answers == (sound if name == "ACTIVE" else None), name  # the ledger names what is served, not ACTIVE
        assert home.reconcile_once(), name
        assert home.files() == files, name
        told = incidents(home) - before
        assert told in (0, 1) if name == "ACTIVE" else told == 1, name  # a changed digit may name another generation
    assert served(home, frozen) == sound


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_altered_file_is_served_and_it_is_made_again_told_and_counted(
    home: Home, frozen: FrozenModel, way: Callable[[Path], object]
) -> None:
    altered = [name for name in files_of(home.store) if is_altered(way, name)]
    kinds = {"/".join(Path(name).parts[::2]): name for name in altered}  # one file of each name and kind
    assert len(kinds) >= 11
    check(home, frozen, way, sorted(kinds.values()))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_altered_file_of_all_is_served_and_each_is_made_again_told_and_counted(
    home: Home, frozen: FrozenModel, way: Callable[[Path], object]
) -> None:
    names = files_of(home.store)
    assert {name.partition("/")[0] for name in names} == {"ACTIVE", "adapters", "generations", "memory"}
    check(home, frozen, way, [name for name in names if is_altered(way, name)])


@pytest.mark.parametrize("way", [flip, flip_and_reseal], ids=lambda way: way.__name__)
def test_no_receipt_claims_an_altered_file(
    home: Home, origin: Path, scratch: Path, smallest_model: ModelSpec, way: Callable[[Path], object]
) -> None:
    clean = Home(copied(origin, scratch / f"clean-{way.__name__}"), smallest_model, CONFIG, WORKFORCE)
    for number, user in enumerate(USERS[:4]):
        clean.forget(user)
        request = home.forget(user)
        clean.reconcile_once()
        for name in files_of(home.store)[number::4]:
            way(home.store.root / name)
        home.reconcile_once()
        receipt = verify(home.ledger.request(request.request_id).receipt or "", SIGNER.public_key_pem())
        assert receipt["generation"]["after"] == clean.ledger.generation()
        assert home.files() == clean.files()
        for kind, artifacts in zip(("adapters", "memories"), home.store.kinds(), strict=True):
            for digest, sums in receipt["files"][kind].items():
                assert {file: hashlib.sha256(content).hexdigest() for file, content in files(artifacts, digest)} == sums
        successors = {digest for digest in receipt["adapters"].values() if digest}
        assert receipt["files"]["adapters"].keys() == successors
    clean.close()


def files(artifacts: Any, digest: str) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in artifacts.path(digest).iterdir() if path.name != "SHA256SUMS"]


@pytest.mark.parametrize("way", [flip, flip_and_reseal, Path.unlink], ids=lambda way: way.__name__)
def test_what_a_build_left_when_it_was_cut_off_is_not_used_if_it_was_altered(
    home: Home, origin: Path, scratch: Path, smallest_model: ModelSpec, way: Callable[[Path], object]
) -> None:
    """No manifest states it yet."""
    clean = Home(copied(origin, scratch / f"left-{way.__name__}"), smallest_model, CONFIG, WORKFORCE)
    for each in (home, clean):
        each.forget(USERS[0])
    clean.reconcile_once()

    class CutOff(Exception): ...

    def cut(generation_id: str) -> None:
        raise CutOff

    publish, home.store.publish = home.store.publish, cut  # type: ignore[method-assign] # dies there
    with pytest.raises(CutOff):
        home.reconcile_once()
    home.store.publish = publish  # type: ignore[method-assign] # as it was
    notes = sorted(home.store.root.glob("*/*.note"))
    assert notes
    for note in notes:
        for path in (note, *sorted(note.with_suffix("").iterdir())):
            if path.exists():
                way(path)
    again = Home(home.folder, smallest_model, CONFIG, WORKFORCE)
    again.reconcile_once()
    assert again.files() == clean.files()
    again.close()
    clean.close()


@pytest.mark.parametrize("folder", ["adapters", "memory", "generations"])
def test_a_linked_folder_is_no_artifact(home: Home, frozen: FrozenModel, scratch: Path, folder: str) -> None:
    files, sound = home.files(), served(home, frozen)
    own = sorted((home.store.root / folder).iterdir())[0]
    moved = scratch / f"moved-{folder}"
    shutil.move(own, moved)
    own.symlink_to(moved)
    assert served(home, frozen) is None
    assert home.reconcile_once()
    assert home.files() == files
    assert served(home, frozen) == sound
    assert not own.is_symlink()


@pytest.mark.parametrize("content", [b"", b"\n", b"garbage", b"0" * 64, b"0" * 64 + b"\n", b"\xff\xfe", b"a" * 10_000])
def test_a_garbage_active_changes_nothing_that_is_served_and_is_written_again(
    home: Home, frozen: FrozenModel, content: bytes
) -> None:
    sound = served(home, frozen)
    (home.store.root / "ACTIVE").write_bytes(content)
    assert served(home, frozen) == sound
    assert home.reconcile_once()
    assert home.store.active() == home.ledger.generation()


def test_a_whole_generation_of_somebody_elses_making_is_not_served(home: Home, frozen: FrozenModel) -> None:
    """Sound in itself, named by its own manifest, and active."""
    sound, files = served(home, frozen), home.files()
    manifest = {**home.manifest(), "noun": "book"}
    stored = home.store.generation(home.ledger.generation() or "")
    content = {name: stored.read(name) for name in manifest.pop("files")}
    forged = home.store.add_generation(manifest, content)
    home.store.publish(forged)
    assert served(home, frozen) == sound
    assert home.reconcile_once()
    assert home.files() == files
    with pytest.raises(StoreFailure):
        home.store.generation(forged)


# Keys of an encrypted store


def test_a_store_whose_keys_are_lost_is_made_again_to_the_same_bytes(scratch: Path, smallest_model: ModelSpec) -> None:
    home = Home(scratch / "keys-lost", smallest_model, CONFIG, WORKFORCE, wrapping_key=bytes(range(32)))
    home.ledger.import_data(ITEMS, likings(USERS, ITEMS, 4, 7), NOUN)
    home.build()
    plain, sealed = home.opened_files(), home.files()
    keys = home.ledger.artifact_keys(bytes(range(32)))
    keys.destroy(keys.directories())
    assert home.opened_files() == sealed | {"FORMAT": b"1\n"}  # nothing opens
    assert home.reconcile_once()
    assert home.opened_files() == plain
    assert incidents(home)
    home.close()
