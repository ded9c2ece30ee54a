"""Keeps what is in memory up with the ledger, off the scoring thread, and says how it stands.

The published generation's snapshot is loaded before a request wants it; contexts that were read before a deletion are dropped
even where no request comes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from adapters_store import StoreFault
from service.errors import Damaged, LedgerUnavailable, NotReady, OutOfMemory
from service.generation import GenerationInfo, ShardInfo
from service.records import Mask
from service.scoring.prefix_cache import PrefixCache
from service.scoring.shelf import Shelves
from service.scoring.snapshot import MaskSource, Snapshots

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def _ignore(_fault: StoreFault) -> None:
    return None


class Refresher:
    """A thread that looks at the ledger as soon as the bell rings, so that no request has to wait."""

    def __init__(
        self,
        masks: MaskSource,
        snapshots: Snapshots,
        prefix_cache: PrefixCache,
        wait: Callable[[float], bool],
        on_damage: Callable[[StoreFault], None] = _ignore,
        on_ready: Callable[[], None] = lambda: None,
        shelves: Shelves | None = None,
        computing: Mapping[str, str] | None = None,
    ) -> None:
        """`on_ready` is called once, from this thread, when a generation can be scored with for the first time.

        `computing` says on what this process computes, for `generation_info`.
        """
        self._masks = masks
        self._snapshots = snapshots
        self._prefix_cache = prefix_cache
        self._wait = wait
        self._on_damage = on_damage
        self._on_ready: Callable[[], None] | None = on_ready
        self._shelves = shelves
        self._computing = computing
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refresher", daemon=True)
        self.reason = "the service has just started"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def ready(self) -> bool:
        """A generation is loaded and can be scored with."""
        return self._snapshots.current is not None

    def generation_info(self) -> GenerationInfo:
        """What `GET /generation` tells.

        Raises:
            NotReady, Damaged: nothing is loaded yet, or what is published cannot be.
            LedgerUnavailable: the mask cannot be known.
        """
        if self._snapshots.current is None:
            raise NotReady(self.reason)
        mask = self._masks.mask()
        snapshot = self._snapshots.of(mask.generation)
        return GenerationInfo(
            generation=snapshot.generation,
            fence=mask.fence,
            config=snapshot.config,
            model=snapshot.manifest.model,
            shards=tuple(
                ShardInfo(adapter.digest, adapter.shard, adapter.samples, adapter.digest in mask.adapters)
                for adapter in snapshot.manifest.adapters
            ),
            validation_rows=snapshot.manifest.validation_rows,
            computing=self._computing and {**self._computing, "neighbors": snapshot.neighbors.where},
        )

    def _run(self) -> None:
        while not self._stop.is_set():
            mask = None
            try:
                mask = self._masks.mask()
                self._prefix_cache.follow(mask.fence)
                if self._shelves is not None:  # an item that only one person named must not stay here
                    self._shelves.current()
                snapshot = self._snapshots.of(mask.generation)
                # What is masked is read while it is there, and no request waits for what follows from it.
                snapshot.content.popularity(snapshot.live(mask).likes)
                self._tell_once_that_it_is_ready()
            except (NotReady, Damaged, LedgerUnavailable, OutOfMemory) as error:
                if str(error) != self.reason:
                    first_start = mask is not None and mask.generation is None
                    log.log(logging.INFO if first_start else logging.WARNING, "not_ready", extra={"reason": str(error)})
                    self._tell_of_damage(error, mask)
                self.reason = str(error)
            self._wait(_POLL_SECONDS)

    def _tell_once_that_it_is_ready(self) -> None:
        if self._on_ready is not None:
            self._on_ready()
            self._on_ready = None

    def _tell_of_damage(self, error: Exception, mask: Mask | None) -> None:
        if not isinstance(error, Damaged) or mask is None:
            return
        with suppress(LedgerUnavailable):
            # A generation that was replaced while it was being read is gone, not damaged.
            if self._masks.mask().generation == mask.generation:
                self._on_damage(StoreFault("load", str(mask.generation), str(error)))
