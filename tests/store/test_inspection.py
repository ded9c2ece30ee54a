"""The manifest is the authority: whatever in a store differs from it is found, however it was changed, and nothing else is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters_store import DamagedArtifact, Inspector, MissingArtifact, Store, StoreFailure, StoreFault, digest_of
from adapters_store.store import FORMAT

ADAPTER, OTHER, MEMORY = (digest_of(name) for name in ("adapter", "other", "memory"))
FILES = {
    "adapters": {
        ADAPTER: {"adapter_model.safetensors": b"weights", "adapter_config.json": b"{}"},
        OTHER: {"adapter_model.safetensors": b"others"},
    },
    "memories": {MEMORY: {"counts.safetensors": b"counts", "items.json": b"[]"}},
}


def fill(store: Store, change: bytes = b"") -> str:
    manifest = {}
    for kind, artifacts in zip(("adapters", "memories"), store.kinds(), strict=True):
        manifest[kind] = [
            {"digest": digest, "files": artifacts.add(digest, {n: c + change for n, c in files.items()})}
            for digest, files in FILES[kind].items()
        ]
    generation = store.add_generation(manifest, {"errors.npy": b"errors", "rows.json": b"[]"})
    store.publish(generation)
    return generation


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def file_names(tmp: Path) -> list[str]:
    store = Store(tmp)
    fill(store)
    files = (path for path in tmp.rglob("*") if path.is_file() and path.name != FORMAT)  # which opening a store reads
    return sorted(str(path.relative_to(tmp)) for path in files)


def reseal(folder: Path) -> None:
    """Let an artifact's own sums agree with what now lies there, as whoever changes files on purpose would."""
    if not (folder / "SHA256SUMS").exists():
        return
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS" and path.is_file())
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_and_keep_times(path: Path) -> None:
    at = path.stat()
    flip(path)
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))


def flip_and_reseal(path: Path) -> None:
    flip(path)
    reseal(path.parent)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


CHANGES = (flip, flip_and_keep_times, flip_and_reseal, Path.unlink, make_pipe, make_folder, empty)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_changed_file_is_found_by_a_first_look_and_by_a_later_one(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    names = file_names(tmp_path / "names")
    assert len(names) == (3 + 2) + 3 + 3 + 1  # of two adapters, a memory, a generation, and ACTIVE
    for number, name in enumerate(names):
        store = Store(tmp_path / str(number))
        generation = fill(store)
        known = Inspector(store)
        assert known.look(generation).clean
        change(store.root / name)
        if change is flip_and_reseal and name.endswith("SHA256SUMS"):
            continue  # which is then as it was
        for inspector in (known, Inspector(store)):
            found = inspector.look(generation)
            assert not found.clean
            if name == "ACTIVE":  # which may name another generation now
                continue
            kinds = {"adapters": "adapter", "memory": "memory", "generations": "generation"}
            assert [fault.kind for fault in found.faults] == [kinds[name.partition("/")[0]]], name


def test_a_link_is_no_file_and_no_folder_even_to_the_same_bytes(tmp_path: Path) -> None:
    for number, name in enumerate(file_names(tmp_path / "names")):
        store = Store(tmp_path / str(number) / "store")
        generation, path = fill(store), store.root / name
        elsewhere = tmp_path / str(number) / "elsewhere"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        assert len(Inspector(store).look(generation).faults) == 1, name
    for number, folder in enumerate((f"adapters/{ADAPTER}", f"memory/{MEMORY}", "generations")):
        store = Store(tmp_path / f"folder-{number}" / "store")
        generation = fill(store)
        path = store.root / folder / (generation if folder == "generations" else "")
        path.rename(tmp_path / f"folder-{number}" / "moved")
        path.symlink_to(tmp_path / f"folder-{number}" / "moved")
        [fault] = Inspector(store).look(generation).faults
        assert fault.kind in ("adapter", "memory", "generation")


@pytest.mark.parametrize("folder", [f"adapters/{ADAPTER}", f"memory/{MEMORY}", "generations"])
def test_a_file_that_the_manifest_does_not_state_is_found(store: Store, folder: str) -> None:
    generation = fill(store)
    inspector = Inspector(store)
    assert inspector.look(generation).clean
    path = store.root / folder / (generation if folder == "generations" else "")
    (path / "more.bin").write_bytes(b"")
    assert len(inspector.look(generation).faults) == 1
    reseal(path)  # of a generation: one file more
    assert len(inspector.look(generation).faults) == 1


@pytest.mark.parametrize("folder", ["adapters", "memory", "generations"])
def test_what_is_no_artifact_is_found_among_them_and_whole_ones_that_nothing_names_are_left_over(
    store: Store, folder: str
) -> None:
    generation = fill(store)
    inspector = Inspector(store)
    (store.root / folder / "evil.bin").write_bytes(b"evil")
    assert [fault.kind for fault in inspector.look(generation).faults] == ["stray"]
    (store.root / folder / "evil.bin").unlink()
    (store.root / folder / digest_of("left by a crash")).mkdir()
    found = inspector.look(generation)
    assert (found.faults, found.leftovers, found.clean) == ((), 1, False)


def test_active_that_names_another_generation_is_out_of_line_and_not_damaged(store: Store) -> None:
    first = fill(store)
    store.publish(store.add_generation({"adapters": [], "memories": []}, {}))
    found = Inspector(store).look(first)
    assert found.faults == ()
    assert not found.clean


def test_the_same_artifact_under_a_manifest_that_states_other_bytes_is_compared_again(store: Store) -> None:
    first = fill(store)
    inspector = Inspector(store)
    assert inspector.look(first).faults == ()
    second = fill(store, change=b"!")
    assert inspector.look(second).faults == ()
    assert {fault.kind for fault in inspector.look(first).faults} == {"adapter", "memory"}


# What a look reads


def test_a_first_look_reads_everything_and_later_ones_what_was_touched_and_a_bounded_part(store: Store) -> None:
    generation = fill(store)
    size = sum(
        path.stat().st_size for path in store.root.rglob("*") if path.is_file() and path.name not in ("ACTIVE", FORMAT)
    )
    inspector = Inspector(store, bytes_a_look=0)
    assert inspector.look(generation).bytes_read == size
    assert inspector.look(generation).bytes_read == 0
    (store.root / "adapters" / OTHER / "adapter_model.safetensors").touch()
    assert 0 < inspector.look(generation).bytes_read < size / 4
    assert inspector.look(generation, whole=True).bytes_read == size


def looks_until_found(inspector: Inspector, generation: str) -> Iterator[int]:
    while True:
        found = inspector.look(generation)
        yield found.bytes_read
        if found.faults:
            return


def test_what_changes_without_a_trace_is_found_within_a_round(store: Store) -> None:
    """Whoever changes bytes may change what the file system says of them too: then nothing seems to have changed."""
    generation = fill(store)
    inspector = Inspector(store, bytes_a_look=1, signature=lambda directory: ((directory,),))
    assert inspector.look(generation).clean
    flip_and_reseal(store.root / "memory" / MEMORY / "counts.safetensors")
    read = list(looks_until_found(inspector, generation))
    files = sum(path.is_file() for path in store.root.rglob("*"))
    assert len(read) <= files + 2  # one file a look, as each is smaller than a chunk


# What is read by a manifest's word


def test_an_artifact_that_was_changed_with_its_sums_is_read_by_nobody_who_knows_the_manifest(store: Store) -> None:
    generation = fill(store)
    stated = store.generation(generation).artifacts()[0][ADAPTER]
    assert store.adapters.stated(ADAPTER, stated).read() == FILES["adapters"][ADAPTER]
    flip_and_reseal(store.root / "adapters" / ADAPTER / "adapter_model.safetensors")
    store.adapters.path(ADAPTER)  # its own sums say that all is well
    for look in (store.adapters.stated(ADAPTER, stated).read, lambda: store.adapters.verify(ADAPTER, stated)):
        with pytest.raises(DamagedArtifact, match="digest that is stated"):
            look()
    store.adapters.remove(ADAPTER)
    with pytest.raises(MissingArtifact):
        store.adapters.stated(ADAPTER, stated).read()


def test_a_manifest_that_states_no_files_is_of_an_older_version(store: Store) -> None:
    generation = store.add_generation({"adapters": [{"digest": ADAPTER}]}, {})
    with pytest.raises(DamagedArtifact, match="does not state"):
        store.generation(generation).artifacts()
    [fault] = Inspector(store).look(generation).faults[1:]
    assert fault == StoreFault("generation", generation, fault.reason)


def test_publishing_replaces_whatever_took_the_place_of_active(store: Store) -> None:
    generation = fill(store)
    active = store.root / "ACTIVE"
    for put in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to(store.root), lambda path: path.write_text("junk")):
        active.unlink()
        put(active)
        with pytest.raises(StoreFailure):
            store.active()
        store.publish(generation)
        assert store.active() == generation
