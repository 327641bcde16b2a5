"""Requeue a SLURM job that is about to reach its time limit."""

import os
import subprocess


def requeue() -> None:
    """Requeue the current SLURM job, if any; its script must use `--resume`."""
    job = os.environ.get("SLURM_JOB_ID")
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not job:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"the job could not be requeued ({error}); submit it again", flush=True)
