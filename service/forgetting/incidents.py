"""What was found damaged in the store: told in the log, and counted in a file that every process of the installation reads.

The worker finds most of it, and the servers report it. A line of the file is one incident: its time and its kind, no more.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from adapters_store import KINDS, StoreFault, canonical_json

log = logging.getLogger(__name__)

INCIDENTS = "incidents.jsonl"  # beside the store


class Incidents:
    """Safe for many processes at once: each line is appended by one call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: set[tuple[str, str]] = set()  # told, and not repaired yet

    def note(self, fault: StoreFault) -> None:
        """Tell and count a fault, once until `repaired`."""
        if (fault.kind, fault.name) in self._open:
            return
        self._open.add((fault.kind, fault.name))
        log.error("store_damaged", extra={"kind": fault.kind, "reason": fault.reason})
        line = canonical_json({"at": datetime.now(UTC).isoformat(timespec="seconds"), "kind": fault.kind})
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            # To repair matters more than to count.
            log.warning("incident_not_counted", extra={"reason": type(error).__name__})

    def note_all(self, faults: Iterable[StoreFault]) -> None:
        for fault in faults:
            self.note(fault)

    def repaired(self) -> None:
        """The store is as it should be: what is found from now on is new."""
        self._open.clear()

    def counts(self) -> dict[str, int]:
        """Kind -> how many incidents there were; every kind is named. Lines that are not sound count as `unknown`."""
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            lines = []
        return {**dict.fromkeys((*KINDS, "unknown"), 0), **Counter(map(_kind_of, lines))}


def _kind_of(line: bytes) -> str:
    try:
        kind = json.loads(line)["kind"]
    except (ValueError, TypeError, KeyError):
        return "unknown"
    return kind if kind in KINDS else "unknown"
