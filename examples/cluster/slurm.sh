#!/bin/bash
# A search whose layer jobs are jobs of the queue: sbatch examples/cluster/slurm.sh
# The driver has one GPU; each layer is a job with one more. Preempted or killed, submit it again.
#SBATCH --job-name=puzzle
#SBATCH --partition=h100
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=200G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

SHARED=${SHARED:?a directory that all nodes see}
export PUZZLE_SCRATCH=${TMPDIR:-/tmp}
export OMP_NUM_THREADS=8

cd "$SHARED"
puzzle search "$SHARED/parent" --text "$SHARED/text.jsonl" --out "$SHARED/run" \
    --constraint "throughput >= 2x" --hardware roofline:h100-sxm \
    --executor "slurm:partition=h100,gpus=1,timeout_min=120,mem_gb=200"
