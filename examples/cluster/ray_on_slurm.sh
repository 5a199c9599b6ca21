#!/bin/bash
# Ray inside one allocation of several nodes, and a search on it: sbatch examples/cluster/ray_on_slurm.sh
#SBATCH --job-name=puzzle-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
set -euo pipefail

SHARED=${SHARED:?a directory that all nodes see}
export PUZZLE_SCRATCH=${TMPDIR:-/tmp}
export OMP_NUM_THREADS=8

HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --nodes=1 --ntasks=1 --nodelist="$HEAD" ray start --head --port=6379 --block &
sleep 20
srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$HEAD" \
    ray start --address="$HEAD:6379" --block &
sleep 20

puzzle search "$SHARED/parent" --text "$SHARED/text.jsonl" --out "$SHARED/run" \
    --constraint "throughput >= 2x" --hardware roofline:h100-sxm \
    --executor "ray:address=$HEAD:6379,gpus=1"
