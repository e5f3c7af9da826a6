"""Runs as tasks of a Ray cluster, each with the CPUs, GPUs or TPU slice that it needs.

A TPU slice of several hosts takes one process per host.  Ray marks the first host of a slice with
the resource `TPU-<type>-head`, and all of them with labels of the slice and of their place in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fitting.errors import InputError, first_line
from ladder_jax.launch.child import Child, Cluster
from ladder_jax.launch.executor import Demands, Ended
from ladder_jax.launch.job import Job, JobResult
from ladder_jax.runtime.preemption import EXIT_CODE

_CONNECT_S = 10.0
_HEALTH_S = 60.0
_WORKER_ID = "ray.io/tpu-worker-id"
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns about a change of its defaults
}


class Ray:
    """Executor on a Ray cluster; see `executor.Executor`.

    Args:
        out: the experiment's directory, on a disk that all nodes share.
        address: address of the cluster: `auto` (this machine is one of its nodes) or `HOST:PORT`.
        demands: `cpu`, `gpu`, `memory` (bytes), `tpu` (a slice, as `v5p-128`) and custom resources;
            by default a run takes one CPU.

    Raises:
        InputError: Ray is not installed, or an amount is no number.
    """

    def __init__(self, out: Path, address: str = "auto", demands: Demands | None = None) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError:
            raise InputError("Ray is not installed: pip install 'ladder_jax[launch]'") from None
        self._ray: Any = ray
        self._out, self._address = out, address
        self._demands = demands or Demands({})
        for own in self._demands.by_size.values():
            _options(own)
        self._jobs: dict[Any, Job] = {}

    def __enter__(self) -> Ray:
        self._own = not self._ray.is_initialized()
        if self._own:
            _connect(self._ray, self._address)
        return self

    def __exit__(self, *raised: object) -> None:
        for ref in self._jobs:
            self._ray.cancel(ref, force=True)  # the child ends with the task's process
        if self._own:
            self._ray.shutdown()

    def submit(self, jobs: Sequence[Job]) -> None:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for job in jobs:
            wanted = self._demands.of(job.run)
            options = _options(wanted)
            if not any(_fits(options, has) for has in nodes):
                needed = " ".join(f"{k}={v}" for k, v in wanted.items())
                print(f"{job.run.name}: no node of the cluster has {needed}; it waits for one")
            child = Child.of(job, self._out, one_core=options == {"num_cpus": 1.0})
            task = _on_slice if "tpu" in wanted else _on_node
            # No retries by Ray: the grid restarts lost runs, and knows whether they make progress.
            ref = self._ray.remote(max_retries=0, **options)(task).remote(child)
            self._jobs[ref] = job

    def ended(self, timeout: float) -> list[Ended]:
        ready, _ = self._ray.wait(list(self._jobs), timeout=timeout)
        return [Ended(self._jobs.pop(ref), *self._result(ref)) for ref in ready]

    def notify(self) -> None:
        for ref in self._jobs:
            self._ray.cancel(ref)

    def _result(self, ref: Any) -> JobResult:
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.TaskCancelledError:
            return JobResult(EXIT_CODE)
        except errors.RayTaskError as e:
            return JobResult(1, str(e).strip().splitlines()[-1][:500])
        except errors.RayError as e:  # its worker, its node or the connection was lost
            return JobResult(None, f"{type(e).__name__} in Ray")


def _connect(ray: Any, address: str) -> None:
    """Connects to a cluster, without output of Ray.

    Raises:
        InputError: nothing answers, or the cluster has other versions of Ray or Python.
    """
    known = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = known.rpartition(":")
    if known and not (host and port.isdecimal()):
        raise InputError(f"`address` {known!r}: write auto or HOST:PORT")
    if known:
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        except OSError as e:
            raise InputError(f"no Ray cluster answers at {known} ({e.strerror or e})") from None
        _check_health(known)
    # Ray prints the log of a node that died even if `log_to_driver` is false.
    ray._private.worker.print_to_stdstream = lambda *args, **kwargs: None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError) as e:
        reason = first_line(e, 200)
        raise InputError(
            f"no Ray cluster at `address` {address} ({reason}); start one with ray start --head"
        ) from None


def _check_health(address: str) -> None:
    """Raises InputError if no Ray cluster listens there: `ray.init` would wait for minutes."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_HEALTH_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        raise InputError(f"what listens at {address} is not a healthy Ray cluster") from None


def _options(wanted: dict[str, str] | Any) -> dict[str, Any]:
    """Ray's options for a task."""
    amounts = dict(wanted) or {"cpu": "1"}
    options: dict[str, Any] = {"num_cpus": 0}
    custom: dict[str, float] = {}
    if "tpu" in amounts:
        custom[f"TPU-{amounts.pop('tpu')}-head"] = 1
    for kind, text in amounts.items():
        try:
            amount = float(text)
        except ValueError:
            raise InputError(f"`resources` {kind}={text}: write a number") from None
        if kind in ("cpu", "gpu"):
            options[f"num_{kind}s"] = amount
        elif kind == "memory":
            options[kind] = amount
        else:
            custom[kind] = amount
    return options | ({"resources": custom} if custom else {})


def _fits(options: dict[str, Any], node: dict[str, float]) -> bool:
    """Whether a node has, when idle, the resources that a task needs."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    needed = {names[k]: v for k, v in options.items() if k in names} | options.get("resources", {})
    return all(node.get(kind, 0) >= amount for kind, amount in needed.items())


def _on_node(child: Child) -> JobResult:
    """The Ray task of a run with one process."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    named = {"LADDER_NODE": f"{socket.gethostname()}/{node[:6]}"}
    return dataclasses.replace(child, environment={**child.environment, **named}).run()


def _on_slice(child: Child) -> JobResult:
    """The Ray task of a run on a TPU slice: on the first host, it starts a process on each."""
    import ray
    from ray.util import tpu
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = ray.get_runtime_context().get_node_id()
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    name = tpu.get_tpu_slice_name_from_node(nodes[own])
    hosts = tpu.get_tpu_nodes_for_slice(name) if name else [nodes[own]]
    hosts.sort(key=lambda node: int(node["Labels"].get(_WORKER_ID, 0)))
    coordinator = f"{ray.util.get_node_ip_address()}:{_free_port()}"
    refs = []
    for i, host in enumerate(hosts):
        part = dataclasses.replace(child, cluster=Cluster(coordinator, len(hosts), i))
        place = NodeAffinitySchedulingStrategy(host["NodeID"], soft=False)
        chips: Any = {"TPU": host["Resources"].get("TPU", 0)}
        task: Any = ray.remote(max_retries=0, num_cpus=0, resources=chips)(_on_node)
        refs.append(task.options(scheduling_strategy=place).remote(part))
    return _together(refs)


def _together(refs: list[Any]) -> JobResult:
    """The result of processes that share a run: if one fails or is lost, all are stopped."""
    import ray
    from ray.exceptions import RayError

    results, left = [], list(refs)
    try:
        while left:
            (ref,), left = ray.wait(left)
            results.append(ray.get(ref))
            if results[-1].code != 0:
                break
    except RayError as e:
        results.append(JobResult(None, f"a host of its slice: {type(e).__name__}"))
    finally:  # also when this task is cancelled: its processes save first
        with contextlib.suppress(RayError):
            for ref in refs:
                ray.cancel(ref)
            ray.wait(refs, num_returns=len(refs))
    return results[-1]


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("", 0))
        return server.getsockname()[1]
