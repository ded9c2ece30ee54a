"""A store in a folder: what the file system does to it, and what other processes do."""

from __future__ import annotations

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

from adapters_store import DamagedArtifact, Store, StoreFailure, digest_of
from tests.disks import Disk, small_disk

REPOSITORY = Path(__file__).resolve().parents[2]
D1, D2 = digest_of("one"), digest_of("two")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add_adapter(store: Store, digest: str, weights: bytes = b"weights") -> None:
    store.adapters.add(digest, {"adapter_config.json": b"{}", "adapter_model.safetensors": weights})


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


def test_the_sums_are_of_the_form_that_sha256sum_checks(store: Store) -> None:
    add_adapter(store, D1)
    path = store.adapters.path(D1)
    lines = (path / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["adapter_config.json", "adapter_model.safetensors"]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=path, check=True)


def test_a_file_that_is_a_link_is_refused_and_replaced(store: Store) -> None:
    add_adapter(store, D1)
    weights = store.adapters.path(D1) / "adapter_model.safetensors"
    weights.rename(store.root / "elsewhere")
    weights.symlink_to(store.root / "elsewhere")
    with pytest.raises(DamagedArtifact):
        store.adapters.path(D1)
    add_adapter(store, D1)
    assert (store.adapters.path(D1) / "adapter_model.safetensors").read_bytes() == b"weights"


def test_an_adapter_stays_when_the_same_is_made_again(store: Store) -> None:
    add_adapter(store, D1)
    weights = store.adapters.path(D1) / "adapter_model.safetensors"
    inode = weights.stat().st_ino
    add_adapter(store, D1)
    assert weights.stat().st_ino == inode
    assert temporary(store) == []


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


def test_entries_of_any_kind_are_erased(store: Store) -> None:
    (store.root / "generations" / "strays").mkdir()
    (store.root / "tmp" / "file").write_text("x")
    erased = store.erase_except([], [], [])
    assert (erased.generations, erased.temporary) == (("strays",), 1)
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


DIES_INSIDE = """
import os, sys
from pathlib import Path
from adapters_store import Store

def die(event, _arguments):
    if event == "os.rename":
        os._exit(9)

sys.addaudithook(die)
Store(Path(sys.argv[1])).adapters.add(sys.argv[2], {"adapter_model.safetensors": b"half"})
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

def wait(event, _arguments):
    if event == "os.rename":
        print("ready", flush=True)
        sys.stdin.readline()

sys.addaudithook(wait)
Store(Path(sys.argv[1])).adapters.add(sys.argv[2], {"adapter_model.safetensors": sys.argv[3].encode()})
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


def test_a_store_that_cannot_be_created_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailure, match="cannot open the store"):
        Store(tmp_path / "file" / "store")
