"""One run on several processes: JAX's multi-controller runtime, started from the environment."""

from __future__ import annotations

import glob
import os
import socket
import time

from fitting.table import InputError

PATIENCE_S = 300
_REPLY_S = 10


def initialize(
    coordinator: str | None = None,
    process_count: int | None = None,
    process_id: int | None = None,
    timeout_s: int | None = None,
) -> None:
    """Joins the processes of a run; does nothing where there is only one.

    Call it before JAX is used.

    Without arguments the environment tells: `LADDER_COORDINATOR`, `LADDER_PROCESS_COUNT` and
    `LADDER_PROCESS_ID`; a Slurm step of several tasks; Open MPI; a TPU host, or a GKE pod with one.

    Args:
        coordinator: `HOST:PORT` of process 0.
        process_count: of processes.
        process_id: of this one, from 0.
        timeout_s: how long to wait for the others; default `LADDER_JOIN_TIMEOUT`, or 300.

    Raises:
        InputError: only a part of the arguments is given, or the others do not come in time.
    """
    env = os.environ
    coordinator = coordinator or env.get("LADDER_COORDINATOR")
    count = process_count if process_count is not None else _number("LADDER_PROCESS_COUNT")
    index = process_id if process_id is not None else _number("LADDER_PROCESS_ID")
    timeout = timeout_s or _number("LADDER_JOIN_TIMEOUT") or PATIENCE_S
    given = [value is not None for value in (coordinator, count, index)]
    if any(given):
        if not all(given):
            raise InputError(
                "--coordinator, --process-count and --process-id go together: give all three"
            )
        if count == 1:
            return
        _join(coordinator, count, index, timeout)
    elif _several_are_meant():
        _join(None, None, None, timeout)


def _join(coordinator: str | None, count: int | None, index: int | None, timeout: int) -> None:
    import jax

    if coordinator is not None and count is not None and index is not None:
        _meet(coordinator, count, index, timeout)
    try:
        jax.distributed.initialize(coordinator, count, index, initialization_timeout=timeout)
    except Exception as e:  # of JAX's runtime, or of what tells it of the cluster
        said = (str(e).strip().splitlines() or [type(e).__name__])[0][:160]
        raise InputError(
            f"the processes of this cluster do not find one another within {timeout} s ({said}): "
            "give --coordinator, --process-count and --process-id"
        ) from None


def _meet(coordinator: str, count: int, index: int, timeout: int) -> None:
    """Returns once all processes are there; JAX's runtime would abort where one is missing."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"--coordinator {coordinator!r} is not HOST:PORT")
    if not 0 <= index < count:
        raise InputError(f"--process-id {index} must lie in 0 to {count - 1}")
    deadline = time.monotonic() + timeout
    if index:
        _greet(host, int(port), index, deadline, timeout)
        return
    waiting: dict[int, socket.socket] = {}
    try:
        with socket.create_server(("", int(port))) as server:
            while len(waiting) < count - 1:
                server.settimeout(max(0.01, deadline - time.monotonic()))
                guest, _ = server.accept()
                guest.settimeout(_REPLY_S)
                name = guest.recv(16)
                if name.isdigit() and 0 < int(name) < count:
                    waiting[int(name)] = guest
        for guest in waiting.values():
            guest.sendall(b"go")
    except TimeoutError:
        late = [i for i in range(1, count) if i not in waiting]
        raise InputError(
            f"process {late[0]} of {count} did not come to {coordinator} within {timeout} s: "
            "start all of them with one --coordinator and --process-count"
        ) from None
    except OSError as e:
        raise InputError(
            f"--coordinator {coordinator}: process 0 cannot listen there ({e.strerror}): name a "
            "free port of this host"
        ) from None
    finally:
        for guest in waiting.values():
            guest.close()


def _greet(host: str, port: int, index: int, deadline: float, timeout: int) -> None:
    while True:
        left = deadline - time.monotonic()
        try:
            with socket.create_connection((host, port), timeout=max(0.01, min(left, 2))) as server:
                server.sendall(str(index).encode())
                server.settimeout(max(0.01, left))
                if server.recv(2) == b"go":
                    return
        except OSError as e:
            if left < 0:
                raise InputError(
                    f"nobody answers at --coordinator {host}:{port} within {timeout} s "
                    f"({e.strerror or e}): start process 0 there"
                ) from None
        time.sleep(0.2)


def _several_are_meant() -> bool:
    env = os.environ
    slurm = int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    mpi = int(env.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    names = env.get("TPU_WORKER_HOSTNAMES", "")
    tpu = "," in names or (
        not names and bool(glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*"))
    )
    return slurm or mpi or (tpu and env.get("JAX_PLATFORMS", "tpu").startswith("tpu"))


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise InputError(f"{name} {text!r} is not a whole number")
    return int(text)
