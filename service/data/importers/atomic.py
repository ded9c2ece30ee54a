"""A folder of RecBole's atomic files."""

from __future__ import annotations

from pathlib import Path

from service.data.importers.dataset import Dataset, Terms
from service.data.importers.files import PACKED_NAMES, format_suffix
from service.data.importers.tables import table
from service.errors import ImportRefused


def recbole(folder: Path, liked_above: float | None, item_type: str, terms: Terms = Terms()) -> Dataset:  # noqa: B008
    """The one `.inter` of a folder, and its `.item` if there is one. Raises ImportRefused as `table` does."""
    interactions = _only(folder, ".inter")
    if interactions is None:
        raise ImportRefused(f"no .inter file in {folder}; it may end in {PACKED_NAMES}")
    return table(_only(folder, ".item"), interactions, liked_above, item_type, terms)


def _only(folder: Path, suffix: str) -> Path | None:
    if not folder.is_dir():
        raise ImportRefused(f"there is no folder {folder}")
    found = [path for path in sorted(folder.iterdir()) if format_suffix(path) == suffix and path.is_file()]
    if len(found) > 1:
        raise ImportRefused(
            f"{folder} holds several {suffix} files; leave the one that is meant in a folder of its own"
        )
    return found[0] if found else None
