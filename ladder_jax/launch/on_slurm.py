"""Runs as Slurm jobs, through submitit: one job array for all runs with the same parameters."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fitting.errors import InputError, first_line
from ladder_jax.launch.child import Child
from ladder_jax.launch.executor import Demands, Ended
from ladder_jax.launch.job import Job, JobResult
from ladder_jax.runtime.preemption import EXIT_CODE

_DEFAULTS: dict[str, Any] = {
    "job_name": "ladder",
    "time": 24 * 60,  # minutes; submitit's own default is 5
    "signal_delay_s": 120,  # a job gets a signal so long before its time limit
    "additional_parameters": {"no-requeue": True},
}


class Slurm:
    """Executor that submits Slurm jobs; see `executor.Executor`.

    Slurm does not requeue the jobs.  A job that is preempted or reaches its time limit saves and
    ends, and the grid, which waits for it, submits it again.

    Args:
        out: the experiment's directory, on a disk that all nodes share.
        demands: parameters of `sbatch` as submitit names them: `partition`, `nodes`, `time` ...

    Raises:
        InputError: submitit is not installed, this is no Slurm cluster, or a parameter is unknown.
    """

    def __init__(self, out: Path, demands: Demands) -> None:
        try:
            import submitit
        except ImportError:
            raise InputError(
                "submitit is not installed: pip install 'ladder_jax[launch]'"
            ) from None
        if not shutil.which("srun"):
            raise InputError("`executor` slurm: this machine has no srun; run it on a login node")
        self._submitit: Any = submitit
        self._out, self._demands = out, demands
        self._jobs: list[tuple[Any, Job]] = []
        self._cancelled: list[Job] = []
        for own in demands.by_size.values():
            self._executor(dict(own))

    def __enter__(self) -> Slurm:
        return self

    def __exit__(self, *raised: object) -> None:
        for handle, _ in self._jobs:
            handle.cancel(check=False)

    def submit(self, jobs: Sequence[Job]) -> None:
        groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
        for job in jobs:
            groups.setdefault(tuple(self._demands.of(job.run).items()), []).append(job)
        for own, members in groups.items():
            executor = self._executor(dict(own))
            with executor.batch():
                handles = [executor.submit(Child.of(job, self._out).run) for job in members]
            self._jobs += zip(handles, members, strict=True)

    def ended(self, timeout: float) -> list[Ended]:
        deadline = time.monotonic() + timeout
        found, self._cancelled = [Ended(job, EXIT_CODE) for job in self._cancelled], []
        while not found and time.monotonic() < deadline:
            over = [pair for pair in self._jobs if pair[0].done()]
            self._jobs = [pair for pair in self._jobs if pair not in over]
            found = [Ended(job, *self._result(handle)) for handle, job in over]
            if not found:
                time.sleep(min(timeout, 0.5))
        return found

    def notify(self) -> None:
        for pair in list(self._jobs):
            if pair[0].state == "PENDING":
                pair[0].cancel(check=False)
                self._jobs.remove(pair)
                self._cancelled.append(pair[1])
            else:
                with contextlib.suppress(Exception):  # it has just ended
                    pair[0]._interrupt()

    def _executor(self, own: dict[str, str]) -> Any:
        """A submitit executor with these parameters, which submitit checks."""
        executor = self._submitit.SlurmExecutor(folder=self._out.resolve() / "slurm" / "%j")
        given = {key: int(v) if v.isdecimal() else v for key, v in own.items()}
        try:
            executor.update_parameters(**_DEFAULTS | given)
        except ValueError as e:
            raise InputError(f"`slurm`: {first_line(e, 300)}") from None
        return executor

    def _result(self, handle: Any) -> JobResult:
        """The result of a job: that of its first process that was lost, or else failed."""
        try:
            results = handle.results()
        except self._submitit.core.utils.FailedJobError as e:
            return JobResult(1, str(e).strip().splitlines()[-1][:500])
        except self._submitit.core.utils.UncompletedJobError:
            return JobResult(None, f"Slurm job {handle.job_id} is {handle.state}")
        bad = [result for result in results if result.code != 0]
        lost = [result for result in bad if result.code is None]
        return (lost or bad or results)[0]
