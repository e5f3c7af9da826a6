"""A job of the grid, and one attempt at it in this process."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fitting.errors import InputError, first_line
from ladder_jax.config import RunConfig
from ladder_jax.runtime.preemption import EXIT_CODE, Preempted


class Job(NamedTuple):
    """One run to train to its end; `score` says whether it may be scored."""

    run: RunConfig
    directory: Path
    score: bool


class JobResult(NamedTuple):
    """The result of one attempt.

    Attributes:
        code: exit status: 0, `preemption.EXIT_CODE` (saved, to be started again) or another number
            after a failure; None if the process or its machine was lost.
        reason: one line on why it failed or was lost.
    """

    code: int | None
    reason: str = ""


def train_job(job: Job, cache: Path) -> None:
    """Trains a job's run to its end, and scores it if the job allows; see `train_and_score`."""
    from ladder_jax.eval.runs import train_and_score
    from ladder_jax.training.loop import train

    function = train_and_score if job.score else train
    function(job.run, job.directory, cache, progress=False)


def attempt(job: Job, cache: Path) -> JobResult:
    """Calls `train_job` and returns its exceptions as an exit status and a reason."""
    try:
        train_job(job, cache)
    except Preempted:
        return JobResult(EXIT_CODE)
    except InputError as e:
        return JobResult(2, str(e))
    except Exception as e:  # a defect in one run is no reason to lose the others
        return JobResult(1, f"{type(e).__name__}: {first_line(e)}")
    return JobResult(0)
