"""An encrypted store: nothing of it is plain, and each directory opens with its own key alone, as long as there is one."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapters_store import (
    DamagedArtifact,
    Folder,
    Inspector,
    KeysInMemory,
    NotOpened,
    StatedArtifact,
    Store,
    StoreFailure,
    digest_of,
    new_key,
    unwrap,
    wrap,
)
from adapters_store.cache import ReadCache
from adapters_store.encrypted import Encrypted
from adapters_store.sealing import seal, unseal
from tests.store.places import InFolder, Place

RACERS = 16
D1, D2 = digest_of("one"), digest_of("two")
WEIGHTS = "adapter_model.safetensors"
TELLING = b"what nobody may read of this adapter " * 20
FILES = {WEIGHTS: TELLING, "adapter_config.json": b'{"rank": "a telling number"}'}
PLAIN_RECORDS = ("FORMAT", "ACTIVE")


@pytest.fixture
def keys() -> KeysInMemory:
    return KeysInMemory()


@pytest.fixture
def here(tmp_path: Path, keys: KeysInMemory) -> InFolder:
    return InFolder(tmp_path / "store", keys)


def sealed(place: Place) -> dict[str, bytes]:
    """Every file of a directory as it lies in the place."""
    return {path: place.read(path) for path in place.paths() if path.count("/") == 2}


def published(store: Store) -> str:
    stated = [{"digest": D1, "files": store.adapters.add(D1, FILES)}]
    generation = store.add_generation({"adapters": stated, "memories": []}, {"rows.json": TELLING})
    store.publish(generation)
    return generation


# What lies there


def test_no_byte_of_an_artifact_or_a_generation_is_plain_and_every_name_is(encrypted: Place, tmp_path: Path) -> None:
    generation = published(encrypted.open())
    clear = InFolder(tmp_path / "clear")
    assert published(clear.open()) == generation  # named by its plain bytes
    assert encrypted.paths() == clear.paths()
    assert encrypted.read("FORMAT") == b"2\n"
    plain = {path: clear.read(path) for path in clear.paths() if path not in PLAIN_RECORDS}
    lying = b"".join(encrypted.read(path) for path in plain)
    for content in plain.values():
        assert not any(content[at : at + 16] in lying for at in range(max(1, len(content) - 15)))
    assert {path.as_posix(): content for path, content in encrypted.open().backend.contents()} == {
        **plain,
        **{name: encrypted.read(name) for name in PLAIN_RECORDS},
    }
    assert len(encrypted.open().search([b"may read of this"]).hits) == 2


def test_what_another_process_is_given_reads_its_own_directory_and_no_other(here: InFolder, keys: KeysInMemory) -> None:
    store = here.open()
    sums = {digest: store.adapters.add(digest, FILES) for digest in (D1, D2)}
    given = pickle.dumps(store.adapters.stated(D1, sums[D1]))
    own, other = (keys.find(f"adapters/{digest}") or b"" for digest in (D1, D2))
    assert own in given
    assert other not in given
    received: StatedArtifact = pickle.loads(given)  # noqa: S301 - made above
    assert received.read() == FILES
    with pytest.raises(DamagedArtifact, match="there is no key for it"):
        StatedArtifact(received.backend, f"adapters/{D2}", "adapter", sums[D2]).read()


# What is not as it was written


def test_what_was_sealed_elsewhere_is_refused_even_with_its_key(here: InFolder, keys: KeysInMemory) -> None:
    store = here.open()
    sums = store.adapters.add(D1, FILES)
    moved = KeysInMemory({f"adapters/{D2}": keys.find(f"adapters/{D1}") or b""})
    for path, content in sealed(here).items():
        here.write(path.replace(D1, D2), content)
    with pytest.raises(DamagedArtifact, match="in its place"):
        Store(Encrypted(Folder(here.root), moved)).adapters.stated(D2, sums).read()
    first, second = (f"adapters/{D1}/{name}" for name in FILES)
    here.write(first, here.read(second))
    with pytest.raises(DamagedArtifact, match="in its place"):
        store.adapters.verify(D1, sums)


def test_what_is_altered_is_damaged_and_made_again_to_the_same_bytes(here: InFolder) -> None:
    store = here.open()
    sums = store.adapters.add(D1, FILES)
    before = sealed(here)
    path = f"adapters/{D1}/{WEIGHTS}"
    for content in (b"", before[path][:-1], before[path] + b"!", bytes(len(before[path])), TELLING):
        here.write(path, content)
        with pytest.raises(DamagedArtifact, match="build again"):
            store.adapters.verify(D1, sums)
        assert store.adapters.add(D1, FILES) == sums
        store.adapters.verify(D1, sums)
    store.adapters.remove(D1)
    store.adapters.add(D1, FILES)
    assert sealed(here) == before


def test_other_bytes_under_a_name_are_sealed_under_another_nonce() -> None:
    """Two texts under one nonce would tell their difference."""
    key = new_key()
    one, other = seal(key, "a/b", b"0" * 40), seal(key, "a/b", b"1" * 40)
    assert one[:12] != other[:12]
    assert seal(key, "a/b", b"0" * 40) == one
    assert (unseal(key, "a/b", one), unseal(key, "a/b", other)) == (b"0" * 40, b"1" * 40)


def test_a_wrapped_key_opens_with_what_wrapped_it_alone() -> None:
    wrapping, key = new_key(), new_key()
    assert unwrap(wrapping, wrap(wrapping, key)) == key
    with pytest.raises(NotOpened):
        unwrap(new_key(), wrap(wrapping, key))


# Many at once


def test_of_many_who_make_the_same_artifact_all_write_the_same_bytes(encrypted: Place) -> None:
    line = threading.Barrier(RACERS)

    def make(_: int) -> dict[str, str]:
        store = encrypted.open()
        line.wait()
        return store.adapters.add(D1, FILES)

    with ThreadPoolExecutor(RACERS) as pool:
        sums = list(pool.map(make, range(RACERS)))
    assert all(each == sums[0] for each in sums)
    before = sealed(encrypted)
    encrypted.open().adapters.verify(D1, sums[0])
    encrypted.open().adapters.add(D1, FILES)
    assert sealed(encrypted) == before


class DestroyedWhileWriting(KeysInMemory):
    """An eraser comes between the making of a key and the directory, the first so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def create(self, directory: str) -> bytes:
        key = super().create(directory)
        if self.left:
            self.left -= 1
            self.destroy([directory])
        return key


def test_a_directory_whose_key_is_destroyed_while_it_is_written_is_sealed_with_another(tmp_path: Path) -> None:
    store = Store(Encrypted(Folder(tmp_path / "store"), DestroyedWhileWriting(3)))
    store.adapters.verify(D1, store.adapters.add(D1, FILES))
    assert store.keys_left() == 0
    with pytest.raises(StoreFailure, match="Let one worker build at a time"):
        Store(Encrypted(Folder(tmp_path / "other"), DestroyedWhileWriting(100))).adapters.add(D1, FILES)


# Erasing


def test_what_is_erased_opens_with_no_key_that_is_left(encrypted: Place) -> None:
    store = encrypted.open()
    store.adapters.add(D2, FILES)
    stated = store.adapters.sums(D2)
    generation = published(store)
    kept = sealed(encrypted)  # as the disks of an object store, or a snapshot, keep it
    store.erase_except([D1], [], [generation])
    left = encrypted.keys or KeysInMemory()
    assert left.directories() == {f"adapters/{D1}", f"generations/{generation}"}
    gone = {path: content for path, content in kept.items() if D2 in path}
    for path, content in gone.items():
        for directory in left.directories():
            with pytest.raises(NotOpened):
                unseal(left.find(directory) or b"", path, content)
        encrypted.write(path, content)
    with pytest.raises(DamagedArtifact, match="there is no key for it"):
        encrypted.open().adapters.verify(D2, stated)


class NeverDestroyed(KeysInMemory):
    def destroy(self, directories: Collection[str]) -> None:
        pass


def test_a_key_that_is_left_is_counted_and_goes_with_the_next_pass(tmp_path: Path) -> None:
    keys = NeverDestroyed()
    store = Store(Encrypted(Folder(tmp_path / "store"), keys))
    generation = published(store)
    store.adapters.add(D2, FILES)
    store.erase_except([D1], [], [generation])
    assert (store.keys_left(), store.abandoned()) == (1, 1)
    assert Inspector(store).look(generation).leftovers == 1
    again = Store(Encrypted(Folder(tmp_path / "store"), KeysInMemory({d: keys.create(d) for d in keys.directories()})))
    again.erase_except([D1], [], [generation])
    assert (again.keys_left(), again.abandoned()) == (0, 0)
    assert Inspector(again).look(generation).clean


def test_what_is_kept_in_memory_is_plain_and_goes_with_what_is_erased(here: InFolder, keys: KeysInMemory) -> None:
    cache = ReadCache(2**20)
    store = Store(Encrypted(Folder(here.root), keys, cache))
    stated = store.adapters.stated(D1, store.adapters.add(D1, FILES))
    stated.read()
    held = cache.size
    assert held >= sum(map(len, FILES.values()))
    here.write(f"adapters/{D1}/{WEIGHTS}", b"altered")
    assert stated.read() == FILES
    store.adapters.remove(D1)
    assert cache.size == 0


# One form and the other


def test_a_plain_store_is_not_encrypted_in_its_place_nor_an_encrypted_one_taken_for_plain(tmp_path: Path) -> None:
    plain, encrypted = tmp_path / "plain", tmp_path / "encrypted"
    published(Store(plain))
    published(Store(Encrypted(Folder(encrypted), KeysInMemory())))
    with pytest.raises(StoreFailure, match=r"is not encrypted.*empty folder or prefix.*run `lethe build`"):
        Store(Encrypted(Folder(plain), KeysInMemory()))
    with pytest.raises(StoreFailure, match="set LETHE_STORE_ENCRYPTION=per-artifact"):
        Store(encrypted)
    (plain / "FORMAT").unlink()
    with pytest.raises(StoreFailure, match="is not encrypted"):
        Store(Encrypted(Folder(plain), KeysInMemory()))
