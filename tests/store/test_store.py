"""The store's promises, in a folder as in a bucket: verified when read, whole or invisible, truly erased."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store import DamagedArtifact, MissingArtifact, Store, StoreFailure, canonical_json, digest_of
from tests.store.places import Place

D1, D2, D3 = (digest_of(name) for name in ("one", "two", "three"))
SUMS = "SHA256SUMS"
WEIGHTS = "adapter_model.safetensors"

Damage = Callable[[Place, str], None]  # of what lies in a directory


def add_adapter(store: Store, digest: str, weights: bytes = b"weights") -> dict[str, str]:
    return store.adapters.add(digest, {WEIGHTS: weights, "adapter_config.json": b"{}"})


def weights_of(store: Store, digest: str) -> bytes:
    return store.adapters.stated(digest, store.adapters.sums(digest)).read()[WEIGHTS]


def add_generation(store: Store, name: str = "g") -> str:
    return store.add_generation({"name": name}, {"errors.npy": b"errors", "embeddings.npy": b"embeddings"})


# Adapters


def test_an_adapter_comes_back_with_its_files_and_their_sums(store: Store, place: Place) -> None:
    sums = add_adapter(store, D1)
    assert sums == {
        "adapter_config.json": hashlib.sha256(b"{}").hexdigest(),
        WEIGHTS: hashlib.sha256(b"weights").hexdigest(),
    }
    assert store.adapters.sums(D1) == sums
    assert store.adapters.stated(D1, sums).read() == {WEIGHTS: b"weights", "adapter_config.json": b"{}"}
    assert store.adapters.has(D1)
    assert not store.adapters.has(D2)
    assert store.adapters.digests() == [D1]
    names = ("SHA256SUMS", "adapter_config.json", WEIGHTS)
    assert place.paths() == ["FORMAT", *(f"adapters/{D1}/{name}" for name in names)]


def append_to_weights(place: Place, at: str) -> None:
    place.write(f"{at}/{WEIGHTS}", place.read(f"{at}/{WEIGHTS}") + b"!")


def tear_weights(place: Place, at: str) -> None:
    place.write(f"{at}/{WEIGHTS}", b"weig")


def remove_config(place: Place, at: str) -> None:
    place.remove(f"{at}/adapter_config.json")


def add_extra(place: Place, at: str) -> None:
    place.write(f"{at}/extra.bin", b"")


def tear_sums(place: Place, at: str) -> None:
    place.write(f"{at}/{SUMS}", place.read(f"{at}/{SUMS}")[:-1])


def empty_sums(place: Place, at: str) -> None:
    place.write(f"{at}/{SUMS}", b"")


def remove_sums(place: Place, at: str) -> None:
    place.remove(f"{at}/{SUMS}")


ADAPTER_DAMAGE = [append_to_weights, tear_weights, remove_config, add_extra, tear_sums, empty_sums, remove_sums]


@pytest.mark.parametrize("damage", ADAPTER_DAMAGE)
def test_a_damaged_adapter_is_refused_and_replaced_when_it_is_made_again(
    store: Store, place: Place, damage: Damage
) -> None:
    stated = add_adapter(store, D1)
    damage(place, f"adapters/{D1}")
    for look in (lambda: store.adapters.sums(D1), lambda: store.adapters.verify(D1, stated)):
        with pytest.raises(DamagedArtifact):
            look()
    add_adapter(store, D1)
    store.adapters.verify(D1, stated)


def test_a_stray_file_in_an_adapters_place_is_replaced(store: Store, place: Place) -> None:
    place.write(f"adapters/{D1}", b"stray")
    with pytest.raises((DamagedArtifact, MissingArtifact)):
        store.adapters.sums(D1)
    add_adapter(store, D1)
    store.adapters.sums(D1)
    assert f"adapters/{D1}" not in place.paths()


def test_an_adapter_that_is_not_there_is_missing(store: Store) -> None:
    with pytest.raises(MissingArtifact):
        store.adapters.sums(D1)
    with pytest.raises(MissingArtifact):
        store.adapters.verify(D1, {WEIGHTS: "0" * 64})
    with pytest.raises(MissingArtifact):
        store.adapters.stated(D1, {WEIGHTS: "0" * 64}).read()


def test_an_adapter_without_files_or_with_folders_is_refused(store: Store) -> None:
    with pytest.raises(StoreFailure, match="without files"):
        store.adapters.add(D1, {})
    for name in ("folder/file", "..", SUMS, ".hidden", ""):
        with pytest.raises(StoreFailure, match="plain files"):
            store.adapters.add(D1, {name: b""})
    assert store.adapters.digests() == []


def test_an_adapter_stays_when_the_same_is_made_again_and_any_other_is_replaced(store: Store, place: Place) -> None:
    add_adapter(store, D1, b"first")
    add_adapter(store, D1, b"first")
    assert weights_of(store, D1) == b"first"
    add_adapter(store, D1, b"second")  # somebody may have changed the first together with its sums
    assert weights_of(store, D1) == b"second"
    assert store.abandoned() == 0


def test_files_that_are_given_come_back_under_the_sums_that_are_told(store: Store) -> None:
    sums = store.adapters.add(D1, {"b": b"2", "a": b"1"})
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in (("a", b"1"), ("b", b"2"))}
    assert store.adapters.sums(D1) == sums
    assert store.adapters.stated(D1, sums).read() == {"a": b"1", "b": b"2"}


def test_a_note_stands_beside_its_adapter_and_goes_with_it_or_when_others_are_erased(store: Store) -> None:
    for gone in (lambda: store.adapters.remove(D1), lambda: store.adapters.remove_except([D1])):
        add_adapter(store, D1)
        assert store.adapters.note(D1) is None
        store.adapters.write_note(D1, "first")
        store.adapters.write_note(D1, "second")
        assert (store.adapters.note(D1), store.adapters.noted(), store.adapters.digests()) == ("second", [D1], [D1])
        gone()
        assert (store.adapters.note(D1), store.adapters.noted()) == (None, [])


def test_what_was_made_ahead_stays_with_its_note(store: Store) -> None:
    for digest in (D1, D2):
        add_adapter(store, digest)
        store.adapters.write_note(digest, "a line")
    assert store.adapters.remove_except([], [D2])
    assert (store.adapters.digests(), store.adapters.note(D2)) == ([D2], "a line")


def test_a_removed_adapter_is_gone_and_may_be_removed_again(store: Store, place: Place) -> None:
    add_adapter(store, D1)
    store.adapters.remove(D1)
    store.adapters.remove(D1)
    assert not store.adapters.has(D1)
    assert place.paths() == ["FORMAT"]


@pytest.mark.parametrize("digest", ["", "../" + "a" * 61, "a" * 63, "A" * 64, "a" * 64 + "\n", "a/" + "b" * 62])
def test_only_digests_name_artifacts(store: Store, digest: str) -> None:
    asks: list[Callable[[str], object]] = [
        store.adapters.has,
        store.adapters.sums,
        store.adapters.remove,
        store.generation,
        store.publish,
        lambda name: store.adapters.add(name, {"file": b""}),
    ]
    for ask in asks:
        with pytest.raises(StoreFailure):
            ask(digest)


# Generations


def test_a_generation_is_named_by_its_manifest_and_comes_back_verified(store: Store, place: Place) -> None:
    generation_id = add_generation(store)
    stored = store.generation(generation_id)
    content = place.open().backend.read(f"generations/{generation_id}/manifest.json", "manifest")
    assert hashlib.sha256(content).hexdigest() == generation_id == stored.id
    assert content == canonical_json(stored.manifest)
    assert content.endswith(b"}\n")
    assert stored.manifest["name"] == "g"
    assert stored.manifest["files"] == {
        "embeddings.npy": hashlib.sha256(b"embeddings").hexdigest(),
        "errors.npy": hashlib.sha256(b"errors").hexdigest(),
    }
    assert stored.read("errors.npy") == b"errors"
    assert store.generations() == [generation_id]


def test_the_id_depends_on_every_file_and_on_nothing_else(store: Store) -> None:
    first = store.add_generation({"a": 1, "b": 2}, {"x": b"1", "y": b"2"})
    assert store.add_generation({"b": 2, "a": 1}, {"y": b"2", "x": b"1"}) == first
    assert store.add_generation({"a": 1, "b": 2}, {"x": b"1", "y": b"3"}) != first
    assert store.abandoned() == 0


def tear_file(place: Place, at: str) -> None:
    place.write(f"{at}/errors.npy", b"err")


def remove_file(place: Place, at: str) -> None:
    place.remove(f"{at}/errors.npy")


def change_manifest(place: Place, at: str) -> None:
    manifest = json.loads(place.open().backend.read(f"{at}/manifest.json", "manifest"))
    place.write(f"{at}/manifest.json", canonical_json({**manifest, "name": "other"}))


def remove_manifest(place: Place, at: str) -> None:
    place.remove(f"{at}/manifest.json")


GENERATION_DAMAGE = [tear_file, remove_file, add_extra, change_manifest, remove_manifest]


@pytest.mark.parametrize("damage", GENERATION_DAMAGE)
def test_a_damaged_generation_is_refused_and_replaced_when_stored_again(
    store: Store, place: Place, damage: Damage
) -> None:
    generation_id = add_generation(store)
    damage(place, f"generations/{generation_id}")
    with pytest.raises(DamagedArtifact):
        store.generation(generation_id)
    assert add_generation(store) == generation_id
    store.generation(generation_id)


def test_a_file_that_changes_after_verification_is_refused_when_read(store: Store, place: Place) -> None:
    stored = store.generation(add_generation(store))
    tear_file(place, stored.directory)
    with pytest.raises(DamagedArtifact):
        stored.read("errors.npy")
    with pytest.raises(MissingArtifact):
        stored.read("../ACTIVE")


def test_the_manifest_may_not_name_files_itself(store: Store) -> None:
    with pytest.raises(ValueError, match="files"):
        store.add_generation({"files": {}}, {})


@pytest.mark.parametrize("name", ["manifest.json", "a/b", "..", ".hidden", "", "/etc/x"])
def test_a_generations_files_have_plain_names(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        store.add_generation({}, {name: b""})


# Publishing


def test_nothing_is_active_before_the_first_publication(store: Store) -> None:
    assert store.active() is None


def test_the_last_published_generation_is_active(store: Store, place: Place) -> None:
    first, second = add_generation(store, "1"), add_generation(store, "2")
    for generation_id in (first, second, first):
        store.publish(generation_id)
        assert place.open().active() == generation_id
    assert place.read("ACTIVE") == f"{first}\n".encode()


def test_only_a_sound_generation_is_published(store: Store, place: Place) -> None:
    sound, torn = add_generation(store, "sound"), add_generation(store, "torn")
    store.publish(sound)
    tear_file(place, f"generations/{torn}")
    with pytest.raises(DamagedArtifact):
        store.publish(torn)
    with pytest.raises(MissingArtifact):
        store.publish(D1)
    assert store.active() == sound


def test_a_torn_active_file_is_refused(store: Store, place: Place) -> None:
    generation_id = add_generation(store)
    store.publish(generation_id)
    place.write("ACTIVE", generation_id[:40].encode())
    with pytest.raises(DamagedArtifact):
        store.active()
    store.publish(generation_id)
    assert store.active() == generation_id


# Erasing


def test_everything_else_is_erased(store: Store, place: Place) -> None:
    for digest in (D1, D2, D3):
        add_adapter(store, digest)
    old, new = add_generation(store, "old"), add_generation(store, "new")
    store.publish(new)
    erased = store.erase_except([D2], [], [new])
    assert erased.adapters == tuple(sorted([D1, D3]))
    assert erased.generations == (old,)
    assert erased.temporary == 0
    assert store.adapters.digests() == [D2]
    assert store.generations() == [new]
    assert not any(gone in path for path in place.paths() for gone in (D1, D3, old))
    assert store.erase_except([D2], [], [new]).adapters == ()


def test_entries_that_no_digest_names_are_erased_too(store: Store, place: Place) -> None:
    place.write("adapters/stray", b"x")
    place.write("generations/strays/file", b"x")
    erased = store.erase_except([], [], [])
    assert (erased.adapters, erased.generations) == (("stray",), ("strays",))
    assert place.paths() == ["FORMAT"]


def test_the_published_generation_is_never_erased(store: Store) -> None:
    generation_id = add_generation(store)
    store.publish(generation_id)
    with pytest.raises(StoreFailure, match="publish another one first"):
        store.erase_except([], [], [])
    assert store.generation(generation_id)


def test_threads_that_write_and_erase_at_once_do_not_disturb_each_other(store: Store) -> None:
    failures: list[StoreFailure] = []

    def write(number: int) -> None:
        try:
            for turn in range(5):
                add_adapter(store, digest_of([number, turn]))
        except StoreFailure as failure:
            failures.append(failure)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        store.erase_except([], [], [])
    store.erase_except([], [], [])
    assert failures == []
    assert store.adapters.digests() == []
    assert store.abandoned() == 0


# The store's form


def test_a_store_without_a_format_is_of_the_first(store: Store, place: Place) -> None:
    generation = add_generation(store)
    place.remove("FORMAT")
    if place.keys is not None:  # it may as well be plain
        with pytest.raises(StoreFailure, match=r"is not encrypted.*run `lethe build`"):
            place.open()
        return
    reopened = place.open()
    assert reopened.format == 1
    assert reopened.generation(generation).id == generation
    assert place.read("FORMAT") == b"1\n"


@pytest.mark.parametrize(
    ("content", "named"),
    [("3\n", "format 3, made by a later version"), ("", "does not hold a number"), ("9" * 5000, "does not hold")],
)
def test_a_store_of_a_later_or_no_format_is_refused_with_what_to_do(place: Place, content: str, named: str) -> None:
    place.open()
    place.write("FORMAT", content.encode())
    with pytest.raises(StoreFailure, match=rf"{named}.*(Start the later version|Restore)"):
        place.open()


# Canonical JSON


def test_the_canonical_form_is_pinned() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"é": "ü\n"}, "t": (1,)}
    assert canonical_json(value) == '{"a":{"é":"ü\\n"},"b":[1,2.5,null,true],"t":[1]}\n'.encode()
    assert digest_of({}) == hashlib.sha256(b"{}\n").hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_numbers_that_json_does_not_know_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=5))
def test_the_canonical_form_ignores_order_and_survives_a_round_trip(value: dict[str, Any]) -> None:
    form = canonical_json(value)
    assert canonical_json(dict(reversed(value.items()))) == form
    assert canonical_json(json.loads(form)) == form
