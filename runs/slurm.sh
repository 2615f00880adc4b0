#!/usr/bin/env bash
# One stage on several nodes of a Slurm cluster: one torchrun a node, one rank a GPU.
#
# Command:   sbatch runs/slurm.sh pretrain --out life/pretrain [--field value ...]     (or sft, rl, night)
# Hardware:  as the lines below ask; the run folder on a disk that all nodes see. Written for, untried
# Minutes:   the stage's; two minutes before --time is up its state is saved, and the job put in the queue again
# Expected:  the run folder that one process would leave
#
#SBATCH --job-name=nightschool
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# The "--" keeps torchrun from reading the verb's flags: it takes --start for the beginning of its own --start-method.
srun --kill-on-bad-exit=1 .venv/bin/torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-backend c10d --rdzv-endpoint "$head:29500" -m -- nightschool "$@" && exit
# Stopped or a rank lost: the same command goes on. A mistake of the caller's would come back, so not for ever.
if [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit 1
