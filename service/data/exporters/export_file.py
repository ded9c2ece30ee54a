"""A file that is there as a whole or not at all, and for its owner alone: it lists what is personal data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from adapters_store.files import sync_directory
from service.data.exporters.parquet import ParquetFormat
from service.data.exporters.rows import Columns, Row, RowFormat, RowWriter
from service.data.exporters.texts import CsvFormat, JsonLinesFormat
from service.errors import InvalidInput

_FORMATS: Mapping[str, RowFormat] = {
    ".parquet": ParquetFormat(),
    ".csv": CsvFormat(),
    ".jsonl": JsonLinesFormat(),
    ".ndjson": JsonLinesFormat(),
}
SUFFIXES = ", ".join(_FORMATS)


class ExportFile:
    """Takes rows into a temporary file beside `path`, and takes that name when all are there.

    Use it as a context manager: what is not finished when the block ends is removed. The format is chosen by the suffix.
    Raises InvalidInput for an unknown suffix, and where the folder cannot be written.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        known = _FORMATS.get(path.suffix.lower())
        if known is None:
            raise InvalidInput(f"the name of the file must end in one of {SUFFIXES}, as that chooses its format")
        if path.is_dir():
            raise InvalidInput("the file's name is that of a folder; give the name of a file")
        self._path, self._columns, self._format = path, columns, known
        self._parts: list[Path] = []  # the last is the one that counts
        self._file: IO[bytes]
        self._writer: RowWriter | None = None

    def __enter__(self) -> Self:
        with _told(self._path):
            self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError):  # on a full disk the rest cannot be written either, and nobody wants it
            self._close()
        for part in self._parts:
            part.unlink(missing_ok=True)

    def write(self, rows: Sequence[Row]) -> None:
        """Take rows. Raises InvalidInput where they cannot be written, ValueError where the file takes none any more."""
        if self._writer is None:
            raise ValueError("the rows are read or finished; no others can be taken")
        with _told(self._path):
            self._writer.write(rows)

    def batches(self) -> Iterator[list[Row]]:
        """The rows that were taken, few at a time; from then on none can be taken, until `drop`."""
        with _told(self._path):
            self._close()
            yield from self._format.batches(self._parts[-1], self._columns)

    def drop(self, column: str, values: Collection[str]) -> int:
        """Take out the rows that have one of these values in the column; how many. Others can be taken again."""
        dropped = 0
        with _told(self._path):
            self._close()
            self._begin()
            before = self._parts[-2]
            for rows in self._format.batches(before, self._columns):
                kept = [row for row in rows if row[column] not in values]
                self.write(kept)
                dropped += len(rows) - len(kept)
            before.unlink()
            self._parts.remove(before)
        return dropped

    def finish(self) -> None:
        """Bring all to the disk, under the file's name; what had that name is replaced."""
        with _told(self._path):
            self._close()
            self._parts.pop().replace(self._path)
            sync_directory(self._path.absolute().parent)

    def _begin(self) -> None:
        # Mode 0600, whatever the umask: the file keeps it under its final name.
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", suffix=".part", dir=self._path.parent)
        self._parts.append(Path(name))
        self._file = os.fdopen(descriptor, "wb")
        self._writer = self._format.writer(self._file, self._columns)

    def _close(self) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        with self._file:
            writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInput(f"{path.name} cannot be written ({error.strerror or 'no such folder'})") from None
