"""Executors: restarts and failures; Ray with real nodes that are killed, Slurm as scripts."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fitting.errors import InputError
from ladder_jax import launch
from ladder_jax.config_text import to_json
from ladder_jax.launch import Demands, Ended, attempts, grid
from ladder_jax.launch.child import Child
from ladder_jax.launch.executor import Job
from ladder_jax.launch.on_slurm import Slurm
from ladder_jax.measurements import own_runs
from ladder_jax.runtime.preemption import EXIT_CODE, Preempted
from ladder_jax.training import metrics_log, run_directory
from tests.helpers import results

LOST = None


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Gives started processes one device, as on separate machines, which is also faster."""
    monkeypatch.setenv("XLA_FLAGS", "")


class Scripted:
    """An executor that reports a list of exit codes for each run; 0 finishes the run."""

    def __init__(self, **codes):
        self.codes, self.queue, self.started, self.on_turn = codes, [], [], lambda job: None

    def submit(self, jobs):
        self.queue += jobs
        self.started += [job.run.name for job in jobs]

    def ended(self, timeout):
        job = self.queue.pop(0)
        self.on_turn(job)
        code = self.codes[job.run.name].pop(0)
        if code == 0:
            (job.directory / "checkpoints" / str(job.run.n_steps)).mkdir(parents=True)
        return [Ended(job, code, "why" if code == 2 else "")]

    def notify(self):
        for job in self.queue:
            self.codes[job.run.name] = [EXIT_CODE]


def three(run):
    return [replace(run, name=name, size=name) for name in "abc"]


def train(runs, out, executor):
    grid.execute(runs, out, executor, withheld={member.name for member in runs})


def test_cut_off_runs_start_again_and_failed_ones_do_not(run, tmp_path):
    executor = Scripted(a=[EXIT_CODE] * 5 + [0], b=[2], c=[LOST, LOST, 0])
    with pytest.raises(InputError, match="run b failed: why"):
        train(three(run), tmp_path, executor)
    assert sorted(executor.started) == ["a"] * 6 + ["b"] + ["c"] * 3
    states = [launch.progress(r, launch.run_directory(tmp_path, r))["state"] for r in three(run)]
    assert states == ["to score", "failed", "to score"]
    executor = Scripted(b=[0])
    train(three(run), tmp_path, executor)
    assert executor.started == ["b"]


def test_a_run_that_is_lost_again_and_again_without_a_step_has_failed(run, tmp_path):
    directory = launch.run_directory(tmp_path, run)
    executor = Scripted(tiny=[LOST] * 9)
    with pytest.raises(InputError, match=r"run tiny failed: lost 3 times at step 0"):
        train([run], tmp_path, executor)
    assert len(executor.started) == 3
    assert launch.progress(run, directory)["state"] == "failed"

    steps = iter(range(10, 100, 10))

    def gain(job):
        with open(directory / metrics_log.METRICS_FILE, "a") as file:
            file.write(f'{{"step": {next(steps)}}}\n')

    executor = Scripted(tiny=[LOST] * 5 + [0])
    executor.on_turn = gain
    train([run], tmp_path, executor)
    assert len(executor.started) == 6


def test_after_a_stop_request_the_grid_waits_for_all_to_save(run, tmp_path):
    executor = Scripted(a=[EXIT_CODE], b=[0], c=[LOST])
    executor.on_turn = lambda job: os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        train(three(run), tmp_path, executor)
    assert sorted(executor.started) == ["a", "b", "c"]
    assert not executor.queue
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_runs_ask_for_is_of_all_or_of_a_size(run):
    wanted = Demands.parse(["gpu=1", "time=1:00:00", "b:gpu=8"], "--x", "abc")
    a, b, _ = three(run)
    assert wanted.of(a) == {"gpu": "1", "time": "1:00:00"}
    assert wanted.of(b) == {"gpu": "8", "time": "1:00:00"}
    for bad, message in (("gpu", "KEY=VALUE"), ("=1", "KEY=VALUE"), ("d:gpu=1", "no size 'd'")):
        with pytest.raises(InputError, match=message):
            Demands.parse([bad], "--x", "abc")


def test_a_node_that_does_not_see_the_directory_says_so(run, tmp_path):
    job = Job(run, launch.run_directory(tmp_path, run), True)
    code, reason = Child.of(job, tmp_path).run()
    assert code == 2
    assert "does not see" in reason
    assert "on a disk that all nodes share" in reason


_LOCAL = """
import pathlib, sys
from ladder_jax import launch
from ladder_jax.config import RunConfig
from ladder_jax.config_text import load_json
from ladder_jax.runtime import preemption
if __name__ == "__main__":
    out, cache, *configs = map(pathlib.Path, sys.argv[1:])
    try:
        launch.train_all([load_json(RunConfig, c) for c in configs], out, cache, workers=2)
    except preemption.Preempted:
        sys.exit(preemption.EXIT_CODE)
"""


def await_(condition, process=None):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.005)


def began(directory):
    return [row for row in attempts.read(directory) if "began" in row]


def reached(directory, step):
    return any(row["step"] >= step for row in metrics_log.read(directory))


@pytest.fixture(scope="module")
def whole(run, cache, tmp_path_factory):
    """Three uninterrupted runs, and their directory."""
    long = replace(run, n_steps=400, checkpoint_every=200)
    runs = [replace(long, name=f"r{i}", seed=i) for i in range(3)]
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "")
        launch.train_all(runs, out, cache, workers=2)
    return runs, out


@pytest.mark.slow
def test_local_workers_stopped_or_killed_give_the_same_bits(whole, tmp_path, cache):
    (long, *_), undisturbed = whole
    script, config, out = tmp_path / "script.py", tmp_path / "config.json", tmp_path / "cut"
    script.write_text(_LOCAL)
    config.write_text(to_json(long))
    command = [sys.executable, script, out, cache, config]
    directory = launch.run_directory(out, long)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    process = subprocess.Popen(command, **quiet)
    await_(lambda: reached(directory, 10), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == EXIT_CODE
    saved = [int(p.name) for p in (directory / "checkpoints").iterdir() if p.name.isdecimal()]
    assert 0 < max(saved) < 400

    process = subprocess.Popen(command, **quiet)
    await_(lambda: len(began(directory)) == 2, process)
    os.kill(began(directory)[-1]["pid"], signal.SIGKILL)  # a worker: its run starts again
    assert process.wait(300) == 0
    assert [row["code"] for row in attempts.read(directory) if "code" in row] == [75, None, 0]
    assert results(directory) == results(launch.run_directory(undisturbed, long))


SLURM = {
    "sbatch": """
        last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
        cp "$1" "$FAKE/sbatch.$$"
        for i in $(seq 0 "${last:-0}"); do
          if [ -n "$last" ]; then export SLURM_ARRAY_JOB_ID=$$ SLURM_ARRAY_TASK_ID=$i; fi
          SLURM_JOB_ID=$$ bash "$1" > "$FAKE/job.$$.$i" 2>&1 < /dev/null &
        done
        echo "Submitted batch job $$" """,
    "srun": """
        while [ "${1#-}" != "$1" ]; do
          case "$1" in --output|--error) shift 2 ;; *) shift ;; esac
        done
        eval exec "$@" """,
    "sacct": "echo 'JobID|State|NodeList'",
    "scancel": "exit 0",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The commands of Slurm as scripts that run jobs at once, on this machine."""
    pytest.importorskip("submitit")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in SLURM.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    return folder


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_slurm_arrays_and_what_slurm_preempts(run, tmp_path, cache, slurm, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(cache))
    long = replace(run, n_steps=400, checkpoint_every=200)
    runs = [replace(long, name="a", size="a"), replace(run, name="b", size="b", seed=1)]
    out = tmp_path / "out"
    launch.claim_manifest("t", runs, out)
    first = launch.run_directory(out, runs[0])

    def preempt():
        await_(lambda: reached(first, 10))
        os.kill(parent_of(began(first)[0]["pid"]), signal.SIGTERM)

    thread = threading.Thread(target=preempt, daemon=True)
    thread.start()
    with Slurm(out, Demands({"": {"partition": "long"}})) as executor:
        launch.execute(runs, out, executor)
    thread.join()
    assert [row["code"] for row in attempts.read(first) if "code" in row] == [EXIT_CODE, 0]
    assert len(began(launch.run_directory(out, runs[1]))) == 1
    scripts = [p.read_text() for p in slurm.glob("sbatch.*")]
    assert sorted("--array=0-1" in script for script in scripts) == [False, True]
    for line in ("--partition=long", "--no-requeue", "--time=1440", "--signal=USR2@120"):
        assert all(line in script for script in scripts), line


def test_slurm_refuses_bad_input_before_it_writes(tmp_path, monkeypatch, slurm):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"`slurm`: .*colour"):
        Slurm(out, Demands({"": {"colour": "red"}}))
    assert not out.exists()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="this machine has no srun"):
        Slurm(out, Demands({}))


def test_ray_without_a_cluster_is_one_line(tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'ladder_jax[launch]'")
    from ladder_jax.launch.on_ray import Ray

    for address, message in (("127.0.0.1:1", "no Ray cluster answers"), ("x", "HOST:PORT")):
        with pytest.raises(InputError, match=message), Ray(tmp_path, address):
            pass
    with pytest.raises(InputError, match=r"`resources` gpu=one: write a number"):
        Ray(tmp_path, demands=Demands({"": {"gpu": "one"}}))


@pytest.fixture(scope="module")
def nodes():
    """A Ray cluster of three nodes of one CPU; two of them act as the hosts of a TPU slice."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'ladder_jax[launch]'")
    from ray.cluster_utils import Cluster

    own = {"num_cpus": 1, "object_store_memory": 80_000_000}
    with pytest.MonkeyPatch.context() as patch:  # which its nodes inherit
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("XLA_FLAGS", "")
        cluster = Cluster(initialize_head=True, head_node_args={**own, "include_dashboard": False})
        try:
            for i, more in enumerate(({"TPU-v5p-16-head": 1}, {})):
                labels = {"ray.io/tpu-slice-name": "slice", "ray.io/tpu-worker-id": str(i)}
                cluster.add_node(**own, resources={"TPU": 4, **more}, labels=labels)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.mark.slow
def test_a_slice_of_two_hosts_is_one_run_of_two_processes(run, tmp_path, cache, nodes, monkeypatch):
    import ray

    from ladder_jax.launch.on_ray import Ray

    monkeypatch.setenv("LADDER_CACHE", str(cache))
    short = replace(run, n_steps=8)
    directory = launch.run_directory(tmp_path, short)
    launch.claim_manifest("t", [short], tmp_path)
    with Ray(tmp_path, nodes.address, Demands({"": {"tpu": "v5p-16"}})) as executor:
        launch.execute([short], tmp_path, executor)
        heads = [node for node in ray.nodes() if "TPU-v5p-16-head" in node["Resources"]]
    assert run_directory.is_done(short, directory)
    (attempt,) = began(directory)
    assert heads[0]["NodeID"].startswith(attempt["node"].rpartition("/")[2])
    assert (directory / "output-1.txt").is_file()


@pytest.mark.slow
def test_a_killed_node_of_a_ray_cluster_changes_nothing(  # after the slice, which it ends
    whole,
    tmp_path,
    cache,
    nodes,
    capsys,
    monkeypatch,
):
    from ladder_jax.launch.on_ray import Ray

    monkeypatch.setenv("LADDER_CACHE", str(cache))
    runs, undisturbed = whole
    out = tmp_path / "ray"
    launch.claim_manifest("t", runs, out)
    directories = {member.name: launch.run_directory(out, member) for member in runs}
    killed = {}

    def kill_one():
        """Kills a node other than the head once a run on it has made steps and is not done."""

        def held():
            for name, directory in directories.items():
                if reached(directory, 10) and not reached(directory, 200):
                    node = began(directory)[-1]["node"].rpartition("/")[2]
                    for other in nodes.list_all_nodes():
                        if other is not nodes.head_node and other.node_id.startswith(node):
                            killed.update(run=name, node=node)
                            return other
            return None

        await_(held)
        nodes.remove_node(held() or pytest.fail("gone"), allow_graceful=False)

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    with Ray(out, nodes.address) as executor:
        launch.execute(runs, out, executor)
    thread.join()

    held = {n: [row["node"] for row in began(d)] for n, d in directories.items()}
    codes = {
        n: [row["code"] for row in attempts.read(d) if "code" in row]
        for n, d in directories.items()
    }
    shown = capsys.readouterr()
    print("killed", killed, "held", held, "codes", codes)
    assert "state-dump" not in shown.out + shown.err  # Ray's log of the dead node
    name = killed["run"]
    assert held[name][0].endswith(killed["node"])
    assert not held[name][-1].endswith(killed["node"])
    assert codes[name] == [None, 0]
    assert all(codes[n].count(0) == 1 and codes[n][-1] == 0 for n in codes)
    assert len({nodes for tries in held.values() for nodes in tries}) == 3

    ours, theirs = own_runs.from_runs(out), own_runs.from_runs(undisturbed)
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    for member in runs:
        assert results(directories[member.name]) == results(
            launch.run_directory(undisturbed, member)
        )
