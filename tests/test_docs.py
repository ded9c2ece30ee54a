"""What the pages say of the sources: a page that names a file that is not there sends its reader astray."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")))]
ROOMS = (ROOT / name for name in ("service", "adapters_store", "research", "client", "tests"))
BASES = (ROOT, *(path for room in ROOMS for path in (room, *room.rglob("*")) if path.is_dir()))

_SOURCE = re.compile(r"`((?:[\w.]+/)*\w+\.py|(?:[a-z_]+/)+)`")
_LINK = re.compile(r"\]\(([^)#:]+?)(?:#[^)]*)?\)")


def missing_sources(text: str) -> Iterator[str]:
    """Files and folders between backticks that stand neither at the top of the repository nor in one of its rooms."""
    for name in _SOURCE.findall(text):
        if not any((base / name).exists() for base in BASES):
            yield name


def broken_links(text: str, folder: Path) -> Iterator[str]:
    """Targets of relative links that are not there."""
    yield from (target for target in _LINK.findall(text) if not (folder / target).exists())


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_what_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    assert list(missing_sources(text)) == []
    assert list(broken_links(text, (ROOT / page).parent)) == []


def test_what_is_not_there_is_found() -> None:
    assert list(missing_sources("see `build/memo.py`, `prompts.py`, `service/llm/` and `attic/`")) == [
        "build/memo.py",
        "attic/",
    ]
    assert list(broken_links("[a](nowhere.md) [b](README.md#start) [c](https://example.org/x.md)", ROOT)) == [
        "nowhere.md"
    ]


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = _LINK.findall((folder / "README.md").read_text())
    assert sorted(listed) == sorted(page.name for page in folder.glob("0*.md"))


def test_the_glossary_is_one_hop_from_the_top() -> None:
    head = (ROOT / "README.md").read_text().split("\n## ")[0]
    assert "docs/glossary.md" in head
