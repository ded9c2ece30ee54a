"""Whether deletions could be taken now: ledger and disks can be written. Asked by `readyz`, by writing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from adapters_store import StoreFailure, require_writable
from service.errors import LetheError, StoreError

_REMEMBERED = 2.0  # seconds: whoever asks often must not keep the disks busy


class WritableLedger(Protocol):
    def require_writable(self) -> None: ...


class Writability:
    """Asks ledger and folders at most every two seconds; meanwhile it repeats the last answer. Threads share it."""

    def __init__(
        self, ledger: WritableLedger, folders: Mapping[str, Path], write: Callable[[Path], None] = require_writable
    ) -> None:
        """`folders`: what a folder is called -> where it is."""
        self._ledger = ledger
        self._folders = folders
        self._write = write
        self._turn = threading.Lock()
        self._asked_at: float | None = None
        self._refusal: LetheError | None = None

    def require(self) -> None:
        """Raises LedgerUnavailable or StoreError, saying what cannot be written and what to do."""
        with self._turn:
            if self._asked_at is None or time.monotonic() - self._asked_at > _REMEMBERED:
                self._refusal, self._asked_at = self._ask(), time.monotonic()
            refusal = self._refusal
        if refusal is not None:
            raise type(refusal)(str(refusal))

    def _ask(self) -> LetheError | None:
        try:
            self._ledger.require_writable()
            for name, folder in self._folders.items():
                self._require_folder(name, folder)
        except LetheError as error:
            return error
        return None

    def _require_folder(self, name: str, folder: Path) -> None:
        try:
            self._write(folder)
        except StoreFailure as failure:
            raise StoreError(f"{name} cannot be written, so no deletion can be taken: {failure}") from failure
