#!/usr/bin/env bash
# Depth 24 (837 M weights) on eight GPUs: 8 billion tokens, ten for each weight that multiplies.
#
# Command:   bash runs/speedrun_8gpu.sh [--out DIR] [--field value ...]
# Hardware:  8 x H100 or better; 150 GB of disk; GPUS=4 for four of them
# Hours:     3.5 at 45% of the bfloat16 peak, beside the data's preparation: about $85 at $24 an hour for the machine.
#            Estimated; nobody has run it yet. Prepare the data (the first command) where hours are cheap.
# Expected:  as runs/speedrun.sh
#
# Killed at any moment, or on another number of GPUs, the same command goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source runs/environment.sh

environment corpora
text='hub:karpathy/climbmix-400b-shuffle/shard_00[01]??.parquet' # 200 of 6,543: about 9 billion tokens
life=(--depth 24 --tokens 8000000000 --text "$text" "$@")
.venv/bin/python -m nightschool speedrun "${life[@]}" --until conversations
.venv/bin/torchrun --standalone --nproc-per-node "${GPUS:-8}" -m -- nightschool speedrun "${life[@]}" --until sft
exec .venv/bin/python -m nightschool speedrun "${life[@]}"
