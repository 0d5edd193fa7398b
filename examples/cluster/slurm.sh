#!/usr/bin/env bash
# Detect in many images with a Slurm job array, and join the results. Set the four values below, then:
#   array=$(sbatch --parsable slurm.sh)
#   sbatch --dependency="afterok:$array" --wrap "detector gather /shared/found --out /shared/all --csv"
# To repeat some parts: sbatch --array=3,17 slurm.sh
#SBATCH --job-name=detect
#SBATCH --array=0-99
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

images=/shared/photos
weights=/shared/best.safetensors
out=/shared/found
shards=100  # as many as --array has indices

status=0
detector detect "$images" --weights "$weights" --out "$out" --no-images --skip-done \
  --threads "${SLURM_CPUS_PER_TASK:-1}" --shard "$SLURM_ARRAY_TASK_ID/$shards" || status=$?
# Exit status 3: some images cannot be read. The part is finished, and `detector gather` lists these images.
if [ "$status" -ne 3 ]; then exit "$status"; fi
