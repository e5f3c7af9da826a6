"""One run on several processes: JAX's multi-controller runtime, started from the environment."""

from __future__ import annotations

import glob
import importlib.util
import os
import socket
import sys
import time

from fitting.errors import InputError, first_line

PATIENCE_S = 300
_REPLY_S = 10
_LAST_S = 2.0


def initialize(
    coordinator: str | None = None,
    process_count: int | None = None,
    process_id: int | None = None,
    timeout_s: int | None = None,
) -> None:
    """Joins the processes of a run; does nothing where there is only one.

    Call it before JAX is used.

    Without arguments the environment is used: `LADDER_COORDINATOR`, `LADDER_PROCESS_COUNT` and
    `LADDER_PROCESS_ID`; a Slurm step of several tasks; Open MPI; a TPU host, or a GKE pod with one.

    Args:
        coordinator: `HOST:PORT` of process 0.
        process_count: number of processes.
        process_id: index of this one, from 0.
        timeout_s: seconds to wait for the others; default `LADDER_JOIN_TIMEOUT`, or 300.

    Raises:
        InputError: only some of the arguments are given, or the others do not come in time.
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
                "`coordinator`, `process_count` and `process_id` go together: give all three"
            )
        if count == 1:
            return
        _join(coordinator, count, index, timeout)
    elif _several_processes():
        _join(None, None, None, timeout)


def leave(code: int) -> None:
    """Ends this process at once if it is one of several, which would wait for the others."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    if jax.process_index() == 0:
        time.sleep(_LAST_S)  # it holds the others' connections
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _join(coordinator: str | None, count: int | None, index: int | None, timeout: int) -> None:
    import jax

    if coordinator is not None and count is not None and index is not None:
        _meet(coordinator, count, index, timeout)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            local_device_ids=_local_devices() if coordinator is None else None,
            initialization_timeout=timeout,
        )
    except Exception as e:  # JAX's runtime's, or its cluster detection's
        raise InputError(
            f"the processes of this cluster do not find one another within {timeout} s "
            f"({first_line(e)}): give `coordinator`, `process_count` and `process_id`"
        ) from None


def _meet(coordinator: str, count: int, index: int, timeout: int) -> None:
    """Waits for all processes; JAX's runtime would abort if one were missing."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"`coordinator` {coordinator!r} is not HOST:PORT")
    if not 0 <= index < count:
        raise InputError(f"`process_id` {index} must lie in 0 to {count - 1}")
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
                try:
                    name = guest.recv(16)
                except OSError:  # no process of ours
                    name = b""
                if name.isdigit() and 0 < int(name) < count:
                    waiting[int(name)] = guest
                else:
                    guest.close()
        for guest in waiting.values():
            guest.sendall(b"go")
    except TimeoutError:
        late = [i for i in range(1, count) if i not in waiting]
        raise InputError(
            f"process {late[0]} of {count} did not come to {coordinator} within {timeout} s: "
            "start all of them with one `coordinator` and `process_count`"
        ) from None
    except OSError as e:
        raise InputError(
            f"`coordinator` {coordinator}: process 0 cannot listen there ({e.strerror}): name a "
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
                    f"nobody answers at `coordinator` {host}:{port} within {timeout} s "
                    f"({e.strerror or e}): start process 0 there"
                ) from None
        time.sleep(0.2)


def _several_processes() -> bool:
    slurm = (_number("SLURM_STEP_NUM_TASKS") or 1) > 1
    mpi = (_number("OMPI_COMM_WORLD_SIZE") or 1) > 1
    return slurm or mpi or _is_tpu_host()


def _is_tpu_host() -> bool:
    if not os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu"):
        return False
    if importlib.util.find_spec("libtpu") is None:
        return False
    names = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    chips = [*glob.glob("/dev/accel[0-9]*"), *glob.glob("/dev/vfio/[0-9]*")]
    return "," in names or (not names and bool(chips))


def _local_devices() -> list[int] | None:
    """A Slurm task that has its node for itself takes all its GPUs; JAX would give it one."""
    gpus = _number("SLURM_GPUS_ON_NODE")
    alone = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
    return list(range(gpus)) if gpus and alone else None


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise InputError(f"{name} {text!r} is not a whole number")
    return int(text)
