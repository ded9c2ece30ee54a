"""Adapters, memories and generations on disk. The authority over every file is the manifest whose digest names a generation.

    adapters/<digest>/     one adapter's files and SHA256SUMS
    memory/<digest>/       one memory's files and SHA256SUMS
    generations/<id>/      manifest.json, whose SHA-256 is the id, and the files that it names
    ACTIVE                 the id of the published generation
    FORMAT                 the number of this form of the store
    tmp/                   work under way

`adapters_store/artifacts.py` says how an artifact comes and goes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters_store.artifacts import DIGEST, FILE_NAME, Artifacts, Workspace, checked_digest, names_in
from adapters_store.files import (
    DamagedArtifact,
    MissingArtifact,
    StoreFailure,
    failures,
    read,
    sync_directory,
    verify_files,
    write_once,
    write_synced,
)

MANIFEST = "manifest.json"
ACTIVE = "ACTIVE"
FORMAT = "FORMAT"
FORMAT_NUMBER = 1


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """A generation whose files were all verified. `manifest["files"]` maps each file's name to its SHA-256."""

    id: str
    manifest: dict[str, Any]
    path: Path

    def artifacts(self) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
        """Return what the manifest states of the files of adapters and of memories: `{digest: {file name: SHA-256}}`.

        Raises `DamagedArtifact` if it states none, as of a generation that an older version made.
        """
        try:
            adapters, memories = (
                {artifact["digest"]: artifact["files"] for artifact in self.manifest.get(kind, ())}
                for kind in ("adapters", "memories")
            )
        except (KeyError, TypeError):
            raise DamagedArtifact(
                f"generation {self.id}: its manifest does not state its adapters' files; build again"
            ) from None
        return adapters, memories

    def read(self, name: str) -> bytes:
        """Return the bytes of one file, verified again as they are read.

        Raises `MissingArtifact` if the manifest names no such file, `DamagedArtifact` if its bytes changed.
        """
        if name not in self.manifest["files"]:
            raise MissingArtifact(f"generation {self.id} holds no file named {name!r}")
        content = read(self.path / name, f"generation {self.id}")
        if hashlib.sha256(content).hexdigest() != self.manifest["files"][name]:
            raise DamagedArtifact(f"generation {self.id}: {name} is not what the manifest states; build again")
        return content


@dataclass(frozen=True, slots=True)
class Erased:
    """What `erase_except` removed: names of adapters, memories and generations, and the number of temporary leftovers."""

    adapters: tuple[str, ...]
    memories: tuple[str, ...]
    generations: tuple[str, ...]
    temporary: int


def canonical_json(value: Any) -> bytes:
    """Return the one form in which a JSON value is hashed and signed: sorted keys, no spaces, UTF-8, a final newline.

    Raises `ValueError` for NaN and infinities, `TypeError` for what is not JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def digest_of(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


class Store:
    """A directory of immutable, verified artifacts, safe for many processes at once."""

    def __init__(self, root: Path, workspace: Workspace | None = None) -> None:
        """Open the store at `root`, creating it if it is not there. Raises `StoreFailure`, also if a later version made it."""
        self.root = root
        self._generations = root / "generations"
        self._workspace = workspace or Workspace(root / "tmp")
        self.adapters = Artifacts(root / "adapters", "adapter", self._workspace)
        self.memories = Artifacts(root / "memory", "memory", self._workspace)
        with failures("open the store"):
            root.parent.mkdir(parents=True, exist_ok=True)
            for name in ("", "adapters", "memory", "generations", "tmp"):
                (root / name).mkdir(mode=0o700, exist_ok=True)
        self.format = self._check_format()

    def kinds(self) -> tuple[Artifacts, ...]:
        """Return all artifacts, by kind."""
        return self.adapters, self.memories

    def generations(self) -> list[str]:
        """Return the ids of all generations present, sorted; they are not verified here."""
        return names_in(self._generations)

    def add_generation(self, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
        """Store a generation and return its id: the SHA-256 of its manifest, which states the SHA-256 of each file.

        Storing the same again changes nothing, unless the stored one is damaged: then it is replaced.
        Raises `StoreFailure`; `ValueError` if the manifest has a key "files", or a file's name is not a plain one.
        """
        content = canonical_json(_with_files(manifest, files))
        generation_id = hashlib.sha256(content).hexdigest()
        with self._workspace.temporary() as work, failures(f"write generation {generation_id}"):
            for name, data in {**files, MANIFEST: content}.items():
                write_synced(work / name, data)
            sync_directory(work)
            self._workspace.reconcile_once(
                work, self._generation_path(generation_id), lambda: self.generation(generation_id)
            )
        return generation_id

    def generation(self, generation_id: str) -> StoredGeneration:
        """Return a generation with its manifest and every file verified.

        Raises `MissingArtifact`, or `DamagedArtifact` if a file is torn, missing or not listed.
        """
        path, what = self._generation_path(generation_id), f"generation {generation_id}"
        if path.is_symlink():
            raise DamagedArtifact(f"{what}: its folder is a symbolic link; build again")
        content = read(path / MANIFEST, what)
        if hashlib.sha256(content).hexdigest() != generation_id:
            raise DamagedArtifact(f"{what}: its manifest does not have the digest that names it; build again")
        manifest: dict[str, Any] = json.loads(content)
        verify_files(path, manifest["files"], {MANIFEST}, what)
        return StoredGeneration(generation_id, manifest, path)

    def active(self) -> str | None:
        """Return the id of the published generation, or None. Raises `DamagedArtifact` if `ACTIVE` is torn."""
        path = self.root / ACTIVE
        if not os.path.lexists(path):
            return None
        content = read(path, ACTIVE).decode("ascii", "replace")
        if not DIGEST.fullmatch(content.removesuffix("\n")):
            raise DamagedArtifact(f"{ACTIVE} does not hold a generation's id; publish a generation again")
        return content.removesuffix("\n")

    def publish(self, generation_id: str) -> None:
        """Make a stored generation the served one, atomically. Raises as `generation` does, then nothing changed."""
        self.generation(generation_id)
        with self._workspace.temporary() as work, failures(f"publish generation {generation_id}"):
            write_synced(work / ACTIVE, f"{generation_id}\n".encode())
            if (self.root / ACTIVE).is_dir() and not (self.root / ACTIVE).is_symlink():
                self._workspace.remove(self.root / ACTIVE)  # a folder cannot be replaced by a file
            sys.audit("lethe.store.before_swap")
            os.replace(work / ACTIVE, self.root / ACTIVE)
            sys.audit("lethe.store.after_swap")
            sync_directory(self.root)

    def erase_except(
        self,
        adapters: Collection[str],
        memories: Collection[str],
        generations: Collection[str],
        ahead: Collection[str] = (),
    ) -> Erased:
        """Remove every other adapter, memory and generation, and all temporary files that no process is working on.

        Artifacts of either kind that were made `ahead` of a generation that is not there yet stay, with their notes.
        Raises `StoreFailure` if the published generation is not among those to keep: publish another one first.
        """
        if (active := self.active()) is not None and active not in generations:
            raise StoreFailure(f"generation {active} is published and may not be erased; publish another one first")
        with failures("erase old artifacts and generations"):
            return Erased(
                adapters=self.adapters.remove_except(adapters, ahead),
                memories=self.memories.remove_except(memories, ahead),
                generations=self._erase_generations_except(generations),
                temporary=self._workspace.erase_abandoned(),
            )

    def abandoned(self) -> int:
        """Return how many temporary entries no process is working on. Raises `StoreFailure`."""
        with failures("look for temporary files"):
            return self._workspace.abandoned()

    def _check_format(self) -> int:
        """The number of the store's form, stamped where there is none: what has none yet is of the first form."""
        path = self.root / FORMAT
        with suppress(OSError):  # what may only be read is not stamped
            write_once(path, lambda: b"%d\n" % FORMAT_NUMBER)
        if not path.exists():
            return 1
        content = read(path, FORMAT).strip()
        if not content.isdigit() or len(content) > 9:
            raise DamagedArtifact(
                f"{FORMAT} does not hold a number; expected {FORMAT_NUMBER}. Restore it from a backup"
            )
        if int(content) > FORMAT_NUMBER:
            raise StoreFailure(
                f"the store has format {int(content)}, made by a later version of Lethe; this one knows formats up to "
                f"{FORMAT_NUMBER}. Start the later version, or move the store away and run `lethe build`, which makes it anew"
            )
        return int(content)

    def _erase_generations_except(self, keep: Collection[str]) -> tuple[str, ...]:
        others = sorted(set(os.listdir(self._generations)).difference(keep))
        return tuple(name for name in others if self._workspace.remove(self._generations / name))

    def generation_strays(self) -> list[str]:
        """Return the names of entries among the generations that are none, sorted."""
        with failures("list the generations"):
            return sorted(name for name in os.listdir(self._generations) if not DIGEST.fullmatch(name))

    def generation_folder(self, generation_id: str) -> Path:
        """Return where a generation lies or would lie; nothing is verified here."""
        return self._generation_path(generation_id)

    def _generation_path(self, generation_id: str) -> Path:
        return self._generations / checked_digest(generation_id)


def _with_files(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    if "files" in manifest:
        raise ValueError('the manifest may not have a key "files": the store writes it')
    for name in files:
        if not FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise ValueError(f"{name!r} is not a plain file name")
    return {**manifest, "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
