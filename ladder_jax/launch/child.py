"""A run trained by a child process of a Ray task or a Slurm job; the child ends with its parent.

The parent calls `Child.run`, on the machine that the launcher chose; the child runs `python -m
ladder_jax.launch.child`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fitting.errors import InputError
from ladder_jax.config import RunConfig
from ladder_jax.config_text import load_json
from ladder_jax.launch import attempts, local, manifest
from ladder_jax.launch.job import Job, JobResult, train_job
from ladder_jax.runtime import compilation, distributed, preemption, processes
from ladder_jax.runtime.paths import cache_dir

OUTPUT = "output.txt"
_PREFIX = "ladder: "
_SAVING_S = 600  # time that a child may take to save after a stop request


class Cluster(NamedTuple):
    """Arguments of `distributed.initialize`, by which the processes of one run connect."""

    coordinator: str
    process_count: int
    process_id: int


@dataclass(frozen=True)
class Child:
    """One process of a job.

    Attributes:
        out: the experiment's directory, on a disk that all nodes share.
        directory: the run's directory.
        config: the file that holds the run's config.
        score: whether the run may be scored.
        workdir: the directory to which paths in the config are relative.
        environment: variables to add to the node's environment.
        one_core: keep it to one thread, as workers of `Local` are, for results equal to the bit.
        cluster: how the processes of a shared run connect; None if there is only one process, or if
            the environment says it.
    """

    out: Path
    directory: Path
    config: Path
    score: bool
    workdir: Path
    environment: Mapping[str, str]
    one_core: bool = False
    cluster: Cluster | None = None

    @classmethod
    def of(cls, job: Job, out: Path, one_core: bool = False) -> Child:
        """The process of a job, whose run is in the manifest of `out`."""
        out, directory = out.resolve(), job.directory.resolve()
        config = manifest.config_path(out, job.run)
        own = {k: v for k, v in os.environ.items() if k.startswith("LADDER_")}
        return cls(out, directory, config, job.score, Path.cwd(), own, one_core)

    def run(self) -> JobResult:
        """Runs the process on this machine to its end.

        SIGTERM and Slurm's SIGUSR2 are passed on as SIGTERM, so that the child saves and ends; an
        exception that a launcher raises here to cancel the job does the same.
        """
        if not (self.out / manifest.FILE).is_file():
            where = f"{socket.gethostname()} does not see {self.out / manifest.FILE}"
            return JobResult(2, f"{where}: `out` must lie on a disk that all nodes share")
        self.directory.mkdir(parents=True, exist_ok=True)
        slurm_index = int(os.environ.get("SLURM_PROCID", 0))  # the tasks of a job
        index = self.cluster.process_id if self.cluster else slurm_index
        path = self.directory / (f"output-{index}.txt" if index else OUTPUT)
        work = {
            "parent": os.getpid(),
            "index": index,
            "config": str(self.config),
            "directory": str(self.directory),
            "score": self.score,
            "cluster": self.cluster,
        }
        # -P: files of the working directory must not hide our modules.
        command = [sys.executable, "-P", "-m", "ladder_jax.launch.child", json.dumps(work)]
        env = {**os.environ, **self.environment}
        env |= local.one_core(env) if self.one_core else {}
        with open(path, "ab") as output:
            begin = output.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=self.workdir if self.workdir.is_dir() else None,
                start_new_session=True,  # it gets signals only from this process
            )
        with _passed_on(process):
            code = _wait(process)
        if code < 0:
            return JobResult(None, f"killed by signal {-code}")
        failed = code not in (0, preemption.EXIT_CODE)
        return JobResult(code, _last_line(path, begin) if failed else "")


def _wait(process: subprocess.Popen) -> int:
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(1)  # short waits: Ray interrupts only between calls
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SAVING_S)
        process.kill()
        raise


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = (signal.SIGTERM, signal.SIGUSR2)
    before = {k: signal.signal(k, lambda number, frame: process.terminate()) for k in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _last_line(path: Path, begin: int) -> str:
    """The last error message of the child; if there is none, its last line."""
    with open(path, "rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    own = [line for line in lines if line.startswith(_PREFIX)]
    return (own or lines or [f"see {path}"])[-1].removeprefix(_PREFIX)[:500]


def main(text: str) -> int:
    """Trains one run as a child process; returns its exit status.

    Args:
        text: the JSON object that `Child.run` writes.
    """
    work = json.loads(text)
    preemption.exit_on_sigterm()
    processes.live_with(work["parent"])
    compilation.keep(cache_dir())
    compilation.hold_memory()
    directory = Path(work["directory"])
    try:
        job = Job(load_json(RunConfig, work["config"]), directory, work["score"])
        distributed.initialize(*(work["cluster"] or ()))
        with attempts.record(directory) if work["index"] == 0 else contextlib.nullcontext():
            train_job(job, cache_dir())
    except InputError as e:
        print(f"{_PREFIX}{e}", file=sys.stderr)
        distributed.leave(2)
        return 2
    except preemption.Preempted:
        return preemption.EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
