#!/usr/bin/env bash
# The same life as quickstart at real scale: depth 12 (142 M weights) reads 1.4 billion tokens of the web, goes to school.
#
# Command:   bash runs/speedrun.sh [--out DIR] [--field value ...]     (nightschool speedrun --help lists the fields)
# Hardware:  one GPU with 24 GB or more; 30 GB of disk; Linux, Python 3.11 or newer
# Minutes:   50 of pretraining on an H100 at 45% of its bfloat16 peak, 10 for the rest: about $3 at $3 an hour, beside
#            the download and the sifting of 40 shards on the CPU. Estimated; nobody has run it yet.
# Expected:  DIR/report.html, a checkpoint, and one JSON line with the skills of the evening and of the morning
#
# First: nightschool doctor --depth 12, which ends with exit code 1 where something would cost money later.
# Killed at any moment, the same command goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/environment.sh

environment corpora
text='hub:karpathy/climbmix-400b-shuffle/shard_000[0-3]?.parquet' # 40 of 6,543: nearly 2 billion tokens
exec .venv/bin/python -m nightschool speedrun --depth 12 --text "$text" "$@"
