"""Large requests cut into pieces that are scored one after the other, so that others get their turn between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from service.llm.packed import chunks_of_tokens
from service.scoring.requests import EncodedRequest, Scored

NO_REVISION = -1  # of an answer whose pieces were scored under different masks: it belongs to none


def cut(request: EncodedRequest, most_tokens: int) -> list[EncodedRequest]:
    """Pieces of at most `most_tokens`, each with the context and some of the questions, in order; one question at least.

    Where the context takes more than half of that, a piece has questions of half of it: the context is read once and
    remembered, so what counts from the second piece on is the questions.
    """
    if request.tokens <= most_tokens:
        return [request]
    room = max(most_tokens - len(request.context), most_tokens // 2)
    lengths = [len(question) for question in request.questions]
    pieces = [request.questions[each.start : each.stop] for each in chunks_of_tokens(lengths, room)]
    return [replace(request, questions=questions) for questions in pieces] or [request]


def joined(scored: Sequence[Scored]) -> Scored:
    """One answer from those of the pieces. They agree on all but the scores if the mask was one throughout."""
    first = scored[0]
    if len(scored) == 1:
        return first
    scores = tuple(score for part in scored for score in part.scores)
    one_mask = all((part.revision, part.generation) == (first.revision, first.generation) for part in scored)
    return replace(first, scores=scores, revision=first.revision if one_mask else NO_REVISION)
