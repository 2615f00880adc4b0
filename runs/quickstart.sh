#!/usr/bin/env bash
# One whole day and one night on the embedded world, then a report and a model to talk to.
#
# Command:   bash runs/quickstart.sh [--out DIR] [--field value ...]     (nightschool quickstart --help lists the fields)
# Hardware:  two CPU cores, 3 GB of memory, no GPU; Linux, or macOS (written for, untried); Python 3.11 or newer
# Minutes:   about ten, after a first installation that says what it downloads
# Expected:  DIR/report.html, a checkpoint, and one JSON line with the skills of the evening and of the morning
#
# Killed at any moment, the same command goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/environment.sh

environment run
exec .venv/bin/python -m nightschool quickstart "$@" # exec, so that a signal reaches it
