"""An evaluation on real data, in a scratch folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_an_evaluation_reaches_the_floor_and_never_touches_the_ledger_of_the_installation(
    shared_data: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "installation.sqlite"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "service.entrypoints",
            "evaluate",
            "compare",
            shared_data / "ml-100k",
            *("--dataset", "movielens-100k", "--methods", "lethe", "--seeds", "1", "--no-studies"),
            *("--out", tmp_path / "comparison", "--json"),
        ],
        env={**os.environ, "LETHE_DATABASE_URL": f"sqlite:///{ledger}"},
        capture_output=True,
        check=True,
        timeout=1200,
    )
    [lethe] = json.loads(done.stdout)["measured"]
    assert lethe["auc"] >= 0.70
    assert not ledger.exists()
