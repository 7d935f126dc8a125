#!/usr/bin/env bash
# Training on several GPUs or machines under SLURM, by torchrun. Submit it from the project directory:
#
#     sbatch examples/train_slurm.sh Refine3D/job012/run_data.star External/heterogeneity
#     sbatch --nodes=2 examples/train_slurm.sh ...  (several machines)
#
# One task per machine; torchrun starts one process per GPU there. Preprocessing and everything after the training run
# in the first process while the others wait. RELION's own queue submission needs none of this on one machine: give
# the job --processes N there. A job that hits its time limit is continued by submitting it again.
#SBATCH --job-name=cryodrgn-ext
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --output=cryodrgn-ext-%j.out
set -euo pipefail
particles=${1:?usage: sbatch train_slurm.sh PARTICLES RESULT_DIRECTORY [options]}
result=${2:?usage: sbatch train_slurm.sh PARTICLES RESULT_DIRECTORY [options]}
shift 2

processes=${SLURM_GPUS_ON_NODE:-1}
export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-processes} / processes))
master=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Every process runs the same command; only the first one writes.
exec srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "$processes" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$master:29500" \
    -m cryodrgn_ext train --in_parts "$particles" --o "$result" "$@"
