"""`ladder train` as the child of a Ray task or a Slurm job, which it does not outlive.

The parent's side is `Child.run`, on whatever machine the launcher chose; `python -m
ladder_jax.launch.child` is the child's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fitting.errors import InputError
from ladder_jax.launch import attempts, local, manifest
from ladder_jax.launch.executor import Job
from ladder_jax.runtime import preemption, processes

OUTPUT = "output.txt"
_PREFIX = "ladder train: "
_SAVING_S = 600  # a child that is told to end may take so long to save


@dataclass(frozen=True)
class Child:
    """One process of a job.

    Attributes:
        out: the experiment's directory, on a disk that all nodes share.
        directory: the run's.
        arguments: of `ladder train`.
        workdir: where relative paths of the config start.
        environment: what is added to that of the node.
        one_core: keep it to one thread, as a worker of `Local`: that gives the same bits.
        index: of this process among those of the run.
    """

    out: Path
    directory: Path
    arguments: tuple[str, ...]
    workdir: Path
    environment: Mapping[str, str]
    one_core: bool = False
    index: int = 0

    @classmethod
    def of(cls, job: Job, out: Path, one_core: bool = False) -> Child:
        """What to start for a job of the manifest below `out`."""
        out, directory = out.resolve(), job.directory.resolve()
        path = manifest.config_path(out, job.run)
        arguments = ("train", str(path), "--out", str(directory))
        arguments += () if job.score else ("--no-score",)
        own = {k: v for k, v in os.environ.items() if k.startswith("LADDER_")}
        return cls(out, directory, arguments, Path.cwd(), own, one_core)

    def run(self) -> tuple[int | None, str]:
        """Runs it on this machine to its end; returns exit status and reason as in `Ended`.

        SIGTERM and, from Slurm, SIGUSR2 are passed on as SIGTERM: the child saves and ends.  So
        does an exception that a launcher raises here to cancel.
        """
        if not (self.out / manifest.FILE).is_file():
            where = f"{socket.gethostname()} does not see {self.out / manifest.FILE}"
            return 2, f"{where}: --out must lie on a disk that all nodes share"
        self.directory.mkdir(parents=True, exist_ok=True)
        index = self.index or int(os.environ.get("SLURM_PROCID", 0))  # the tasks of a job
        path = self.directory / (f"output-{index}.txt" if index else OUTPUT)
        command = [sys.executable, "-m", "ladder_jax.launch.child", str(os.getpid()),
                   str(self.directory), str(index), *self.arguments]  # fmt: skip
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
            return None, f"killed by signal {-code}"
        return code, "" if code in (0, preemption.EXIT_CODE) else _last_line(path, begin)


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


def main(arguments: Sequence[str]) -> int:
    """The child: parent's process id, run's directory, index, then what `ladder` takes."""
    parent, directory, index, *command = arguments
    preemption.end_when_told()
    processes.live_with(int(parent))
    from ladder_jax import cli

    first = int(index) == 0
    try:
        with attempts.record(Path(directory)) if first else contextlib.nullcontext():
            return cli.main(command)
    except InputError as e:
        print(f"{_PREFIX}{e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
