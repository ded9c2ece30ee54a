"""One request's questions in a few fixed shapes: a pass of each shape is recorded once, and then replayed in one launch.

Launching kernel by kernel takes a GPU longer than a small model's arithmetic. A recorded pass reads and writes the same memory
each time: what a request brings is copied there, padded to the shape, and wiped afterwards. Padding changes no answer: a text's
own tokens never see what comes after them, and what is padded of the context is masked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.llm.frozen import FrozenModel
from service.llm.packed import Packing, Prefix, PrefixGrid, Runs
from service.llm.staging import sent

Run = Callable[[], Tensor]
_TEXT_STEP, _CONTEXT_STEP = 16, 64  # tokens
_MOST_TOKENS = 4_096  # of a shape: longer passes are not held up by launches
_MOST_SHAPES = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """B texts of n tokens each, after a context of T tokens."""

    texts: int
    tokens: int
    before: int


class Inputs:
    """The memory that a recorded pass of one shape reads: B texts of n tokens, T tokens of context, weights over S adapters."""

    def __init__(self, shape: Shape, prefix: Prefix, weights: Tensor, device: torch.device) -> None:
        self._shape = shape
        b, n, t = shape.texts, shape.tokens, shape.before
        self._numbers = torch.zeros(2 * b * n + b, dtype=torch.long, device=device)
        self.ids, self.positions, self.last = self._numbers.split([b * n, b * n, b])
        self._states = tuple(state.new_zeros(1, state.shape[0], t, state.shape[2]) for state in prefix.states)
        self._unseen = self._states[0].new_zeros(1, 1, 1, t)
        self.weights = torch.zeros(1, weights.shape[1], dtype=self._states[0].dtype, device=device)
        one = [n] * b
        grid = PrefixGrid(self._states, (t,), self._unseen)
        self.packing = Packing(Runs(one, device), Runs([b * n], device), grid)

    def fill(self, texts: Sequence[Sequence[int]], prefix: Prefix, weights: Tensor) -> None:
        """Put a request there. Nobody waits for it."""
        device, shape = self._numbers.device, self._shape
        [numbers] = sent(device, _padded(texts, prefix.tokens, shape))
        unseen = torch.zeros(shape.before).masked_fill_(torch.arange(shape.before) >= prefix.tokens, -torch.inf)
        floats = torch.cat([unseen, weights[0]]).to(self.weights.dtype)
        mask, blend = sent(device, floats)[0].split([shape.before, weights.shape[1]])
        self._numbers.copy_(numbers)
        self._unseen.copy_(mask.view_as(self._unseen))
        self.weights.copy_(blend[None])
        rooms = [room[0, :, : prefix.tokens] for room in self._states]
        torch._foreach_copy_(rooms, list(prefix.states))

    def wipe(self) -> None:
        """Keep nothing of the request: a context is somebody's."""
        torch._foreach_zero_([self._numbers, *self._states])


@dataclass(frozen=True, slots=True)
class _Recorded:
    inputs: Inputs
    replay: Run


class Graphs:
    """Recorded passes of one model, for one thread. `record` makes of a pass what replays it."""

    def __init__(self, frozen: FrozenModel, record: Callable[[Run], Run], most: int = _MOST_SHAPES) -> None:
        self.recorded = 0
        self._frozen = frozen
        self._record = record
        self._most = most
        self._stack: object = None
        self._passes: OrderedDict[Hashable, _Recorded | None] = OrderedDict()

    def answer(
        self,
        texts: Sequence[Sequence[int]],
        prefix: Prefix,
        weights: Tensor,
        stack: object,
        manner: Hashable,
        forward: Callable[[Inputs], Tensor],
    ) -> Tensor | None:
        """What `forward` gives for B texts after one context, (B,), or None where this is not for graphs.

        `weights` are (1, S). `stack` and `manner` are all else that `forward` depends on: a pass is replayed only under the
        same, and those of another stack are forgotten.
        """
        shape = shape_of([len(text) for text in texts], prefix.tokens)
        if shape is None:
            return None
        if stack is not self._stack:
            self._passes.clear()
            self._stack = stack
        found = self._pass((shape, manner), lambda: self._new(shape, texts, prefix, weights, forward))
        if found is None:
            return None
        found.inputs.fill(texts, prefix, weights)
        answers = found.replay()[: len(texts)].clone()
        found.inputs.wipe()
        return answers

    def _pass(self, key: Hashable, make: Callable[[], _Recorded | None]) -> _Recorded | None:
        if key not in self._passes:
            self._passes[key] = make()
            if len(self._passes) > self._most:
                self._passes.popitem(last=False)
        self._passes.move_to_end(key)
        return self._passes[key]

    def _new(
        self,
        shape: Shape,
        texts: Sequence[Sequence[int]],
        prefix: Prefix,
        weights: Tensor,
        forward: Callable[[Inputs], Tensor],
    ) -> _Recorded | None:
        inputs = Inputs(shape, prefix, weights, self._frozen.device)
        inputs.fill(texts, prefix, weights)
        try:
            replay = self._record(lambda: forward(inputs))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # this model does what cannot be recorded; it is not tried again
            return None
        self.recorded += 1
        return _Recorded(inputs, replay)


def shape_of(lengths: Sequence[int], before: int) -> Shape | None:
    """The smallest of the fixed shapes that holds texts of these lengths after `before` tokens; None: too much for any."""
    texts = 1 << (len(lengths) - 1).bit_length()
    shape = Shape(texts, _up(max(lengths), _TEXT_STEP), _up(before, _CONTEXT_STEP))
    return shape if texts * shape.tokens <= _MOST_TOKENS and shape.before <= _MOST_TOKENS else None


def record_on_gpu(run: Run) -> Run:
    """A CUDA graph of `run`. What libraries prepare on their first use is prepared before."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may load a generation meanwhile: what they ask of CUDA is not this graph's.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        answers = run()

    def replay() -> Tensor:
        graph.replay()
        return answers

    return replay


def _padded(texts: Sequence[Sequence[int]], before: int, shape: Shape) -> Tensor:
    """Token ids (B·n), positions (B·n) and where each text ends (B), one after another."""
    ids = torch.zeros(shape.texts, shape.tokens, dtype=torch.long)
    last = torch.arange(shape.texts) * shape.tokens
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        last[row] += len(text) - 1
    positions = (before + torch.arange(shape.tokens)).repeat(shape.texts)
    return torch.cat([ids.flatten(), positions, last])


def _up(count: int, step: int) -> int:
    return max(step, -(-count // step) * step)
