"""How fast the mixture answers, beside the frozen model alone (the limit) and beside how others blend adapters.

Two questions: what a blend of its own for every row costs, and what it saves to read a context once for all its candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch
from torch import Tensor

from research.benchmarks.interleaved import (
    Contestant,
    Floor,
    Timing,
    race,
)
from research.benchmarks.models import (
    ADAPTERS_ANSWERING,
    Cost,
    one_of,
    random_stack,
    routed_weights,
    times,
    total,
    twin,
)
from research.benchmarks.peers import PeftPeer, merged
from research.benchmarks.report import (
    Goal,
    Section,
    goals_of,
    section_of,
)
from service.building.progress import Progress
from service.errors import LetheError
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.llm.packed import FORWARD_TOKENS, Prefix, chunks_of_tokens
from service.records import Level

Ids = list[list[int]]
_ALLOWED = {torch.float32: 0.02}  # share of the effect that rounding may hide
_ALLOWED_IN_16_BITS = 0.5
_CHECKED_ROWS = 2
_FROZEN, _MERGED, _UNMERGED = "frozen model, no adapters", "one LoRA, merged", "one LoRA, unmerged (PEFT)"
_PROMPT, _QUESTION, _CACHED = "prompt", "question", "question, context cached"


class PeersDisagree(LetheError):
    """Two ways of computing one thing came to different answers, so their speeds say nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is scored: `rows` samples of `tokens` tokens; and for each of `candidates`, one request of context and questions."""

    rows: int = 16
    tokens: int = 256
    context: int = 200
    question: int = 56
    candidates: tuple[int, ...] = (10, 50)
    adapters: tuple[int, ...] = (4, 64, 256)
    rank: int = 8
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    blended_rows: int = 2  # of a run of what blends row by row: its seconds a sample do not depend on it
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Bench:
    """One model, and how to time it. `settle` waits for the device."""

    frozen: FrozenModel
    rounds: int
    progress: Progress
    settle: Callable[[], None] = field(default=lambda: None)

    def race(self, contestants: Sequence[Contestant]) -> tuple[Timing, ...]:
        return race(contestants, self.rounds, settle=self.settle, progress=self.progress)


def measure(bench: Bench, load: Load) -> list[Section]:
    """All tables.

    Raises:
        PeersDisagree: two contestants that should give one answer do not.
    """
    blends = _Blends(bench.frozen, load)
    blends.check()
    batches = bench.race(blends.contestants())
    requests = {count: bench.race(_Request(bench.frozen, load, count).contestants()) for count in load.candidates}
    about = f"{load.rows} samples of {load.tokens} tokens, each with weights of its own; r = {load.rank}"
    return [
        section_of(f"blending: batches of {about}", batches, _FROZEN, "sample", _BLEND_NOTES),
        *(
            section_of(
                f"one request: {load.context} tokens of context, {count} questions of {load.question}, "
                f"K = {load.adapters[0]}",
                timings,
                _PROMPT,
                "candidate",
                _REQUEST_NOTES,
            )
            for count, timings in requests.items()
        ),
        goals_of([*_blend_goals(batches, load), *_request_goals(requests)]),
    ]


class _Blends:
    """The first question: K adapters, every row with weights of its own, all tokens under them."""

    def __init__(self, frozen: FrozenModel, load: Load) -> None:
        self._frozen = frozen
        self._load = load
        self._cost = Cost.of(frozen, load.targets)
        self._prompts = random_ids(frozen, load.rows, load.tokens, load.seed)
        self._ids = torch.tensor(self._prompts, device=frozen.device)
        self._stacks = {k: random_stack(frozen, load.targets, load.rank, k, load.seed + k) for k in load.adapters}
        self._weights = {k: routed_weights(load.rows, k, load.seed) for k in load.adapters}
        self._few = self._stacks[load.adapters[0]]
        self._few_weights = self._weights[load.adapters[0]]
        self._merged = merged(frozen, self._few, 0, load.targets)
        self._peft = PeftPeer(frozen, self._few, load.targets)
        self._mixture = Mixture(twin(frozen), load.targets)

    def contestants(self) -> list[Contestant]:
        load, peft, ids = self._load, self._peft, self._ids
        count, few = len(self._few.digests), self._few_weights
        bare = self._floor(0)
        some = ids[: load.blended_rows]
        one = Contestant(_UNMERGED, partial(peft.one, ids, peft.names[0]), load.rows, self._floor(load.rank))
        sisa = times(count, one.floor)
        return [
            Contestant(_FROZEN, partial(_whole, self._frozen, self._prompts), load.rows, bare),
            Contestant(_MERGED, partial(_whole, self._merged, self._prompts), load.rows, bare),
            one,
            *(
                Contestant(
                    _lethe(k), partial(self._mixed, k), load.rows, self._floor(min(k, ADAPTERS_ANSWERING) * load.rank)
                )
                for k in load.adapters
            ),
            Contestant(_sisa(count), partial(peft.passes, ids), load.rows, sisa),
            Contestant(_by_name(count), partial(peft.passes_by_name, ids), load.rows, sisa),
            *(
                Contestant(_blend(way), partial(peft.blended, some, few, way), len(some), self._blend_floor(way))
                for way in ("linear", "cat", "svd")
            ),
        ]

    def check(self) -> None:
        """Every contestant once against the mixture, where they should agree."""
        peft, few = self._peft, self._few
        ids, prompts, weights = self._ids[:_CHECKED_ROWS], self._prompts[:_CHECKED_ROWS], self._few_weights
        alone = torch.stack([self._alone(prompts, k) for k in range(len(few.digests))], dim=1)
        effect = alone.std(dim=1).mean()
        one = torch.stack([peft.one(ids, name) for name in peft.names], dim=1)
        self._same(_UNMERGED, one, alone, effect)
        self._same(_MERGED, _whole(self._merged, prompts), alone[:, 0], effect)
        self._same("SISA", peft.passes(ids), alone, effect)
        self._same("PEFT adapter_names", peft.passes_by_name(ids), alone, effect)
        w = weights[:_CHECKED_ROWS]
        levels: dict[str, Level] = {"linear": "D", "cat": "ND", "svd": "ND"}
        for way, level in levels.items():
            ours = self._mixture.yes_no_logits_whole(prompts, few, w, level)
            other = self._mixture.yes_no_logits_whole(prompts, few, w.roll(1, dims=1), level)
            self._same(_blend(way), peft.blended(ids, w, way), ours, (ours - other).abs().mean())
        for stack in self._stacks.values():  # of which no peer holds the large ones
            check_last(self._mixture, stack, prompts)

    def _alone(self, prompts: Ids, k: int) -> Tensor:
        return _alone(self._mixture, prompts, self._few, k)

    def _mixed(self, count: int) -> Tensor:
        stack, weights = self._stacks[count], self._weights[count]
        return self._mixture.yes_no_logits_packed(self._prompts, [1] * len(self._prompts), [], stack, weights, "ND")

    def _same(self, name: str, theirs: Tensor, ours: Tensor, effect: Tensor) -> None:
        agree(name, theirs, ours, effect, self._frozen.model.dtype)

    def _floor(self, rank: int) -> Floor:
        return times(self._load.rows, self._cost.read(self._load.tokens, rank=rank))

    def _blend_floor(self, way: str) -> Floor:
        """What the rows of one run cost at least. Counted are the pass and the blend, without `svd`'s decomposition."""
        load, cost, count = self._load, self._cost, len(self._few.digests)
        summed = 1 if way == "linear" else count  # adapters' worth of rank that the pass goes through
        each = cost.read(load.tokens, rank=summed * load.rank)
        products = self._few.modules.values() if way == "svd" else ()
        made = sum(2.0 * count * load.rank * a.shape[-1] * b.shape[-1] for a, b in products)
        if way == "linear":
            made = 2.0 * cost.adapted * load.rank * count
        return times(min(load.blended_rows, load.rows), Floor(each.tokens, each.flops + made))


class _Request:
    """The second question: one context and many candidates, under K adapters with the request's weights."""

    def __init__(self, frozen: FrozenModel, load: Load, count: int) -> None:
        self._load = load
        self._frozen = frozen
        self._count = count
        self._cost = Cost.of(frozen, load.targets)
        self._context = random_ids(frozen, 1, load.context, load.seed)[0]
        self._questions = random_ids(frozen, count, load.question, load.seed + 1)
        self._prompts = [self._context + question for question in self._questions]
        adapters = load.adapters[0]
        self._stack = random_stack(frozen, load.targets, load.rank, adapters, load.seed)
        self._weights = routed_weights(1, adapters, load.seed)
        self._mixture = Mixture(twin(frozen), load.targets)
        [self._read] = self._mixture.frozen.read_prefixes([self._context])

    def contestants(self) -> list[Contestant]:
        load, rank = self._load, self._load.rank * self._load.adapters[0]
        self._check()
        whole = times(self._count, self._cost.read(load.context + load.question, rank=rank))
        asked = times(self._count, self._cost.read(load.question, seen=load.context, rank=rank))
        return [
            Contestant(_PROMPT, self._prompt, self._count, whole),
            Contestant(_QUESTION, self._ask, self._count, total([self._cost.read(load.context), asked])),
            Contestant(_CACHED, partial(self._answer, self._read), self._count, asked),
        ]

    def _check(self) -> None:
        # Without adapters the two ways of reading are one.
        prompts, questions = self._prompts[:_CHECKED_ROWS], self._questions[:_CHECKED_ROWS]
        apart, whole = (
            self._frozen.yes_no_logits_packed(questions, [len(questions)], [self._read]),
            _whole(self._frozen, prompts),
        )
        agree("a context read once", apart, whole, (whole[0] - whole[-1]).abs(), self._frozen.model.dtype)
        plain, blended = whole, self._answer(self._read)[:_CHECKED_ROWS]
        if float((plain - blended).abs().mean()) == 0.0:
            raise PeersDisagree("the adapters change nothing")

    def _prompt(self) -> Tensor:
        return self._in_passes(self._prompts, [])

    def _ask(self) -> Tensor:
        return self._answer(*self._mixture.frozen.read_prefixes([self._context]))

    def _answer(self, read: Prefix) -> Tensor:
        return self._in_passes(self._questions, [read])

    def _in_passes(self, texts: Ids, read: Sequence[Prefix]) -> Tensor:
        """Logits of all texts, in as many passes as the scorer would make."""
        passes = [texts[one.start : one.stop] for one in chunks_of_tokens(list(map(len, texts)), FORWARD_TOKENS)]
        return torch.cat([self._pass(each, read) for each in passes])

    def _pass(self, texts: Ids, read: Sequence[Prefix]) -> Tensor:
        return self._mixture.yes_no_logits_packed(texts, [len(texts)], read, self._stack, self._weights, "ND")


def random_ids(frozen: FrozenModel, rows: int, tokens: int, seed: int) -> Ids:
    """Token ids (rows, tokens) that any tokenizer of this model could give."""
    random = torch.Generator().manual_seed(seed)
    known = frozen.model.config.get_text_config().vocab_size
    ids: Ids = torch.randint(2, known, (rows, tokens), generator=random).tolist()
    return ids


def check_last(mixture: Mixture, stack: AdapterStack, prompts: Ids) -> None:
    """All the weight on the last adapter of a stack must give what that one gives alone.

    Raises:
        PeersDisagree: it does not, or the first one gives the same.
    """
    only = torch.zeros(len(prompts), len(stack.digests))
    only[:, -1] = 1.0
    found = mixture.yes_no_logits_whole(prompts, stack, only, "ND")
    first, last = (_alone(mixture, prompts, stack, k) for k in (0, len(stack.digests) - 1))
    agree(_lethe(len(stack.digests)), found, last, (first - last).abs().mean(), mixture.frozen.model.dtype)


def agree(name: str, theirs: Tensor, ours: Tensor, effect: Tensor, dtype: torch.dtype) -> None:
    """Refuse to go on unless two answers differ by far less than what they are to show.

    `effect` is how much answers move with what the contestants are to take into account.

    Raises:
        PeersDisagree: they do not agree, or nothing would show that they do.
    """
    apart, allowed = float((theirs - ours).abs().max()), _ALLOWED.get(dtype, _ALLOWED_IN_16_BITS) * float(effect)
    if not apart < allowed:
        raise PeersDisagree(f"{name}: {apart:.3g} apart, where {allowed:.3g} would be rounding")


def _alone(mixture: Mixture, prompts: Ids, stack: AdapterStack, k: int) -> Tensor:
    return mixture.yes_no_logits_whole(prompts, one_of(stack, k), torch.ones(len(prompts), 1), "ND")


def _whole(frozen: FrozenModel, prompts: Ids) -> Tensor:
    return frozen.yes_no_logits_packed(prompts, [1] * len(prompts), [])


def _blend_goals(timings: Sequence[Timing], load: Load) -> list[Goal]:
    by_name = {timing.name: timing for timing in timings}
    few, many = load.adapters[0], load.adapters[-1]
    wanted = [
        (_lethe(few), _UNMERGED, 0.95),
        (_lethe(few), _FROZEN, 0.90),
        (_lethe(many), _FROZEN, 0.85),
        (_lethe(few), _sisa(few), 3.5),
        (_lethe(few), _by_name(few), None),
        (_lethe(few), _blend("cat"), 20.0),
        (_lethe(few), _blend("linear"), None),
        (_lethe(few), _blend("svd"), None),
    ]
    return [_goal(by_name[ours], by_name[theirs], least) for ours, theirs, least in wanted]


def _request_goals(requests: dict[int, tuple[Timing, ...]]) -> list[Goal]:
    wanted = {(10, _QUESTION): 2.7, (50, _QUESTION): 3.5, (50, _CACHED): 10.0}
    goals = []
    for count, (whole, *others) in requests.items():
        goals += [
            _goal(each, whole, wanted.get((count, each.name)), f"{each.name}, {count} candidates") for each in others
        ]
    return goals


def _goal(ours: Timing, theirs: Timing, wanted: float | None, name: str | None = None) -> Goal:
    ideal = (theirs.floor.flops / theirs.work) / (ours.floor.flops / ours.work)
    return Goal(f"{name or ours.name}: x {theirs.name}", wanted, median(ours.ratios(theirs)), ideal)


def _lethe(count: int) -> str:
    few = ADAPTERS_ANSWERING
    return f"Lethe, mixture of K = {count}" + (f", m = {few}" if count > few else "")


def _sisa(count: int) -> str:
    return f"SISA, {count} passes (PEFT set_adapter)"


def _by_name(count: int) -> str:
    return f"PEFT adapter_names, {count} passes"


def _blend(way: str) -> str:
    return f"PEFT add_weighted_adapter per sample, {way}"


_BLEND_NOTES = (
    "Floor: 2 operations per weight of the linear layers and token, 4 per pair of tokens in causal attention and unit of "
    "width, 2 r (d_in + d_out) per adapter that answers, adapted layer and token. svd: without the decomposition.",
    "The frozen model and the mixture read one packed row, as the service does. Of more than m adapters the m of largest "
    "weight answer.",
    "Blends made per sample are timed on fewer rows; figures are per sample. svd keeps a rank at which nothing is lost.",
)
_REQUEST_NOTES = (
    "Floor as above: a context read once, every question after it. A cached context costs its questions only.",
)
