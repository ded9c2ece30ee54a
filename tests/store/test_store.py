"""The store's promises: verified when read, whole or invisible, truly erased."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store import (
    DamagedArtifact,
    MissingArtifact,
    Store,
    StoreFailure,
    canonical_json,
    digest_of,
)
from tests.disks import Disk, small_disk

REPOSITORY = Path(__file__).resolve().parents[2]
D1, D2, D3 = (digest_of(name) for name in ("one", "two", "three"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add_adapter(store: Store, digest: str, weights: bytes = b"weights") -> None:
    with store.adapters.new(digest) as work:
        (work / "adapter_model.safetensors").write_bytes(weights)
        (work / "adapter_config.json").write_text("{}")


def add_generation(store: Store, name: str = "g") -> str:
    return store.add_generation({"name": name}, {"errors.npy": b"errors", "embeddings.npy": b"embeddings"})


def temporary(store: Store) -> list[str]:
    return os.listdir(store.root / "tmp")


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


# Adapters


def test_an_adapter_comes_back_with_its_files_and_their_sums(store: Store) -> None:
    add_adapter(store, D1)
    path = store.adapters.path(D1)
    assert (path / "adapter_model.safetensors").read_bytes() == b"weights"
    assert store.adapters.sums(D1) == {
        "adapter_config.json": hashlib.sha256(b"{}").hexdigest(),
        "adapter_model.safetensors": hashlib.sha256(b"weights").hexdigest(),
    }
    assert store.adapters.has(D1)
    assert not store.adapters.has(D2)
    assert store.adapters.digests() == [D1]


def test_the_sums_are_of_the_form_that_sha256sum_checks(store: Store) -> None:
    add_adapter(store, D1)
    path = store.adapters.path(D1)
    lines = (path / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["adapter_config.json", "adapter_model.safetensors"]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=path, check=True)


def append_to_weights(path: Path) -> None:
    with (path / "adapter_model.safetensors").open("ab") as file:
        file.write(b"!")


def tear_weights(path: Path) -> None:
    (path / "adapter_model.safetensors").write_bytes(b"weig")


def remove_config(path: Path) -> None:
    (path / "adapter_config.json").unlink()


def add_extra(path: Path) -> None:
    (path / "extra.bin").write_bytes(b"")


def tear_sums(path: Path) -> None:
    sums = path / "SHA256SUMS"
    sums.write_bytes(sums.read_bytes()[:-1])


def empty_sums(path: Path) -> None:
    (path / "SHA256SUMS").write_bytes(b"")


def remove_sums(path: Path) -> None:
    (path / "SHA256SUMS").unlink()


def link_weights(path: Path) -> None:
    weights = path / "adapter_model.safetensors"
    weights.rename(path.parent / "elsewhere")
    weights.symlink_to(path.parent / "elsewhere")


ADAPTER_DAMAGE = [
    append_to_weights,
    tear_weights,
    remove_config,
    add_extra,
    tear_sums,
    empty_sums,
    remove_sums,
    link_weights,
]


@pytest.mark.parametrize("damage", ADAPTER_DAMAGE)
def test_a_damaged_adapter_is_refused(store: Store, damage: Callable[[Path], None]) -> None:
    add_adapter(store, D1)
    damage(store.adapters.path(D1))
    with pytest.raises(DamagedArtifact):
        store.adapters.path(D1)


@pytest.mark.parametrize("damage", ADAPTER_DAMAGE)
def test_a_damaged_adapter_is_replaced_when_it_is_made_again(store: Store, damage: Callable[[Path], None]) -> None:
    add_adapter(store, D1)
    damage(store.adapters.path(D1))
    add_adapter(store, D1)
    assert (store.adapters.path(D1) / "adapter_model.safetensors").read_bytes() == b"weights"


def test_a_stray_file_in_an_adapters_place_is_replaced(store: Store) -> None:
    (store.root / "adapters" / D1).write_text("stray")
    with pytest.raises(DamagedArtifact):
        store.adapters.path(D1)
    add_adapter(store, D1)
    store.adapters.path(D1)


def test_an_adapter_that_is_not_there_is_missing(store: Store) -> None:
    with pytest.raises(MissingArtifact):
        store.adapters.path(D1)
    with pytest.raises(MissingArtifact):
        store.adapters.sums(D1)


def test_an_adapter_is_invisible_until_it_is_whole(store: Store) -> None:
    with store.adapters.new(D1) as work:
        (work / "adapter_model.safetensors").write_bytes(b"weights")
        assert not store.adapters.has(D1)
        assert store.adapters.digests() == []
        assert work.parent == store.root / "tmp"
    assert store.adapters.has(D1)
    assert temporary(store) == []


def test_after_an_exception_nothing_is_left(store: Store) -> None:
    def fail() -> None:
        with store.adapters.new(D1) as work:
            (work / "adapter_model.safetensors").write_bytes(b"weights")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not store.adapters.has(D1)
    assert temporary(store) == []


def test_an_adapter_without_files_or_with_folders_is_refused(store: Store) -> None:
    with pytest.raises(StoreFailure, match="without files"), store.adapters.new(D1):
        pass
    with pytest.raises(StoreFailure, match="plain files"), store.adapters.new(D1) as work:
        (work / "folder").mkdir()
    assert store.adapters.digests() == []
    assert temporary(store) == []


def test_an_adapter_stays_when_the_same_is_made_again_and_any_other_is_replaced(store: Store) -> None:
    add_adapter(store, D1, b"first")
    weights = store.adapters.path(D1) / "adapter_model.safetensors"
    inode = weights.stat().st_ino
    add_adapter(store, D1, b"first")
    assert weights.stat().st_ino == inode
    add_adapter(store, D1, b"second")  # somebody may have changed the first together with its sums
    assert weights.read_bytes() == b"second"
    assert temporary(store) == []


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


def test_a_removed_adapter_is_gone_and_may_be_removed_again(store: Store) -> None:
    add_adapter(store, D1)
    store.adapters.remove(D1)
    store.adapters.remove(D1)
    assert not store.adapters.has(D1)
    assert temporary(store) == []


@pytest.mark.parametrize("digest", ["", "../" + "a" * 61, "a" * 63, "A" * 64, "a" * 64 + "\n", "a/" + "b" * 62])
def test_only_digests_name_artifacts(store: Store, digest: str) -> None:
    asks: list[Callable[[str], object]] = [
        store.adapters.has,
        store.adapters.path,
        store.adapters.sums,
        store.adapters.remove,
        store.generation,
        store.publish,
        lambda name: store.adapters.new(name).__enter__(),
    ]
    for ask in asks:
        with pytest.raises(StoreFailure):
            ask(digest)


# Generations


def test_a_generation_is_named_by_its_manifest_and_comes_back_verified(store: Store) -> None:
    generation_id = add_generation(store)
    stored = store.generation(generation_id)
    content = (stored.path / "manifest.json").read_bytes()
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
    assert temporary(store) == []


def tear_file(path: Path) -> None:
    (path / "errors.npy").write_bytes(b"err")


def remove_file(path: Path) -> None:
    (path / "errors.npy").unlink()


def change_manifest(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_bytes(canonical_json({**manifest, "name": "other"}))


def remove_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


GENERATION_DAMAGE = [tear_file, remove_file, add_extra, change_manifest, remove_manifest]


@pytest.mark.parametrize("damage", GENERATION_DAMAGE)
def test_a_damaged_generation_is_refused_and_replaced_when_stored_again(
    store: Store, damage: Callable[[Path], None]
) -> None:
    generation_id = add_generation(store)
    damage(store.root / "generations" / generation_id)
    with pytest.raises(DamagedArtifact):
        store.generation(generation_id)
    assert add_generation(store) == generation_id
    store.generation(generation_id)


def test_a_file_that_changes_after_verification_is_refused_when_read(store: Store) -> None:
    stored = store.generation(add_generation(store))
    tear_file(stored.path)
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


def test_the_last_published_generation_is_active(store: Store) -> None:
    first, second = add_generation(store, "1"), add_generation(store, "2")
    for generation_id in (first, second, first):
        store.publish(generation_id)
        assert Store(store.root).active() == generation_id
    assert (store.root / "ACTIVE").read_text() == f"{first}\n"
    assert temporary(store) == []


def test_only_a_sound_generation_is_published(store: Store) -> None:
    sound, torn = add_generation(store, "sound"), add_generation(store, "torn")
    store.publish(sound)
    tear_file(store.root / "generations" / torn)
    with pytest.raises(DamagedArtifact):
        store.publish(torn)
    with pytest.raises(MissingArtifact):
        store.publish(D1)
    assert store.active() == sound


def test_a_torn_active_file_is_refused(store: Store) -> None:
    generation_id = add_generation(store)
    store.publish(generation_id)
    (store.root / "ACTIVE").write_text(generation_id[:40])
    with pytest.raises(DamagedArtifact):
        store.active()
    store.publish(generation_id)
    assert store.active() == generation_id


def test_a_reader_always_sees_a_whole_published_generation(store: Store) -> None:
    ids = [add_generation(store, str(number)) for number in range(2)]
    store.publish(ids[0])
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(store.generation(store.active() or "").id)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(50):
        store.publish(ids[turn % 2])
    done.set()
    reader.join()
    assert seen <= set(ids)


# Erasing


def test_everything_else_is_erased(store: Store) -> None:
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
    assert temporary(store) == []
    assert store.erase_except([D2], [], [new]).adapters == ()


def test_entries_that_no_digest_names_are_erased_too(store: Store) -> None:
    (store.root / "adapters" / "stray").write_text("x")
    (store.root / "generations" / "strays").mkdir()
    (store.root / "tmp" / "file").write_text("x")
    erased = store.erase_except([], [], [])
    assert (erased.adapters, erased.generations, erased.temporary) == (("stray",), ("strays",), 1)
    assert not any(path.name.startswith(("stray", "file")) for path in store.root.rglob("*"))


def test_a_link_is_erased_and_what_it_points_to_stays(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (store.root / "adapters" / D1).symlink_to(outside)
    (store.root / "tmp" / "link").symlink_to(outside)
    store.erase_except([], [], [])
    assert (outside / "kept").exists()
    assert store.adapters.digests() == []
    assert temporary(store) == []


def test_the_published_generation_is_never_erased(store: Store) -> None:
    generation_id = add_generation(store)
    store.publish(generation_id)
    with pytest.raises(StoreFailure, match="publish another one first"):
        store.erase_except([], [], [])
    assert store.generation(generation_id)


DIES_INSIDE = """
import os, sys
from pathlib import Path
from adapters_store import Store
with Store(Path(sys.argv[1])).adapters.new(sys.argv[2]) as work:
    (work / "adapter_model.safetensors").write_bytes(b"half")
    os._exit(9)
"""


def test_what_a_killed_process_left_is_invisible_and_erased(store: Store) -> None:
    process = run_python(DIES_INSIDE, str(store.root), D1)
    process.communicate(timeout=60)
    assert process.returncode == 9
    reopened = Store(store.root)
    assert reopened.adapters.digests() == []
    assert len(temporary(store)) == 1
    assert reopened.erase_except([], [], []).temporary == 1
    assert temporary(store) == []
    add_adapter(reopened, D1)
    reopened.adapters.path(D1)


WORKS_UNTIL_TOLD = """
import sys
from pathlib import Path
from adapters_store import Store
with Store(Path(sys.argv[1])).adapters.new(sys.argv[2]) as work:
    (work / "adapter_model.safetensors").write_text(sys.argv[3])
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_the_work_of_a_living_process_is_not_erased(store: Store) -> None:
    process = run_python(WORKS_UNTIL_TOLD, str(store.root), D1, "theirs")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert store.erase_except([], [], []).temporary == 0
    process.communicate("go\n", timeout=60)
    assert process.returncode == 0
    assert (store.adapters.path(D1) / "adapter_model.safetensors").read_text() == "theirs"


def test_of_two_processes_that_race_for_a_digest_one_wins_and_nothing_is_left(store: Store) -> None:
    racers = [run_python(WORKS_UNTIL_TOLD, str(store.root), D1, name) for name in ("a", "b")]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate(timeout=60)
        assert racer.returncode == 0
    assert (store.adapters.path(D1) / "adapter_model.safetensors").read_text() in ("a", "b")
    assert temporary(store) == []


def test_threads_that_write_and_erase_at_once_do_not_disturb_each_other(store: Store) -> None:
    failures: list[StoreFailure] = []

    def write(number: int) -> None:
        try:
            for turn in range(10):
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
    assert temporary(store) == []


# The store's form


def test_a_store_without_a_format_is_of_the_first(store: Store) -> None:
    generation = add_generation(store)
    (store.root / "FORMAT").unlink()
    reopened = Store(store.root)
    assert reopened.format == 1
    assert reopened.generation(generation).id == generation
    assert (store.root / "FORMAT").read_text() == "1\n"


@pytest.mark.parametrize(
    ("content", "named"),
    [("2\n", "format 2, made by a later version"), ("", "does not hold a number"), ("9" * 5000, "does not hold")],
)
def test_a_store_of_a_later_or_no_format_is_refused_with_what_to_do(store: Store, content: str, named: str) -> None:
    (store.root / "FORMAT").write_text(content)
    with pytest.raises(StoreFailure, match=rf"{named}.*(Start the later version|Restore)"):
        Store(store.root)


# The disk


def test_directories_are_for_their_owner_only(store: Store) -> None:
    add_adapter(store, D1)
    add_generation(store)
    directories = [store.root, *(path for path in store.root.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o700}


@contextmanager
def full(disk: Disk) -> Iterator[None]:
    disk.fill()
    yield
    disk.make_room()


@contextmanager
def read_only(disk: Disk) -> Iterator[None]:
    disk.make_read_only()
    yield
    disk.make_writable()


@contextmanager
def misused(disk: Disk) -> Iterator[None]:
    folder = disk.path / "store" / "tmp"
    folder.rmdir()
    folder.write_text("a file in the place of a folder")
    yield
    folder.unlink()
    folder.mkdir()


@pytest.mark.parametrize(
    ("trouble", "advice"), [(full, "disk is full"), (read_only, "read-only"), (misused, "Check the store")]
)
def test_a_failing_disk_says_what_to_do_and_leaves_nothing_half_written(
    tmp_path: Path, trouble: Callable[[Disk], AbstractContextManager[None]], advice: str
) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        store = Store(disk.path / "store")
        published = add_generation(store, "published")
        store.publish(published)
        unpublished = add_generation(store, "unpublished")
        writes: list[Callable[[], Any]] = [
            lambda: add_adapter(store, D1),
            lambda: add_generation(store, "new"),
            lambda: store.publish(unpublished),
        ]
        with trouble(disk):
            for write in writes:
                with pytest.raises(StoreFailure, match=advice):
                    write()
        assert store.adapters.digests() == []
        assert store.active() == published
        assert store.generations() == sorted([published, unpublished])
        assert temporary(store) == []


WRITES_AS_NOBODY = """
import os, sys
from pathlib import Path
from adapters_store import Store, StoreFailure
store = Store(Path(sys.argv[1]))
if os.geteuid() == 0:
    try:
        os.seteuid(65534)
    except OSError:
        sys.exit(1)
try:
    store.publish(store.add_generation({}, {}))
except StoreFailure as failure:
    print(failure)
"""


def test_a_folder_that_another_user_owns_says_to_whom_to_give_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (store.root / "tmp").chmod(0o500)
    process = run_python(WRITES_AS_NOBODY, str(store.root))
    said, _ = process.communicate(timeout=60)
    if process.returncode == 1:
        pytest.skip("root cannot become another user in this namespace")
    assert "give it to the user that runs this process" in said
    assert temporary(store) == []


def test_a_disk_that_fills_while_an_adapter_is_written_says_so(store: Store) -> None:
    with pytest.raises(StoreFailure, match="free some space"), store.adapters.new(D1):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_of_the_writer_pass_through(store: Store) -> None:
    with pytest.raises(FileNotFoundError), store.adapters.new(D1):
        raise FileNotFoundError(errno.ENOENT, "no such model")


def test_a_store_that_cannot_be_created_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailure, match="cannot open the store"):
        Store(tmp_path / "file" / "store")


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
