"""The commands of `lethe evaluate` and `lethe bench`."""

from __future__ import annotations

from service.entrypoints.commands.lazy import CommandEntry, lazy_app

_HERE = "research.commands"

evaluate_app = lazy_app(
    {
        "forgetting": CommandEntry(f"{_HERE}.forgetting:evaluate_forgetting", "What a deletion touches, and leaves."),
        "compare": CommandEntry(
            f"{_HERE}.compare:compare_methods", "The papers' methods and Lethe on the same samples."
        ),
        "ranking": CommandEntry(f"{_HERE}.rank:rank_methods", "What a user of `POST /recommend` sees, beside peers."),
        "unlearning": CommandEntry(
            f"{_HERE}.unlearning:evaluate_unlearning", "Approximate unlearning beside retraining and Lethe."
        ),
    },
    "Measure how good the recommendations are, and the forgetting.",
)
bench_app = lazy_app(
    {
        "scoring": CommandEntry(
            f"{_HERE}.bench:bench_scoring", "The mixture beside merged LoRA, SISA and PEFT's ways."
        ),
        "forgetting": CommandEntry(f"{_HERE}.bench:bench_forgetting", "One deletion after another, beside retraining."),
        "deletions": CommandEntry(
            f"{_HERE}.bench_deletions:bench_deletions", "People who leave a real server at a steady rate."
        ),
        "serving": CommandEntry(f"{_HERE}.bench_load:bench_serving", "A real server under load."),
        "keys": CommandEntry(f"{_HERE}.bench_keys:bench_keys", "What API keys and quotas cost a server."),
        "scale": CommandEntry(f"{_HERE}.bench_load:bench_scale", "The control plane alone, at any size."),
        "ingestion": CommandEntry(
            f"{_HERE}.bench_ingestion:bench_ingestion", "Events into the ledger, beside its floor."
        ),
        "streaming": CommandEntry(
            f"{_HERE}.bench_streaming:bench_streaming", "Events into a running server, and what answers wait for them."
        ),
        "robustness": CommandEntry(
            f"{_HERE}.bench_robustness:bench_robustness", "How far a title can be worded up, by scores alone."
        ),
        "memory": CommandEntry(f"{_HERE}.bench_load:bench_memory", "The counts alone, at any size."),
    },
    "Measure speed against peers, in one run and in turns.",
)
