#!/bin/bash
# sbatch slurm.sh ppo RECIPE.toml [key=value]...   from a folder that all nodes see
#SBATCH --job-name=kedge
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: sbatch slurm.sh ppo RECIPE.toml [key=value]..." >&2
  exit 2
fi

# One torchrun a node, which starts a process a GPU. SIGTERM, five minutes before the end, reaches the processes: they
# end their step and keep it. --resume goes on from there when the job is requeued, and begins where there is nothing.
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
srun --kill-on-bad-exit=1 --label bash -c '
  exec python -m torch.distributed.run --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
    --node-rank "$SLURM_NODEID" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" -m kedge "$@" --resume
' kedge "$@"
