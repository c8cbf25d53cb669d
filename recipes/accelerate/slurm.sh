#!/bin/bash
# One launcher on each node; they meet on the first.
#   sbatch recipes/accelerate/slurm.sh recipes/oreal/qwen2.5-7b-math.yaml run.folder=/shared/runs/oreal
#SBATCH --job-name=posttrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@900            # the ranks save after the step they are in: time for the longest step
set -euo pipefail

GPUS=8
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=840   # seconds from SIGTERM to SIGKILL; the launcher's own choice is 30

srun --kill-on-bad-exit=1 accelerate launch \
    --config_file recipes/accelerate/multi-node-rendezvous.yaml --rdzv_backend c10d \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * GPUS))" \
    --main_process_ip "$HEAD" --main_process_port 29500 \
    -m posttrain train "$@" --resume auto
