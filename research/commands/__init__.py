"""What this distribution adds to `lethe`: entry points of the group `lethe.commands`, imported when they run."""

from service.entrypoints.commands.lazy import CommandEntry

EVALUATE = CommandEntry("research.commands.groups:evaluate_app", "Measure how good recommendations and forgetting are.")
BENCH = CommandEntry("research.commands.groups:bench_app", "Measure speed against peers, in one run and in turns.")
PRETRAIN = CommandEntry("research.commands.pretrain:pretrain_model", "Make a base model like the bundled one.")
