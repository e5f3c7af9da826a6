"""A run trained by a child process of a Ray task or a Slurm job, which ends when its parent does.

The parent's side is `Child.run`, on whatever machine the launcher chose; `python -m
ladder_jax.launch.child` is the child's.
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
_SAVING_S = 600  # a child that is told to end may take so long to save


class Cluster(NamedTuple):
    """How the processes of one run find one another: see `distributed.initialize`."""

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
        workdir: where relative paths of the config start.
        environment: variables added to those of the node.
        one_core: keep it to one thread, as a worker of `Local`: that gives the same bits.
        cluster: where several processes share the run; None if the environment says so, or one
            process does all.
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
        """The process to start for a job of the manifest in `out`."""
        out, directory = out.resolve(), job.directory.resolve()
        config = manifest.config_path(out, job.run)
        own = {k: v for k, v in os.environ.items() if k.startswith("LADDER_")}
        return cls(out, directory, config, job.score, Path.cwd(), own, one_core)

    def run(self) -> JobResult:
        """Runs the process on this machine to its end.

        SIGTERM and, from Slurm, SIGUSR2 are passed on as SIGTERM: the child saves and ends.  So
        does an exception that a launcher raises here to cancel.
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
        # -P: no file of the working directory may hide a module of ours.
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
                start_new_session=True,  # signals come through us alone
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
                return process.wait(1)  # in turns, since Ray interrupts between calls alone
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
    """What the child said last: its own complaint if there is one."""
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
    preemption.end_when_told()
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
