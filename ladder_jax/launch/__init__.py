"""The grid: independent runs on this machine, on a Ray cluster or under Slurm.

A manifest lists the runs with the hashes of their configs.  A run is done when its last checkpoint
is committed and measured; a grid that is started again, with any executor, goes on with the others.
"""

from ladder_jax.launch.executor import Demands, Ended, Executor
from ladder_jax.launch.grid import execute, train_all
from ladder_jax.launch.job import Job
from ladder_jax.launch.local import Local, default_workers
from ladder_jax.launch.manifest import (
    claim_manifest,
    held,
    new_runs,
    read_manifest,
    run_directory,
)
from ladder_jax.launch.status import console, progress, status_table

__all__ = [
    "Demands",
    "Ended",
    "Executor",
    "Job",
    "Local",
    "claim_manifest",
    "console",
    "default_workers",
    "execute",
    "held",
    "new_runs",
    "progress",
    "read_manifest",
    "run_directory",
    "status_table",
    "train_all",
]
