"""People's interactions -> memories in the store: who is in which, their names, and the counting of those that are missing.

Everybody is in a memory, people without a training sample too, whatever unit and partition the adapters have. A memory is a
node of a tree of keyed hashes of user ids, so that a mask takes out people who have nothing in common. Those who validate have
memories of their own: they are served, and left out where something is fitted on these people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from adapters_store import digest_of
from service.building.known import KnownArtifacts
from service.building.planning.partition import hash_path
from service.building.progress import Progress, go_on
from service.data.samples import is_validation_user
from service.ledger import MEMORIZED
from service.memory.artifact import memory_files
from service.memory.counting import FORMAT, contribution_digest, count_people, counted
from service.records import BuildConfig, Interaction, ShardAssignment


def memory_assignment(user_id: str, interactions: Sequence[Interaction], config: BuildConfig) -> ShardAssignment:
    """Where a user's part in a memory stands, how many interactions it counts, and what names it."""
    trains, validates = MEMORIZED
    kind = validates if is_validation_user(user_id, config.validation_percent, config.seed) else trains
    path = kind + hash_path(user_id, config.seed)
    return ShardAssignment(user_id, user_id, path, len(counted(interactions)), contribution_digest(interactions))


def memory_digest(content: str) -> str:
    """The name of the memory of people whose digests have this name (`content_of`). Integers are equal on every machine."""
    return digest_of({"format": FORMAT, "people": content})


class MemoryMaker:
    """Counts people into one store."""

    def __init__(self, memories: KnownArtifacts, progress: Progress, checkpoint: Callable[[], None] = go_on) -> None:
        self._memories = memories
        self._progress = progress
        self._checkpoint = checkpoint

    def make(self, people: Mapping[str, Sequence[Sequence[Interaction]]]) -> None:
        """Count the people of each memory (by its digest) and store it.

        Raises:
            StoreFailure: those that were finished by then are kept.
        """
        if people:
            self._progress.phase("counting people", len(people))
        for digest, histories in people.items():
            self._memories.add(digest, memory_files(count_people(histories)))
            self._progress.advance(1)
            self._checkpoint()
