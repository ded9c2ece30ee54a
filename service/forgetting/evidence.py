"""A search of the whole home folder for given texts, and what its outcome is worth: what was compared, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.data.traces import SoughtText
from service.forgetting.ports import SearchedLedger
from service.forgetting.search import FileSearch, contents_with, files_with, forms_of
from service.ledger import ColumnSearch


@dataclass(frozen=True, slots=True)
class TextSearch:
    """What was looked for, where it could have been, and where it is. Texts are named by their lines, never quoted."""

    texts: int
    in_files: int  # of these
    too_short: tuple[int, ...]  # lines that are no evidence in files
    item_ids: dict[int, int]  # lines that are no evidence in files: line -> rows that name an item so
    values: int  # that were compared
    rows: dict[str, int]  # table.column -> rows found
    files: FileSearch
    database_searched: bool  # the database's own files, beside its columns

    @property
    def found(self) -> int:
        return sum(self.rows.values()) + len(self.files.hits)

    def said(self, home: Path) -> str:
        """What was found, on one line."""
        names = [str(path.relative_to(home)) for path in self.files.hits[:5]]
        where = f" ({', '.join(names)})" if names else ""
        in_files = f"{len(self.files.hits)} files with a text that was looked for{where}"
        return f"{in_files}, {sum(self.rows.values())} rows of the database{_named(self.rows)}"

    def lines(self) -> Iterator[str]:
        """How it was searched, and which outcomes are no evidence."""
        yield f"columns: {self.texts} texts compared as whole values with {self.values:,} values of the database: none is equal"
        if self.in_files:
            yield (
                f"files: {self.in_files} texts looked for as delimited values, in UTF-8, UTF-16 and as JSON escapes them, in "
                f"{self.files.files:,} files and {self.files.bytes:,} bytes of the home folder and the store: none is there"
            )
        if self.too_short:
            yield f"no evidence in files: {_lines(self.too_short)} too short: such texts stand anywhere by chance"
        if self.item_ids:
            yield (
                f"no evidence in files: {_lines(sorted(self.item_ids))} also an item's id in the catalog "
                f"({sum(self.item_ids.values()):,} rows name items so); columns that hold people's ids were compared"
            )
        if not self.database_searched:
            yield "not searched: the database server's own files, logs and backups; they are not in the home folder"


def look_for(
    ledger: SearchedLedger, home: Path, texts: Sequence[SoughtText], elsewhere: Iterable[tuple[Path, bytes]] = ()
) -> TextSearch:
    """Compare texts with the columns of the database, and look for them in every file of the home folder.

    `elsewhere` are the files of a store that lies in no folder there.
    """
    searched = {sought.line: [ledger.search(form) for form in sought.forms] for sought in texts}
    item_ids = {line: rows for line, found in searched.items() if (rows := sum(each.item_ids for each in found))}
    too_short = tuple(sought.line for sought in texts if not sought.is_distinctive)
    telling = [sought for sought in texts if sought.line not in item_ids and sought.line not in too_short]
    forms = [
        form
        for sought in telling
        for text, found in zip(sought.forms, searched[sought.line], strict=True)
        for form in forms_of(text, loose=not found.longer)
    ]
    columns = [each for found in searched.values() for each in found]
    return TextSearch(
        texts=len(texts),
        in_files=len(telling),
        too_short=too_short,
        item_ids=item_ids,
        values=sum(found[0].values for found in searched.values()),
        rows=_added(columns),
        files=_both(home, files_with(home, forms, ledger.file(), ledger.image), contents_with(elsewhere, forms)),
        database_searched=ledger.file() is not None,
    )


def _both(home: Path, own: FileSearch, stored: FileSearch) -> FileSearch:
    """What lies elsewhere is named as if it lay where a store does by default."""
    hits = (*own.hits, *(home / "store" / path for path in stored.hits))
    return FileSearch(own.files + stored.files, own.bytes + stored.bytes, hits)


def _added(columns: Sequence[ColumnSearch]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for column in columns:
        for name, number in column.found.items():
            rows[name] = rows.get(name, 0) + number
    return rows


def _named(rows: dict[str, int]) -> str:
    return f" ({', '.join(f'{name}: {number}' for name, number in sorted(rows.items()))})" if rows else ""


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
    return f"line {shown} of the list is" if len(numbers) == 1 else f"lines {shown} of the list are"
