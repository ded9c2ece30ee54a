"""The store: content-addressed adapters and memories, generations, atomic publish, real erase; in a folder or a bucket.

It knows files and digests. It knows nothing of HTTP, models or users.
"""

from adapters_store.artifacts import Artifacts, StatedArtifact
from adapters_store.backend import Backend, ByteSearch, Remains
from adapters_store.files import (
    DamagedArtifact,
    MissingArtifact,
    StoreFailure,
    require_writable,
    sync_directory,
    write_once,
)
from adapters_store.folder import Folder, Workspace, files_holding
from adapters_store.inspection import KINDS, Findings, Inspector, StoreFault
from adapters_store.keys import DirectoryKeys, KeysInMemory
from adapters_store.opening import StoreUrl, open_store
from adapters_store.sealing import KEY_BYTES, NotOpened, new_key, unwrap, wrap
from adapters_store.store import Erased, Store, StoredGeneration, canonical_json, digest_of

__all__ = [
    "KEY_BYTES",
    "KINDS",
    "Artifacts",
    "Backend",
    "ByteSearch",
    "DamagedArtifact",
    "DirectoryKeys",
    "Erased",
    "Findings",
    "Folder",
    "Inspector",
    "KeysInMemory",
    "MissingArtifact",
    "NotOpened",
    "Remains",
    "StatedArtifact",
    "Store",
    "StoreFailure",
    "StoreFault",
    "StoreUrl",
    "StoredGeneration",
    "Workspace",
    "canonical_json",
    "digest_of",
    "files_holding",
    "new_key",
    "open_store",
    "require_writable",
    "sync_directory",
    "unwrap",
    "wrap",
    "write_once",
]
