#!/usr/bin/env bash
# Format, lint, types and tests: what CI runs.
#
# Command:   bash runs/test.sh [what pytest takes, such as -k loop]
# Hardware:  two CPU cores, no GPU, no network after the first installation
# Minutes:   at most five
# Expected:  exit code 0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/environment.sh

environment dev
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # the tests' models are too small for two
.venv/bin/python -m ruff format --check .
.venv/bin/python -m ruff check .
.venv/bin/python -m mypy
.venv/bin/python -m pytest "$@"
