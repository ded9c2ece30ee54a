"""The on-disk store: content-addressed adapters and memories, generations, atomic publish, real erase.

It knows files and digests. It knows nothing of HTTP, models or users.
"""

from adapters_store.artifacts import Artifacts, StatedArtifact, Workspace
from adapters_store.files import (
    DamagedArtifact,
    MissingArtifact,
    StoreFailure,
    require_writable,
    sync_directory,
    write_once,
)
from adapters_store.inspection import KINDS, Findings, Inspector, StoreFault
from adapters_store.store import Erased, Store, StoredGeneration, canonical_json, digest_of

__all__ = [
    "KINDS",
    "Artifacts",
    "DamagedArtifact",
    "Erased",
    "Findings",
    "Inspector",
    "MissingArtifact",
    "StatedArtifact",
    "Store",
    "StoreFailure",
    "StoreFault",
    "StoredGeneration",
    "Workspace",
    "canonical_json",
    "digest_of",
    "require_writable",
    "sync_directory",
    "write_once",
]
