"""Computes all runs of a grid with one executor; restarts interrupted runs, reports failures."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import rich.live

from fitting.errors import InputError
from ladder_jax.config import RunConfig
from ladder_jax.launch import attempts, status
from ladder_jax.launch.executor import Ended, Executor
from ladder_jax.launch.job import Job
from ladder_jax.launch.local import Local
from ladder_jax.launch.manifest import run_directory
from ladder_jax.models import counts
from ladder_jax.runtime.preemption import EXIT_CODE, Preempted
from ladder_jax.training.run_directory import check_directory, is_done, is_trained

_POLL_S = 0.5
_PLAIN_REFRESH_S = 30.0
_LOSSES = 3  # a run lost so often without a step gained has failed: the machine is not to blame
_ARRIVAL_S = 90.0  # shared file systems may show files of other machines late


def train_all(
    runs: Sequence[RunConfig],
    out: Path,
    cache: Path,
    workers: int,
    withheld: Collection[str] = (),
) -> None:
    """`execute` in `workers` processes of this machine; `cache` holds prepared text."""
    with Local(workers, cache) as executor:
        execute(runs, out, executor, withheld)


def execute(
    runs: Sequence[RunConfig], out: Path, executor: Executor, withheld: Collection[str] = ()
) -> None:
    """Trains and scores all runs that are not done, and shows a live table of them.

    A run that was preempted, or lost its process or machine, is started again.  A run that fails is
    not started again; the others go on.

    Args:
        runs: the runs of the grid.
        out: the experiment's directory.
        executor: the executor, inside its `with` block.
        withheld: names of runs that are trained but not scored.

    Raises:
        InputError: a run's directory belongs to another config; or some runs failed (the
            others were finished first).
        Preempted: a stop was requested (SIGTERM); all jobs have saved and ended.
    """
    for run in runs:
        check_directory(run, run_directory(out, run))
    jobs = [Job(run, run_directory(out, run), run.name not in withheld) for run in runs]
    todo = sorted((job for job in jobs if not _is_finished(job)), key=_cost, reverse=True)
    open_jobs, failures, losses = {job.run.name for job in todo}, {}, _Losses()
    with _stop_requests() as stop, _table(runs, out) as draw:
        executor.submit(todo)
        notified = False
        while open_jobs:
            for end in executor.ended(_POLL_S):
                end = losses.judge(_checked(end))
                attempts.end(end.job.directory, end.code, end.reason)
                if end.code in (None, EXIT_CODE) and not stop.is_set():
                    executor.submit([end.job])
                    continue
                open_jobs.discard(end.job.run.name)
                if end.code not in (None, 0, EXIT_CODE):
                    failures[end.job.run.name] = end.reason
            if stop.is_set() and not notified:
                executor.notify()
                notified = True
            draw(not open_jobs)
    if stop.is_set():
        raise Preempted
    if failures:
        name, reason = next(iter(failures.items()))
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise InputError(f"run {name} failed{more}: {reason}")


class _Losses:
    """Counts how often each run was lost since it last gained a step; too often is a failure."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[int, int]] = {}

    def judge(self, end: Ended) -> Ended:
        if end.code is not None:
            return end
        name, step = end.job.run.name, status.last_step(end.job.directory)
        before, n = self._of.get(name, (step, 0))
        n = n + 1 if step <= before else 1
        self._of[name] = (step, n)
        if n < _LOSSES:
            return end
        why = f" ({end.reason})" if end.reason else ""
        return Ended(end.job, 1, f"lost {n} times at step {step}{why}; out of memory?")


def _checked(end: Ended) -> Ended:
    """Waits until the files of a finished attempt are visible on this machine."""
    deadline = time.monotonic() + _ARRIVAL_S
    while end.code == 0 and not _is_finished(end.job):
        if time.monotonic() > deadline:
            reason = f"ended, but {end.job.directory} is not finished: is it on a shared disk?"
            return Ended(end.job, 1, reason)
        time.sleep(_POLL_S)
    return end


def _is_finished(job: Job) -> bool:
    return (is_done if job.score else is_trained)(job.run, job.directory)


def _cost(job: Job) -> int:
    return counts.flops_per_token(job.run.model) * job.run.n_tokens


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; in the main thread only, since others receive no signals."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _table(runs: Sequence[RunConfig], out: Path) -> Iterator[Callable[[bool], None]]:
    """A function that redraws the table; without a terminal it prints every 30 s and last."""
    with rich.live.Live(console=status.console(), auto_refresh=False) as live:
        every = 2 * _POLL_S if live.console.is_terminal else _PLAIN_REFRESH_S
        drawn = -every

        def draw(last: bool) -> None:
            nonlocal drawn
            if time.monotonic() - drawn < every and not last:
                return
            drawn = time.monotonic()
            table = status.status_table(runs, out)
            if live.console.is_terminal:
                live.update(table, refresh=True)
            else:
                live.console.print(table)

        yield draw
