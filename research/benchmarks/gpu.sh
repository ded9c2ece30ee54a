#!/bin/sh
# Everything that needs a GPU, in one command of under ten minutes: research/benchmarks/gpu.sh [--smoke] [--out FILE]
# Needs Python with torch, transformers and peft, and no network. --smoke runs all of it on a CPU with a tiny model.
set -eu
cd "$(dirname "$0")/../.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    test ! -x .venv/bin/python || PYTHON=.venv/bin/python
fi
exec "$PYTHON" -m research.benchmarks.gpu "$@"
