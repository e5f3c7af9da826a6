"""Runs in worker processes of this machine: one core and one thread each, reused between runs.

Unlike in a `ProcessPoolExecutor`, a worker that dies loses only its own run, and a worker saves
before it ends when a stop is requested.
"""

from __future__ import annotations

import contextlib
import glob
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fitting.errors import InputError
from ladder_jax.launch import attempts
from ladder_jax.launch.executor import Ended
from ladder_jax.launch.job import Job, JobResult, attempt
from ladder_jax.runtime import compilation, preemption, processes
from ladder_jax.runtime.preemption import EXIT_CODE

_LEAVE_S = 5.0


def default_workers() -> int:
    """One worker per CPU core; only one if there is an accelerator, which they would share."""
    accelerators = [*glob.glob("/dev/accel[0-9]*"), *glob.glob("/dev/nvidia[0-9]*")]
    if accelerators and os.environ.get("JAX_PLATFORMS") != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


class Local:
    """Executor with worker processes on this machine; see `executor.Executor`.

    Args:
        workers: number of processes.
        cache: directory of tokenizers, packed text and compiled code.
    """

    def __init__(self, workers: int, cache: Path) -> None:
        self._cache = cache
        self._queue: deque[Job] = deque()
        self._cancelled: list[Ended] = []  # queued jobs, after a stop request
        self._workers: list[_Worker | None] = [None] * workers

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *raised: object) -> None:
        self._queue.clear()
        workers = [worker for worker in self._workers if worker is not None]
        for worker in workers:
            worker.pipe.close()  # an idle worker then ends by itself, and cleans up
            if worker.job is not None:
                worker.process.kill()
        for worker in workers:
            worker.process.join(_LEAVE_S)
            worker.process.kill()
            worker.process.join()
        self._workers = [None] * len(self._workers)

    def submit(self, jobs: Sequence[Job]) -> None:
        self._queue.extend(jobs)
        self._fill()

    def ended(self, timeout: float) -> list[Ended]:
        if self._cancelled:
            cancelled, self._cancelled = self._cancelled, []
            return cancelled
        busy = {w.pipe: i for i, w in enumerate(self._workers) if w is not None and w.job}
        found = []
        for pipe in multiprocessing.connection.wait(busy, timeout) if busy else ():
            found.append(self._take(busy[pipe]))  # type: ignore[index]
        self._fill()
        return found

    def notify(self) -> None:
        self._cancelled += [Ended(job, EXIT_CODE) for job in self._queue]
        self._queue.clear()
        for worker in filter(None, self._workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGTERM)  # type: ignore[arg-type]

    def _take(self, i: int) -> Ended:
        """The attempt that worker `i` has finished; drops the worker if it died or was stopped."""
        worker = self._workers[i]
        assert worker is not None
        assert worker.job is not None
        job, worker.job = worker.job, None
        try:
            code, reason = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            code = EXIT_CODE if worker.process.exitcode == EXIT_CODE else None
            reason = f"its process ended with status {worker.process.exitcode}"
        if code in (None, EXIT_CODE):
            worker.process.join()
            self._workers[i] = None
        return Ended(job, code, reason)

    def _fill(self) -> None:
        for i, worker in enumerate(self._workers):
            if not self._queue:
                return
            if worker is not None and not worker.job and not worker.process.is_alive():
                worker = None  # it was stopped while idle
            if worker is None:
                worker = self._workers[i] = _Worker(i, self._cache)
            if worker.job is None:
                worker.give(self._queue.popleft())


class _Worker:
    """A worker process, the pipe to it, and its present job."""

    def __init__(self, core: int, cache: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        arguments = (other, core, os.getpid(), cache)
        self.process = context.Process(target=_serve, args=arguments)
        self.process.start()
        other.close()
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # it has just died: `recv` will notice
            self.pipe.send(job)


def one_core(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that keep a process to one thread."""
    flags = f"{environment.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    return {
        "XLA_FLAGS": flags.strip(),
        "OMP_NUM_THREADS": "1",
        "PJRT_NPROC": "1",  # XLA's pool; its size decides how sums are split
    }


def _serve(pipe: Any, core: int, parent: int, cache: Path) -> None:
    """The main loop of a worker: one job after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    preemption.exit_on_sigterm()
    processes.live_with(parent)
    compilation.hold_memory()
    compilation.keep(cache)  # so that workers share compiled code
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[core % len(allowed)]})
    os.environ.update(one_core(os.environ))
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            with attempts.record(job.directory):
                result = attempt(job, cache)
        except InputError as e:  # another process works on the run
            result = JobResult(2, str(e))
        pipe.send(result)
        if result.code == EXIT_CODE:
            return
