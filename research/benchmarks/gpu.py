"""What only a GPU can show: `research/benchmarks/gpu.sh`. Random weights are made on the device; nothing is downloaded.

Throughput of the frozen model, of mixtures of more and more resident adapters and of what others do with a few (PEFT, SISA), in
turns; latency at batch 1; what loading takes; seconds to retrain a shard of 256 samples by the code that a build runs; neighbor
search on processor and GPU where faiss is there; a server over HTTP where all of Lethe is. Everything is set beside the fastest
large matrix product of this device.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from research.benchmarks.interleaved import (
    Contestant,
    Floor,
    Timing,
    race,
)
from research.benchmarks.models import (
    SHAPES,
    Cost,
    only_load,
    random_model,
    random_stack,
    routed_weights,
    save_random_model,
    times,
    twin,
)
from research.benchmarks.peers import PeftPeer
from research.benchmarks.report import Section, document, text_of
from research.benchmarks.scoring import check_last, random_ids
from service.building.training.training import EncodedSample, TrainingTask, train_adapter
from service.building.workers.process_pool import ProcessPool, TaskRunner
from service.errors import LetheError
from service.llm.attention import attend_rows_in_steps, kernels_for
from service.llm.frozen import FrozenModel
from service.llm.mixture import AdapterStack, Mixture
from service.llm.packed import Packing, Prefix, PrefixGrid, Runs
from service.llm.spec import ModelSpec
from service.llm.tokenizer import PromptTokenizer
from service.records import BuildConfig

TOKENIZER = Path(__file__).parents[2] / "service" / "bundled" / "base_model"
COLUMNS = (
    *("model", "what", "samples/s", "x no adapters", "overhead %", "TFLOP/s of floor", "share of ceiling"),
    *("p50 ms", "p99 ms", "seconds", "of which loading", "peak / weights", "note"),
)
NOTES = (
    "Floor: the frozen model's own arithmetic (2 operations per weight of the linear layers and token, 4 per pair of tokens in "
    "causal attention and unit of width). What adapters add does not count as useful, so the share of the ceiling falls with "
    "them.",
    "question: one context for all its questions, read in every run. Cached: the context was read before.",
    "PEFT cat: a weighted adapter made for each sample, used once and dropped. SISA: the batch once under each adapter.",
    "Loading: from files straight to the device. Peak / weights: bytes of the device at most, beside those of the weights.",
    "Neighbors: inner products of unit vectors, 64 nearest; both indexes are exact, and were found to agree first.",
    "HTTP: `lethe bench serving` on this device, with its own model; its other tables are in the JSON.",
    "Retraining: a process of its own, which starts, loads the model from files and trains; loading is timed by itself.",
)
BARE = "no adapters"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run. `candidates` questions share the context of one request."""

    shapes: tuple[str, ...] = ("qwen3-0.6b", "llama-7b")
    device: str = "cuda"
    dtype: str = "bfloat16"
    adapters: tuple[int, ...] = (4, 64, 1_024, 4_096)
    rows: int = 16
    context: int = 200
    question: int = 56
    candidates: int = 50
    rank: int = 8
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    rounds: int = 10
    single_rounds: int = 50
    shard: int = 256
    matrix: int = 8_192
    peft_rows: int = 2  # of a run of what blends row by row
    neighbors: tuple[int, int, int] = (200_000, 1_024, 256)  # rows, width, queries
    http: tuple[str, ...] = (
        *("--shape", "qwen3-0.6b", "--requests", "200+56x50", "--people", "40", "--rounds", "2"),
        *("--minutes", "0.1", "--saturated-seconds", "3", "--overload-seconds", "5"),
    )


SMOKE = Plan(
    shapes=("tiny",),
    device="cpu",
    dtype="float32",
    adapters=(2, 5),
    rows=2,
    context=10,
    question=6,
    candidates=3,
    rank=2,
    rounds=2,
    single_rounds=3,
    shard=8,
    matrix=64,
    peft_rows=1,
    neighbors=(200, 16, 3),
    http=(
        *("--shape", "tiny", "--requests", "60+40x3", "--people", "20", "--rounds", "1"),
        *("--minutes", "0.02", "--saturated-seconds", "0.5", "--overload-seconds", "1"),
    ),
)


class Room:
    """One model on the device, with what is measured on it."""

    def __init__(self, name: str, plan: Plan, ceiling: float) -> None:
        self._name = name
        self._plan = plan
        self._ceiling = ceiling
        self.frozen = random_model(SHAPES[name], TOKENIZER, plan.dtype, plan.device)
        self._mixture = Mixture(twin(self.frozen), plan.targets)
        self._cost = Cost.of(self.frozen, plan.targets)
        self._prompts = random_ids(self.frozen, plan.rows, plan.context + plan.question, 0)
        self._context = random_ids(self.frozen, 1, plan.context, 1)[0]
        self._questions = random_ids(self.frozen, plan.candidates, plan.question, 2)

    def rows(self) -> list[dict[str, Any]]:
        """All of the table but retraining."""
        stacks, missing = self._stacks()
        few = stacks[min(stacks)] if stacks else None
        found = self._batches(stacks) + self._requests(stacks)
        if few is not None:
            found += self._latencies(few)
        found += self._packed_attention()
        return found + [self._line(what=f"K = {count}", note="does not fit into memory") for count in missing]

    def _stacks(self) -> tuple[dict[int, AdapterStack], list[int]]:
        """All are resident at once; those that do not fit are named."""
        stacks: dict[int, AdapterStack] = {}
        missing = []
        for count in self._plan.adapters:
            try:
                stack = random_stack(self.frozen, self._plan.targets, self._plan.rank, count, count)
                check_last(self._mixture, stack, self._prompts[:2])
                self._prompt(stack)
                stacks[count] = stack
            except torch.OutOfMemoryError:
                missing.append(count)
        return stacks, missing

    def _batches(self, stacks: dict[int, AdapterStack]) -> list[dict[str, Any]]:
        plan = self._plan
        floor = times(plan.rows, self._cost.read(plan.context + plan.question))
        runs: dict[str, Callable[[], object]] = {BARE: partial(self._bare, self._prompts)}
        runs |= {f"K = {count}": partial(self._prompt, stack) for count, stack in stacks.items()}
        contestants = [Contestant(name, run, plan.rows, floor) for name, run in runs.items()]
        few = stacks.get(min(plan.adapters))
        contestants += [] if few is None else self._peers(few, floor)
        timings = self._run(contestants, plan.rounds)
        shown = f"{plan.rows} x {plan.context + plan.question} tokens, prompt"
        return [self._throughput(f"{shown}, {timing.name}", timing, timings[0]) for timing in timings]

    def _peers(self, few: AdapterStack, floor: Floor) -> list[Contestant]:
        """What others do with as many adapters as they hold easily."""
        plan, count = self._plan, len(few.digests)
        peft = PeftPeer(self.frozen, few, plan.targets)
        ids = torch.tensor(self._prompts, device=self.frozen.device)
        some, weights = ids[: plan.peft_rows], routed_weights(plan.rows, count, 0)
        return [
            Contestant(
                f"PEFT cat per sample, K = {count}",
                partial(peft.blended, some, weights, "cat"),
                len(some),
                times(len(some) / plan.rows, floor),
            ),
            Contestant(f"SISA, K = {count}", partial(peft.passes, ids), plan.rows, floor),
        ]

    def _requests(self, stacks: dict[int, AdapterStack]) -> list[dict[str, Any]]:
        plan = self._plan
        asked = times(plan.candidates, self._cost.read(plan.question, seen=plan.context))
        read = self._cost.read(plan.context)
        floor = Floor(read.tokens + asked.tokens, read.flops + asked.flops)
        runs: dict[str, Callable[[], object]] = {BARE: self._ask_bare}
        runs |= {f"K = {count}": partial(self._ask, stack) for count, stack in stacks.items()}
        timings = self._race(runs, plan.candidates, floor, plan.rounds)
        shown = f"{plan.context} + {plan.candidates} x {plan.question} tokens, question"
        return [self._throughput(f"{shown}, {timing.name}", timing, timings[0]) for timing in timings]

    def _latencies(self, few: AdapterStack) -> list[dict[str, Any]]:
        plan, one = self._plan, self._prompts[:1]
        [read] = self.frozen.read_prefixes([self._context])
        runs: dict[str, Callable[[], object]] = {
            f"batch 1, prompt, {BARE}": partial(self._bare, one),
            f"batch 1, prompt, K = {len(few.digests)}": partial(self._prompt, few, 1),
            f"batch 1, question, K = {len(few.digests)}": partial(self._ask, few, 1),
            f"batch 1, question, K = {len(few.digests)}, cached": partial(self._answer, few, 1, read),
        }
        timings = self._race(runs, 1, self._cost.read(plan.context + plan.question), plan.single_rounds)
        return [self._latency(timing.name, timing) for timing in timings]

    def _packed_attention(self) -> list[dict[str, Any]]:
        """Attention of one layer, questions of several lengths after two contexts: does a kernel of variable length pay?"""
        plan, frozen, config = self._plan, self.frozen, self.frozen.model.config
        heads, groups, width = config.num_attention_heads, config.num_key_value_heads, frozen.head_width
        lengths = [plan.question - number % (plan.question // 2 + 1) for number in range(plan.candidates)]
        first = plan.candidates // 2
        device, dtype = frozen.device, frozen.model.dtype
        query, key, value = (
            torch.randn(count, sum(lengths), width, device=device, dtype=dtype) for count in (heads, groups, groups)
        )
        before = [
            Prefix(tuple(torch.randn(2, groups, t, width, device=device, dtype=dtype)), query.new_empty(0))
            for t in (plan.context, plan.context // 2)
        ]
        runs = Runs([sum(lengths[:first]), sum(lengths[first:])], device)
        packing = Packing(Runs(lengths, device), runs, PrefixGrid.of(before))
        kernel = kernels_for(device, dtype, width).rows
        given = (0, query, key, value, width**-0.5)
        ways: dict[str, Callable[[], object]] = {
            "in a grid": partial(packing.attend_in_grid, *given),
            "of variable length" if kernel else "text by text": partial(
                packing.attend_rows, kernel or attend_rows_in_steps, *given
            ),
        }
        shown = f"attention of a layer, {plan.candidates} questions of {min(lengths)} to {max(lengths)} tokens"
        with torch.no_grad():
            timings = self._race(ways, plan.candidates, Floor(0.0, 0.0), plan.single_rounds)
        return [self._latency(f"{shown}, {timing.name}", timing) for timing in timings]

    def _race(
        self, runs: Mapping[str, Callable[[], object]], work: float, floor: Floor, rounds: int
    ) -> tuple[Timing, ...]:
        return self._run([Contestant(name, run, work, floor) for name, run in runs.items()], rounds)

    def _run(self, contestants: Sequence[Contestant], rounds: int) -> tuple[Timing, ...]:
        return race(contestants, rounds, warmups=2, settle=partial(_settle, self._plan.device))

    def _throughput(self, what: str, timing: Timing, bare: Timing) -> dict[str, Any]:
        ratio = median(timing.ratios(bare))
        speed = timing.floor.flops / timing.median_seconds / 1e12
        figures = (timing.throughput, ratio, 100 * (1 / ratio - 1), speed, speed / self._ceiling)
        return self._line(what=what, **dict(zip(COLUMNS[2:7], figures, strict=True)))

    def _latency(self, what: str, timing: Timing) -> dict[str, Any]:
        return self._line(what=what, **{"p50 ms": _quantile(timing, 0.5), "p99 ms": _quantile(timing, 0.99)})

    def _line(self, **told: Any) -> dict[str, Any]:
        return line(model=self._name, **told)

    # What is timed

    def _bare(self, prompts: list[list[int]]) -> Tensor:
        return self.frozen.yes_no_logits_packed(prompts, [1] * len(prompts), [])

    def _prompt(self, stack: AdapterStack, rows: int | None = None) -> Tensor:
        prompts = self._prompts[:rows]
        weights = routed_weights(len(prompts), len(stack.digests), 0)
        return self._mixture.yes_no_logits_packed(prompts, [1] * len(prompts), [], stack, weights, "ND")

    def _ask_bare(self) -> Tensor:
        read = self.frozen.read_prefixes([self._context])
        return self.frozen.yes_no_logits_packed(self._questions, [len(self._questions)], read)

    def _ask(self, stack: AdapterStack, rows: int | None = None) -> Tensor:
        return self._answer(stack, rows, *self._mixture.frozen.read_prefixes([self._context]))

    def _answer(self, stack: AdapterStack, rows: int | None, read: Prefix) -> Tensor:
        questions = self._questions[:rows]
        weights = routed_weights(1, len(stack.digests), 0)
        return self._mixture.yes_no_logits_packed(questions, [len(questions)], [read], stack, weights, "ND")


def line(**told: Any) -> dict[str, Any]:
    """A row of the one table: what it does not tell stays empty."""
    return {column: told.get(column) for column in COLUMNS}


def matrix_ceiling(plan: Plan) -> float:
    """TFLOP/s of the fastest run of a large square matrix product, in the precision of the models."""
    made: Any = {"device": plan.device, "dtype": getattr(torch, plan.dtype)}
    a, b = (torch.randn(plan.matrix, plan.matrix, **made) for _ in range(2))
    repeats, floor = 10, Floor(0.0, 10 * 2.0 * plan.matrix**3)

    def multiply() -> None:
        for _ in range(repeats):
            torch.matmul(a, b)

    runs = [Contestant("matrix product", multiply, repeats, floor)]
    [timing] = race(runs, plan.rounds, warmups=2, settle=partial(_settle, plan.device))
    return floor.flops / min(timing.seconds) / 1e12


def retraining(
    name: str, plan: Plan, spec: ModelSpec, encoded_samples: Sequence[EncodedSample], process_pool: TaskRunner
) -> list[dict[str, Any]]:
    """Seconds to retrain a shard under each activation."""
    loading = _seconds(lambda: list(process_pool.run(only_load, [spec])))
    rows = []
    for activation in ("question", "prompt"):
        config = replace(BuildConfig(), activation=activation, lora_rank=plan.rank, lora_targets=plan.targets)
        task = TrainingTask(
            "0" * 64, spec, [], tuple(encoded_samples), _people(len(encoded_samples), config.samples_per_user), config
        )
        what = f"retrain {len(encoded_samples)} samples of {plan.context} + {plan.question} tokens, {activation}"
        try:
            seconds = _seconds(partial(_run_all, process_pool, task))
        except LetheError as error:
            rows.append(line(model=name, what=what, note=str(error)))
            continue
        rows.append(line(model=name, what=what, seconds=seconds, **{"of which loading": loading}))
    return rows


def _people(encoded_samples: int, each: int) -> tuple[tuple[int, ...], ...]:
    """Samples by person, if each had said so many things, one after another."""
    return tuple(tuple(range(first, min(first + each, encoded_samples))) for first in range(0, encoded_samples, each))


def loading(name: str, plan: Plan, spec: ModelSpec) -> dict[str, Any]:
    """Seconds to load from files, and on a GPU how much of it that took at most."""
    told = replace(spec, answers=PromptTokenizer.load(spec).answers)
    on_gpu = plan.device != "cpu"
    before = torch.cuda.memory_allocated(plan.device) if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(plan.device)
    began = perf_counter()
    frozen = FrozenModel.load(told)
    _settle(plan.device)
    seconds = perf_counter() - began
    weights = sum(parameter.nbytes for parameter in frozen.model.parameters())
    peak = (torch.cuda.max_memory_allocated(plan.device) - before) / weights if on_gpu else None
    return line(model=name, what=f"loading {weights / 1e9:.2f} GB", seconds=seconds, **{"peak / weights": peak})


def of_neighbors(plan: Plan) -> list[dict[str, Any]]:
    """The search of neighbors, where faiss is."""
    if find_spec("faiss") is None:
        return [line(what="neighbors", note="faiss is not installed")]
    rows, width, queries = plan.neighbors
    found: list[dict[str, Any]] = import_module("research.benchmarks.gpu_neighbors").neighbor_rows(
        line, plan.device, rows, width, queries, plan.rounds
    )
    return found


def of_http(plan: Plan) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A server at saturation, where all of Lethe is installed: rows of the one table, and the sections that it printed."""
    if missing := [name for name in ("fastapi", "uvicorn", "sqlalchemy", "faiss", "typer") if find_spec(name) is None]:
        return [line(what="HTTP at saturation", note=f"not installed: {', '.join(missing)}")], []
    command = [sys.executable, "-m", "service.entrypoints", "bench", "serving", "--json", *plan.http]
    command += ["--device", plan.device, "--dtype", plan.dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no word"]
        return [line(what="HTTP at saturation", note=f"failed: {said[0][:200]}")], []
    sections: list[dict[str, Any]] = json.loads(done.stdout)["sections"]
    told = [(section["title"], row) for section in sections for row in section["rows"]]
    return [_of_served(title, row) for title, row in told if "candidates/s" in row or "p50 ms" in row], sections


def _of_served(title: str, row: Mapping[str, Any]) -> dict[str, Any]:
    speed = row.get("candidates/s")
    return line(
        what=f"HTTP: {title}: {next(iter(row.values()))}",
        **{"samples/s": speed, "p50 ms": row.get("p50 ms"), "p99 ms": row.get("p99 ms")},
    )


def measure(plan: Plan, process_pool: TaskRunner, http: bool = True) -> dict[str, Any]:
    """All of it, as the document that is written."""
    began = perf_counter()
    # Or else the first task would pay for the start of the server that processes fork from.
    list(process_pool.run(only_load, [ModelSpec(str(TOKENIZER))]))
    ceiling = matrix_ceiling(plan)
    rows = [line(what="ceiling: matrix product", **{"TFLOP/s of floor": ceiling, "share of ceiling": 1.0})]
    for name in plan.shapes:
        rows += _of_one_model(name, plan, ceiling, process_pool)
    rows += of_neighbors(plan)
    served: list[dict[str, Any]] = []
    if http:
        told, served = of_http(plan)
        rows += told
    section = Section(f"one {plan.device}, {plan.dtype}", tuple(rows), NOTES)
    settings = {**asdict(plan), "seconds of all": perf_counter() - began}
    return document("gpu", settings, [section]) | {"http": served}


def main(arguments: Sequence[str] | None = None, process_pool: TaskRunner | None = None) -> int:
    """The command; `process_pool` is for who has one already."""
    parser = argparse.ArgumentParser(prog="research/benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a tiny model on the CPU: does all of it run?")
    parser.add_argument("--out", type=Path, default=Path("gpu-benchmark.json"), help="where the JSON goes")
    parser.add_argument("--no-http", action="store_true", help="leave out the server")
    given = parser.parse_args(arguments)
    if not given.smoke and not torch.cuda.is_available():
        print("torch sees no GPU here; --smoke runs a tiny model on the CPU", file=sys.stderr)
        return 1
    preload = ("service.building.training.training", "research.benchmarks.models")
    plan = SMOKE if given.smoke else Plan()
    found = measure(plan, process_pool or ProcessPool(1, preload), not given.no_http)
    given.out.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    for section in found["sections"]:
        print(text_of(Section(**section)))
    print(f"{found['settings']['seconds of all']:.0f} s; JSON in {given.out}")
    return 0


def _of_one_model(name: str, plan: Plan, ceiling: float, process_pool: TaskRunner) -> list[dict[str, Any]]:
    room = Room(name, plan, ceiling)
    rows = room.rows()
    encoded_samples = _encoded_samples(room.frozen, plan)
    with tempfile.TemporaryDirectory() as folder:
        spec = save_random_model(room.frozen, TOKENIZER, Path(folder))
        del room  # training is another process, which needs the memory
        _give_back(plan.device)
        rows.append(loading(name, plan, spec))
        _give_back(plan.device)
        return rows + retraining(name, plan, spec, encoded_samples, process_pool)


def _encoded_samples(frozen: FrozenModel, plan: Plan) -> list[EncodedSample]:
    contexts = random_ids(frozen, plan.shard, plan.context, 3)
    questions = random_ids(frozen, plan.shard, plan.question, 4)
    return [EncodedSample(c, q, n % 2 == 0) for n, (c, q) in enumerate(zip(contexts, questions, strict=True))]


def _run_all(process_pool: TaskRunner, task: TrainingTask) -> None:
    list(process_pool.run(train_adapter, [task]))


def _seconds(run: Callable[[], object]) -> float:
    began = perf_counter()
    run()
    return perf_counter() - began


def _settle(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _give_back(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def _quantile(timing: Timing, share: float) -> float:
    ordered = sorted(timing.seconds)
    return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


if __name__ == "__main__":
    sys.exit(main())
