"""The scores of recorded windows, as a server would give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.records import Mask, Sample
from service.scoring.requests import ScoreRequest
from service.scoring.scorer import Scorer

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Unmasked:
    """The mask of a generation of which nobody has been forgotten since it was built."""

    generation: str

    def mask(self) -> Mask:
        return Mask(revision=0, fence=0, generation=self.generation, adapters=frozenset(), rows=frozenset())


def score_samples(scorer: Scorer, samples: Sequence[Sample]) -> list[float]:
    """P(Yes) of each sample's target, given its history."""
    requests = scorer.encoded([ScoreRequest(sample.history, (sample.target,)) for sample in samples])
    batches = [requests[i : i + _BATCH] for i in range(0, len(requests), _BATCH)]
    return [score for batch in batches for scored in scorer.score(batch) for score in scored.scores]
