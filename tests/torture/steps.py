"""The steps of a deletion or a full build at which a process is killed, and where the sources announce them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

# In the order in which a deletion, or a full build, passes them.
OF_THE_SERVER = (
    "forget.masked",
    "forget.before_commit",
    "forget.after_commit",
    "forget.before_tombstone_file",
)
OF_THE_WORKER = (
    "horizon.before_commit",
    "build.training",
    "store.renamed",
    "store.before_swap",
    "store.after_swap",
    "reconcile.published",
    "store.erasing",
    "reconcile.erased",
    "reconcile.before_receipt",
    "reconcile.completed",
)

# A restriction or a hold is set and lifted in processes of the stories of tests/exactness, which end there.
OF_A_RESTRAINT = (
    "restraint.before_commit",
    "restraint.after_commit",
    "restraint.before_tombstone_file",
    "restraint.before_ledger",
)

# Between commit and acknowledgment of `lethe ingest --stream`: tests/entrypoints/test_event_stream.py kills it there.
OF_A_STREAM = ("ingest.taken",)

# Keys are destroyed in an encrypted store alone, by its worker.
OF_AN_ENCRYPTED_STORE = ("store.destroying_keys",)

OF_A_FULL_BUILD = ("horizon.before_commit", "build.training")


def announced(folders: Iterable[Path]) -> Iterator[str]:
    """Every `sys.audit("lethe.<step>")` in the sources, without the prefix."""
    for folder in folders:
        for source in sorted(folder.rglob("*.py")):
            yield from _announced(ast.parse(source.read_text()))


def _announced(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "sys.audit":
            name = ast.literal_eval(node.args[0])
            if name.startswith("lethe."):
                yield name.removeprefix("lethe.")
